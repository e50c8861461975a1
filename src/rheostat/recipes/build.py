"""From the parts of a recipe to what runs: transforms, policies, the optimizer on a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rheostat.core.errors import InputError, MachineError
from rheostat.core.registry import component
from rheostat.core.schedule import Origin
from rheostat.core.transform import Transform, chain, named
from rheostat.optimizers.build import optimizer, scaled
from rheostat.optimizers.policy import Match, Policy
from rheostat.recipes.document import KeyPath
from rheostat.recipes.parts import LR, Line, Parts, Piece, Rule
from rheostat.recipes.reader import live

if TYPE_CHECKING:
    from torch import nn

    from rheostat.optimizers.loop import Optimizer


class PlacedError(InputError):
    """What a factory or a chain refuses, and the path of the part that it is about."""

    def __init__(self, path: KeyPath, message: str, code: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.code = code


def on_model(parts: Parts, model: nn.Module | Iterable[Any]) -> Optimizer:
    """The optimizer on a module, or on whatever torch.optim takes.

    Raises:
        InputError: a schedule that waits for its horizon, a parameter that the policy leaves out.
    """
    alone = parts.rule.optimizer if is_foreign(parts) else None
    if alone is not None:
        raise InputError(
            f"{alone.ref} is another library's, and runs in its own loop; "
            f"rs.optimizer({alone.ref!r}, model, …) makes it, and a recipe checks and records it"
        )
    return optimizer(whole(parts), model, **parts.settings)


def is_foreign(parts: Parts) -> bool:
    """Whether the recipe is of another library's optimizer, and of nothing else."""
    alone = parts.rule.optimizer
    return alone is not None and "/" in alone.ref and not (parts.lines or parts.before)


def whole(parts: Parts, horizon: int | None = None) -> Transform | Policy:
    """The rule of a recipe: one for all parameters, or a policy.

    `horizon` stands in for that of the run, where schedules wait for it.

    Raises:
        PlacedError: a factory or a chain refuses what it is given.
    """
    made = of_rule(parts.rule, horizon)
    if not parts.lines and isinstance(made, Transform):
        return _after(made, _first(parts, horizon), parts.rule.path)
    lines = tuple(match for match, _ in lines_of(parts, horizon))
    return Policy(lines, origin=Origin("recipe", {"parts": parts}))


def lines_of(parts: Parts, horizon: int | None = None) -> list[tuple[Match, Rule]]:
    """The lines of the recipe as a policy, the last for the rest, each with the rule that it comes
    from. A recipe without a policy has one, for all parameters.

    Raises:
        PlacedError: as `whole` does.
    """
    found: list[tuple[Match, Rule]] = []
    for line in parts.lines:
        found += [(match, line.rule) for match in _matches(line, horizon)]
    rest = of_rule(parts.rule, horizon)
    last = rest.lines if isinstance(rest, Policy) else (Match(rest, optional=bool(found)),)
    found += [(match, parts.rule) for match in last]
    first = _first(parts, horizon)
    if not first:
        return found
    return [
        (replace(match, rule=_after(match.rule, first, rule.path)), rule) for match, rule in found
    ]


def _first(parts: Parts, horizon: int | None) -> list[Transform | Policy]:
    return [of_piece(piece, horizon) for piece in parts.before]


def of_rule(rule: Rule, horizon: int | None = None) -> Transform | Policy:
    """The transform of a rule, with its step size; a policy, where an optimizer is one."""
    first = [of_piece(piece, horizon) for piece in rule.before]
    pieces = [of_piece(piece, horizon) for piece in rule.pieces]
    if rule.optimizer:
        made = pieces[0]
        if isinstance(made, Transform):
            return _after(scaled(made, None), first, rule.path)
        lines = (replace(line, rule=_after(line.rule, first, rule.path)) for line in made.lines)
        return replace(made, lines=tuple(lines))
    transforms = [piece for piece in pieces if isinstance(piece, Transform)]
    try:
        body = chain(*transforms)
        rate = None if rule.lr is None else _rate(rule, horizon)
        return _after(scaled(body, rate), first, rule.path)
    except PlacedError:
        raise
    except InputError as error:
        raise _refused(rule.path, error) from None


def has_step_size(rule: Rule, horizon: int | None) -> bool:
    """Whether a piece of a chain multiplies by the learning rate."""
    made = [of_piece(piece, horizon) for piece in rule.pieces]
    return any(isinstance(piece, Transform) and piece.scaled for piece in made)


def of_piece(piece: Piece, horizon: int | None = None) -> Transform | Policy:
    """What a component makes of its arguments."""
    of = component(piece.ref, piece.kind)
    try:
        made = of.factory(**live(of, piece.values, horizon))
        if piece.named and isinstance(made, Transform):
            made = named(piece.named, made)
    except (InputError, MachineError) as error:
        raise PlacedError(piece.path, str(error)) from None
    if not isinstance(made, Transform | Policy):
        raise PlacedError(
            piece.path,
            f"{of.ref} is no chain of transforms, so it can neither follow others nor serve a line "
            "of a policy; use it alone",
        )
    return made


def _rate(rule: Rule, horizon: int | None) -> Any:
    values = {LR.name: rule.lr}
    # The step size is an argument like that of any optimizer.
    return live(component("scale_by_learning_rate", "transform"), values, horizon)[LR.name]


def _after(rule: Transform, first: list[Any], path: KeyPath) -> Transform:
    """The rule with transforms before it; what is the same object in several rules measures over
    all of their parameters together."""
    if not first:
        return rule
    try:
        return replace(chain(*first, rule), name=rule.name)
    except InputError as error:
        raise _refused(path, error) from None


def _refused(path: KeyPath, error: InputError) -> PlacedError:
    """What a chain refused, in the words of recipes."""
    said = str(error).replace("named('inner', …)", "named: inner")
    owned = "step size of its own" in said or "declares the hyperparameter" in said
    return PlacedError(path, said, "RH008" if owned else "")


def _matches(line: Line, horizon: int | None) -> list[Match]:
    """The lines of a policy that a line of a recipe stands for: several, where its optimizer is a
    policy itself."""
    rule = of_rule(line.rule, horizon)
    role, name = tuple(line.match["role"]), tuple(line.match["name"])
    factor = {} if line.lr_factor == 1.0 else {"lr_factor": line.lr_factor}
    if isinstance(rule, Transform):
        return [Match(rule, role, name, line.match["min_dim"], line.match["optional"], factor)]
    found: list[Match] = []
    for inner in rule.lines:
        if name and inner.name:
            raise PlacedError(
                line.path,
                f"{rule.name} chooses by name within this line, which does so too; use roles here",
            )
        if role and inner.role and not set(role) & set(inner.role):
            continue
        both = tuple(r for r in role if not inner.role or r in inner.role) or inner.role
        found.append(
            replace(
                inner,
                role=both,
                name=name or inner.name,
                min_dim=max(line.match["min_dim"], inner.min_dim),
                optional=True,
                overrides={**inner.overrides, **factor},
            )
        )
    return found
