"""From the parts of a recipe to what runs: transforms, policies, the optimizer on a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rheostat.core.errors import InputError, MachineError
from rheostat.core.hyper import arguments_of
from rheostat.core.registry import component
from rheostat.core.schedule import Origin
from rheostat.core.transform import Transform, chain, identity, named
from rheostat.optimizers.build import optimizer, scaled
from rheostat.optimizers.policy import Match, Policy
from rheostat.recipes.document import KeyPath
from rheostat.recipes.parts import LR, Line, Parts, Piece, Rule
from rheostat.recipes.schedule_data import blamed, live

if TYPE_CHECKING:
    from torch import nn

    from rheostat.optimizers.followed import Followed
    from rheostat.optimizers.loop import Optimizer


class PlacedError(InputError):
    """What a factory or a chain refuses, and the path of the part that it is about."""

    def __init__(self, path: KeyPath, message: str, code: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.code = code


class Served(NamedTuple):
    """One line of a recipe's policy as it runs: the match with its transform, the rule that it is
    made from, and for each primitive piece of the transform where in the recipe that stands."""

    match: Match
    rule: Rule
    places: tuple[KeyPath, ...]


def on_model(parts: Parts, model: nn.Module | Iterable[Any]) -> Optimizer:
    """The optimizer on a module, or on whatever torch.optim takes; another library's is its own
    object.

    Raises:
        InputError: a schedule that waits for its horizon, a parameter that the policy leaves out.
    """
    if is_foreign(parts):
        return cast("Optimizer", library_optimizer(parts, model).theirs)
    return optimizer(whole(parts), model, **parts.settings)


def to_run(parts: Parts, model: nn.Module) -> Optimizer | Followed:
    """The same with its schedules and counts at hand, as a run needs it. Raises as `on_model`."""
    return library_optimizer(parts, model) if is_foreign(parts) else on_model(parts, model)


def is_foreign(parts: Parts) -> bool:
    """Whether the recipe is of another library's optimizer."""
    alone = parts.rule.optimizer
    return alone is not None and "/" in alone.ref


def library_optimizer(
    parts: Parts, model: nn.Module | Iterable[Any], horizon: int | None = None
) -> Followed:
    """Another library's optimizer on a module, following its schedules; in training mode, as ours
    begin, where it has modes.

    Raises:
        PlacedError: the library refuses its arguments; a schedule that waits for its horizon, or
            is of a number that the optimizer keeps in no param group.
    """
    [piece] = parts.rule.pieces
    of = component(piece.ref, piece.kind)
    try:
        made: Followed = of.factory(**live(of, piece.values, horizon)).follow(model)
    except (InputError, MachineError) as error:
        raise placed(piece, error) from None
    if train := getattr(made.theirs, "train", None):
        train()
    return made


def whole(parts: Parts, horizon: int | None = None) -> Transform | Policy:
    """The rule of a recipe: one for all parameters, or a policy.

    `horizon` stands in for that of the run, where schedules wait for it.

    Raises:
        PlacedError: a factory or a chain refuses what it is given.
    """
    made = of_rule(parts.rule, horizon)
    if not parts.lines and isinstance(made, Transform):
        return _after(made, _first(parts, horizon), parts.rule)
    lines = tuple(line.match for line in lines_of(parts, horizon))
    return Policy(lines, origin=Origin("recipe", {"parts": parts}))


def lines_of(parts: Parts, horizon: int | None = None) -> list[Served]:
    """The lines of the recipe as a policy, the last for the rest. A recipe without a policy has
    one, for all parameters.

    Raises:
        PlacedError: as `whole` does.
    """
    if is_foreign(parts):
        [piece] = parts.rule.pieces
        return [Served(Match(_opaque(piece, horizon)), parts.rule, (_named_at(piece),))]
    found: list[tuple[Match, Rule]] = []
    for line in parts.lines:
        found += [(match, line.rule) for match in _matches(line, horizon)]
    rest = of_rule(parts.rule, horizon)
    last = rest.lines if isinstance(rest, Policy) else (Match(rest, optional=bool(found)),)
    found += [(match, parts.rule) for match in last]
    first = _first(parts, horizon)
    return [
        Served(
            replace(match, rule=_after(match.rule, first, rule)),
            rule,
            _places(match.rule, rule, parts.before, horizon),
        )
        for match, rule in found
    ]


def _opaque(piece: Piece, horizon: int | None) -> Transform:
    """What is known of another library's optimizer: its name and its numbers."""
    of = component(piece.ref, piece.kind)
    try:
        values = live(of, piece.values, horizon)
    except InputError as error:
        raise placed(piece, error) from None
    known = arguments_of(of.factory)
    numbers = {n: v for n, v in values.items() if known[n].number or isinstance(v, float)}
    return Transform(identity, hyperparameters=numbers, scaled=True, sparse=True, name=piece.ref)


def _places(
    made: Transform, rule: Rule, before: tuple[Piece, ...], horizon: int | None
) -> tuple[KeyPath, ...]:
    """For each primitive piece of a rule, and of what is before it, where it stands."""
    pieces = (*rule.before, *(() if rule.optimizer else rule.pieces))
    found = [p.path for p in (*before, *pieces) for _ in of_piece(p, horizon).pieces]
    whole = _named_at(rule.pieces[0]) if rule.optimizer else (*rule.path, LR.name)
    count = len(made.pieces) + sum(len(of_piece(p, horizon).pieces) for p in before)
    return tuple(found + [whole] * (count - len(found)))


def _named_at(piece: Piece) -> KeyPath:
    """Where the name of an optimizer stands."""
    return (*piece.path, piece.kind)


def _first(parts: Parts, horizon: int | None) -> list[Transform]:
    return [of_piece(piece, horizon) for piece in parts.before]


def of_rule(rule: Rule, horizon: int | None = None) -> Transform | Policy:
    """The transform of a rule, with its step size; a policy, where an optimizer is one."""
    first = [of_piece(piece, horizon) for piece in rule.before]
    if rule.optimizer:
        made = _made(rule.optimizer, horizon)
        if isinstance(made, Transform):
            return _after(scaled(made, None), first, rule)
        lines = (replace(line, rule=_after(line.rule, first, rule)) for line in made.lines)
        return replace(made, lines=tuple(lines))
    body = of_piece(rule.pieces[0], horizon)
    for piece in rule.pieces[1:]:
        body = _chained(piece.path, body, of_piece(piece, horizon))
    try:
        rate = None if rule.lr is None else _rate(rule, horizon)
        return _after(scaled(chain(body), rate), first, rule)
    except PlacedError:
        raise
    except InputError as error:
        raise _refused((*rule.path, LR.name), error) from None


def has_step_size(rule: Rule, horizon: int | None) -> bool:
    """Whether a piece of a chain multiplies by the learning rate."""
    return any(of_piece(piece, horizon).scaled for piece in rule.pieces)


def of_piece(piece: Piece, horizon: int | None = None) -> Transform:
    """The transform that a piece of a chain is."""
    made = _made(piece, horizon)
    if not isinstance(made, Transform):
        raise PlacedError(piece.path, f"{piece.ref} is no transform, and has no place in a chain")
    if not piece.named:
        return made
    try:
        return named(piece.named, made)
    except InputError as error:
        raise PlacedError(piece.path, str(error)) from None


def _made(piece: Piece, horizon: int | None) -> Transform | Policy:
    """What a component makes of its arguments."""
    of = component(piece.ref, piece.kind)
    try:
        return of.factory(**live(of, piece.values, horizon))
    except (InputError, MachineError) as error:
        raise placed(piece, error) from None


def placed(piece: Piece, error: InputError | MachineError) -> PlacedError:
    """What a factory refused: at the argument that it names, or else at the name of the piece."""
    if str(error).startswith("chain: "):  # of the rules inside
        return _refused(piece.path, error)
    where = blamed(piece.path, piece.values, str(error))
    if where == piece.path and piece.kind == "optimizer":
        where = _named_at(piece)
    return PlacedError(where, str(error))


def _rate(rule: Rule, horizon: int | None) -> Any:
    values = {LR.name: rule.lr}
    # The step size is an argument like that of any optimizer.
    return live(component("scale_by_learning_rate", "transform"), values, horizon)[LR.name]


def _after(made: Transform, first: list[Transform], rule: Rule) -> Transform:
    """What a rule makes with transforms before it; what is the same object in several rules
    measures over all of their parameters together."""
    if not first:
        return made
    where = (*rule.path, "optimizer" if rule.optimizer else "chain")
    return replace(_chained(where, *first, made), name=made.name)


def _chained(path: KeyPath, *transforms: Transform) -> Transform:
    """The chain; what it refuses is the fault of what stands at the path."""
    try:
        return chain(*transforms)
    except InputError as error:
        raise _refused(path, error) from None


def _refused(path: KeyPath, error: InputError | MachineError) -> PlacedError:
    """What a chain refused, in the words of recipes."""
    said = str(error).removeprefix("chain: ").replace("named('inner', …)", "named: inner")
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
