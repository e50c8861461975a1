"""The recipe of an optimizer that was built in Python, from the marks that components leave.

A registered factory marks what it makes with its name and arguments, `chain`, `named` and the
policies mark what they put together; that is read back here. What nobody marked cannot be
written down.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError, MachineError
from rheostat.core.hyper import arguments_of
from rheostat.core.registry import component
from rheostat.core.schedule import Schedule
from rheostat.core.transform import Transform, named
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.policy import Match, Policy
from rheostat.recipes.grammar import SETTINGS
from rheostat.recipes.parts import Data, Parts
from rheostat.recipes.regime_keys import WATCHING


def recipe_of(optimizer: torch.optim.Optimizer) -> Data:
    """The recipe as data; see `Recipe.of`."""
    if not isinstance(optimizer, Optimizer):
        return _of_library(optimizer)
    origin = optimizer.rule(0).origin
    if origin is not None and origin.component == "line":
        made = _of_policy(origin.arguments["policy"])
    else:
        made = _of_groups(optimizer)
    return {**made, **_settings(optimizer)}


def _of_library(optimizer: torch.optim.Optimizer) -> Data:
    """Another library's optimizer, from what its groups say; a schedule of ours from its plan."""
    name = f"{type(optimizer).__module__.partition('.')[0]}/{type(optimizer).__name__}"
    try:
        of = component(name, "optimizer")
    except (InputError, MachineError) as error:
        raise InputError(
            f"Recipe.of: {type(optimizer).__name__} has no key here: {error}"
        ) from None
    groups = optimizer.param_groups
    if "initial_lr" in groups[0]:
        raise InputError(
            f"Recipe.of: a torch scheduler drives this {name}, and an optimizer does not tell "
            "which; rs.schedules.from_torch(scheduler) is what a recipe can hold"
        )
    found: Data = {}
    for key in arguments_of(of.factory):
        places = (groups[0], optimizer.defaults, vars(optimizer))
        held = next((place[key] for place in places if key in place), _NOWHERE)
        if held is _NOWHERE:
            raise InputError(f"Recipe.of: this {name} does not tell its {key}")
        if any(not _same(group.get(key, held), held) for group in groups):
            raise InputError(
                f"Recipe.of: the param groups of this {name} differ in {key}, and another "
                "library's optimizer has one group in a recipe"
            )
        found[key] = _plain(f"{name}: {key}", held)
    scheduled = json.loads(groups[0].get("plan", "{}"))
    if unwritten := [key for key, value in scheduled.items() if value == "a function"]:
        raise InputError(
            f"Recipe.of: {name}: {unwritten[0]}: a schedule made of a Python function cannot be "
            "written down; table(values=…) can"
        )
    return {"optimizer": of.ref, **found, **scheduled}


_NOWHERE = object()


def _settings(optimizer: Optimizer) -> Data:
    groups, options = optimizer.param_groups, optimizer.options
    for key in ("seed", "maximize"):
        if any(group[key] != groups[0][key] for group in groups):
            raise InputError(f"Recipe.of: param groups differ in {key}, which a recipe says once")
    found: Data = {
        "seed": groups[0]["seed"],
        "nonfinite": options.nonfinite,
        "accumulate": options.accumulate,
        "precision": options.precision,
        "mode": vars(optimizer)["_mode"],
        "maximize": groups[0]["maximize"],
    }
    return {key: value for key, value in found.items() if value != SETTINGS[key].default}


def _of_groups(optimizer: Optimizer) -> Data:
    """Param groups of one rule: lines by name, the last group the rest."""
    groups = optimizer.param_groups
    rules = [optimizer.rule(index) for index in range(len(groups))]
    if len(groups) > 1:
        _refuse_sharing(rules)
    lines: list[Data] = []
    for index, (group, rule) in enumerate(zip(groups, rules, strict=True)):
        held = {name: group[name] for name in rule.hyperparameters}
        now: Data = {**held, **optimizer.scheduled(index)}
        changed = {n: v for n, v in now.items() if not _same(v, rule.hyperparameters[n])}
        names = [glob.escape(name) for name in group["param_names"]]
        made = _with_overrides(_of_rule(rule), changed)
        lines.append({"match": {"name": names}, **made, "lr_factor": group["lr_factor"]})
    return _with_rest(lines, alone=len(groups) == 1 and groups[0]["lr_factor"] == 1.0)


def _of_policy(policy: Policy) -> Data:
    origin = policy.origin
    if origin is not None and origin.component == "recipe":
        parts: Parts = origin.arguments["parts"]
        beside = (*SETTINGS, *WATCHING)  # an optimizer has no regime
        return {key: v for key, v in parts.data().items() if key not in beside}
    if origin is not None and origin.component == "after":
        made = _of_policy(origin.arguments["policy"])
        before = [_piece(t) for t in _operands(origin.arguments["transforms"])]
        return {**made, "before": [*before, *made.get("before", [])]}
    if origin is not None:
        return {"optimizer": origin.component, **_plain_all(policy.name, origin.arguments)}
    _refuse_sharing([line.rule for line in policy.lines])
    return _with_rest([_line(line) for line in policy.lines], alone=False)


def _line(line: Match) -> Data:
    changed = {key: value for key, value in line.overrides.items() if key != "lr_factor"}
    match = {
        "role": list(line.role),
        "name": list(line.name),
        "min_dim": line.min_dim,
        "optional": line.optional,
    }
    made = _with_overrides(_of_rule(line.rule), changed)
    return {"match": match, **made, "lr_factor": line.overrides.get("lr_factor", 1.0)}


def _with_rest(lines: list[Data], *, alone: bool) -> Data:
    """The lines as a recipe: the last is the rule of the rest, where it claims whatever is left."""
    last = {k: v for k, v in lines[-1].items() if k not in ("match", "lr_factor")}
    if alone:
        return last
    match = cast("Data", lines[-1]["match"])
    claims_all = not any(match.get(key) for key in ("role", "min_dim", "optional", "name"))
    by_name = "role" not in match  # groups: together they claim everything there is
    if lines[-1]["lr_factor"] == 1.0 and (claims_all or by_name):
        lines = lines[:-1]
    return {**last, **({"policy": lines} if lines else {})}


def _refuse_sharing(rules: Sequence[Transform]) -> None:
    """Groups that share a rule which looks at all of its parameters are not lines of a recipe,
    each of which has a rule of its own."""
    for index, rule in enumerate(rules):
        looks = any(bool(piece.measure or piece.scalars or piece.search) for piece in rule.pieces)
        if looks and any(rule is other for other in rules[:index]):
            raise InputError(
                f"Recipe.of: several groups share {rule.name}, which measures all its parameters "
                "together; a line of a recipe has a rule of its own"
            )


def _of_rule(rule: Transform) -> Data:
    """`{optimizer: …}`, or `{chain: […], lr: …}`, with what comes before it."""
    pieces = _operands((rule,))
    last = pieces[-1]
    if _kind(last) == "optimizer":
        before = [_piece(piece) for piece in _spread(pieces[:-1])]
        return {**({"before": before} if before else {}), **_piece(last)}
    spread = _spread(pieces)
    made: Data = {"chain": [_piece(piece) for piece in spread]}
    # A transform alone keeps its own mark where the loop has closed it with a step size.
    closed = len(rule.pieces) > 1 and rule.pieces[-1].name == "scale_by_learning_rate"
    if not any(piece.scaled for piece in spread) or (spread[0] is rule and closed):
        made["lr"] = _plain("lr", rule.hyperparameters["lr"])
    return made


def _operands(transforms: Sequence[Transform]) -> list[Transform]:
    """What was chained, chains of chains taken apart."""
    found: list[Transform] = []
    for transform in transforms:
        origin = transform.origin
        if origin is not None and origin.component == "chain":
            found += _operands(origin.arguments["transforms"])
        elif origin is not None and origin.component == "named":
            inner = _operands((origin.arguments["transform"],))
            found += [named(origin.arguments["prefix"], each) for each in _spread(inner)]
        else:
            found.append(transform)
    return found


def _spread(transforms: Sequence[Transform]) -> list[Transform]:
    """The same with optimizers taken apart, which have no place within a chain."""
    found: list[Transform] = []
    for transform in transforms:
        found += transform.pieces if _kind(transform) == "optimizer" else [transform]
    return found


def _kind(transform: Transform) -> str:
    origin = transform.origin
    if origin is None:
        raise InputError(
            f"Recipe.of: no registered component made {transform.name!r}, so it cannot be written "
            "down; register what makes it: @rs.register('transform', …)"
        )
    return "named" if origin.component == "named" else component(origin.component).kind


def _piece(transform: Transform) -> Data:
    kind, origin = _kind(transform), transform.origin
    assert origin is not None
    if kind == "named":
        inner = _piece(origin.arguments["transform"])
        prefixes = (origin.arguments["prefix"], inner.get("named"))
        return {**inner, "named": ".".join(filter(None, prefixes))}
    return {kind: origin.component, **_plain_all(transform.name, origin.arguments)}


def _with_overrides(made: Data, changed: Mapping[str, Any]) -> Data:
    """The rule with what a group has in place of its hyperparameters."""
    for name, value in changed.items():
        holders = [part for part in (made, *made.get("chain", [])) if name in part]
        if len(holders) != 1:
            raise InputError(
                f"Recipe.of: a param group has a {name} of its own, which no argument of its rule "
                "is called; give it a rule of its own"
            )
        holders[0][name] = _plain(name, value)
    return made


def _plain_all(where: str, arguments: Mapping[str, Any]) -> Data:
    return {name: _plain(f"{where}: {name}", value) for name, value in arguments.items()}


def _plain(where: str, value: Any) -> Any:
    """An argument as a file would hold it."""
    if isinstance(value, Schedule):
        try:
            return value.written()
        except InputError as error:
            raise InputError(f"Recipe.of: {where}: {error}") from None
    if isinstance(value, Transform):
        return [_piece(piece) for piece in _spread(_operands((value,)))]
    if isinstance(value, Tensor):
        return value.item()
    if isinstance(value, tuple | list):
        return [_plain(where, part) for part in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: _plain(where, part) for key, part in items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"Recipe.of: {where}: a {type(value).__name__} cannot be written down")


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(two, Tensor):
        return float(one) == float(two)
    if isinstance(one, tuple) and isinstance(two, tuple):
        pairs = zip(cast("tuple[Any, ...]", one), cast("tuple[Any, ...]", two), strict=True)
        return all(_same(a, b) for a, b in pairs)
    return one is two if isinstance(one, Schedule) else bool(one == two)
