"""What a param group is given: held against its rule, and against what is loaded over it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any, cast

from torch import Tensor

from rheostat.core.errors import InputError, RheostatWarning, nearest
from rheostat.core.hyper import Argument, NonNegative, arguments_of, check_argument
from rheostat.core.registry import component
from rheostat.core.transform import Transform
from rheostat.optimizers.scheduled import has_schedule
from rheostat.optimizers.state import LABELS, SHARED, is_label
from rheostat.transforms.norms import check_dim
from rheostat.transforms.orthogonal import check_split

_LOOPS = {
    "lr_factor": Argument("lr_factor", NonNegative),
    "maximize": Argument("maximize", bool),
    "seed": Argument("seed", int),
}
"""The group keys of the loop's own that are for users."""

_SPLITTING = ("orthogonalize", "normalize_neurons")
"""Pieces with an argument `split`: proportions of a parameter's rows."""
_BY_DIMENSION = ("unit_norm", "max_norm")
"""Pieces with an argument `dim`: a dimension of the parameter."""


def check_group(index: int, rule: Transform, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a param group is given, as the signatures of its rule and of its pieces take it.

    Raises InputError for a key that is neither a hyperparameter of the rule nor a label, a wrong
    type, a number or a schedule out of range.
    """
    known = {**SHARED, **rule.hyperparameters, **rule.scalars}
    signature = _signature(rule)
    where = f"param group {index}"
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known and key not in LABELS:
            near = nearest(key, rule.hyperparameters)
            raise InputError(f"{where}: unknown hyperparameter {key!r}; {near}")
        checked[key] = check_argument(signature[key], value, where) if key in signature else value
    _check_factor(where, rule, checked.get("lr_factor", 1.0))
    return checked


def _check_factor(where: str, rule: Transform, factor: Any) -> None:
    """Refuse a factor of a learning rate that the rule has not, or has under another name."""
    if "lr" not in rule.hyperparameters and factor != 1.0:
        others = [key for key in rule.hyperparameters if key.endswith(".lr")]
        instead = f"write to {' and '.join(others)}" if others else "leave it out"
        raise InputError(
            f"{where}: lr_factor={factor!r}: {rule.name} has no lr to multiply; {instead}"
        )


def is_share(rule: Transform, hyperparameter: str) -> bool:
    """Whether the signatures of a rule and of its pieces give it the range [0, 1], both ends in
    it, as that of a blend's weight does."""
    argument = _signature(rule).get(hyperparameter)
    return argument is not None and argument.scalar and argument.interval == (0.0, 1.0)


def _signature(rule: Transform) -> dict[str, Argument]:
    """What may be in a group with this rule, as far as it is known: by key."""
    found: dict[str, Argument] = {}
    for one in (*rule.pieces, rule):  # the rule's own last: it says most
        if one.origin is not None and "@" in one.origin.component:
            found |= arguments_of(component(one.origin.component).factory)
    return {key: found[key] for key in rule.hyperparameters if key in found} | _LOOPS


def check_saved(rules: Sequence[Transform], groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse saved numbers that no group with these rules could be given. Raises InputError."""
    for index, (rule, saved) in enumerate(zip(rules, groups, strict=True)):
        for key, argument in _signature(rule).items():
            check_argument(argument, saved[key], f"param group {index} of the saved state")


class Written:
    """Looks at what is written into a param group between steps: only at what is new.

    What schedules own is not for it; whoever runs them looks at that.
    """

    def __init__(self, rule: Transform, group: Mapping[str, Any], owned: Iterable[str]) -> None:
        arguments = _signature(rule)
        others = {*owned, *rule.scalars, *(SHARED.keys() - _LOOPS.keys()), "params", "param_names"}
        self._arguments = {key: arguments.get(key) for key in group if key not in others}
        self._seen = [group[key] for key in self._arguments]
        self._rule = rule
        self._made = self._keys = frozenset(group)

    def check(self, index: int, group: Mapping[str, Any]) -> None:
        """Refuse a value that is written to the group and is out of its range, or a schedule; a
        hyperparameter that its rule has not."""
        if group.keys() != self._keys:  # pyright: ignore[reportUnnecessaryComparison]
            self._check_keys(index, group)
        now = [*map(group.__getitem__, self._arguments)]
        if all(map(is_, now, self._seen)):
            return
        for (key, argument), value, seen in zip(
            self._arguments.items(), now, self._seen, strict=True
        ):
            if value is seen:
                continue
            if has_schedule(value):
                raise InputError(
                    f"{key} of param group {index}: {value!r} was written to it; schedules are "
                    "given when the optimizer is made"
                )
            # What an accelerator holds, the step does not wait for.
            elsewhere = isinstance(value, Tensor) and not value.is_cpu
            if argument is not None and not elsewhere and not _plain(argument, value):
                check_argument(argument, value, f"param group {index}")
            if key == "lr_factor":
                _check_factor(f"param group {index}", self._rule, value)
        self._seen = now

    def _check_keys(self, index: int, group: Mapping[str, Any]) -> None:
        # A rule without any number stands for another library's, whose keys nobody here knows.
        known = self._rule.hyperparameters
        for key in group.keys() ^ self._made if known else ():
            if is_label(key, group):
                continue
            if key in self._made:
                raise InputError(f"param group {index}: {key!r} was taken out of it; put it back")
            near = nearest(key, {*self._rule.hyperparameters, *_LOOPS})
            raise InputError(
                f"param group {index}: {key!r} was written to it, which {self._rule.name} does not "
                f"have; {near}"
            )
        self._keys = frozenset(group)


def _plain(argument: Argument, value: Any) -> bool:
    """Whether it is a single number in its range: then it needs no longer look."""
    low, high = argument.interval
    return argument.scalar and type(value) is float and low <= value <= high


def check_shapes(rule: Transform, params: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse, with the parameter's name, rows that a piece is asked to split and that it cannot,
    and a dimension that the parameter has not."""
    known = [(p.name, p.origin.arguments) for p in rule.pieces if p.origin is not None]
    for name, param in params:
        rows = param.shape[0] if param.ndim else 1
        for piece, arguments in known:
            try:
                if piece in _SPLITTING and arguments.get("split"):
                    check_split(arguments["split"], rows)
                if piece in _BY_DIMENSION:
                    check_dim(arguments.get("dim"), param)
            except InputError as error:
                where = name if piece in _SPLITTING else f"{name}: {piece}"
                raise InputError(f"{where}: {error}") from None


_BUILT_IN = "built in"
"""The key of whole numbers among the numbers given: no hyperparameter has a name with a space."""


def numbers_given(rule: Transform, group: Mapping[str, Any]) -> str:
    """The plain values that a group is made with, as JSON: it stays when they are written over, and
    is saved beside them."""
    names = (*rule.hyperparameters, "lr_factor", "maximize", "seed")
    plain = {name: group[name] for name in names if not has_schedule(group[name])}
    built: dict[str, Any] = {}
    for name, value in _built_into(rule):
        same = sum(known.partition(" ")[0] == name for known in built)
        built[f"{name} ({same + 1})" if same else name] = value
    return json.dumps({**plain, **({_BUILT_IN: built} if built else {})}, default=float)


def _built_into(rule: Transform, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The whole numbers that a rule and what it is made of were called with, or None in the place
    of one: counts of steps, sizes. They are no hyperparameters, so no group holds them."""
    called: Mapping[str, Any] = rule.origin.arguments if rule.origin is not None else {}
    for name, value in called.items():
        if isinstance(value, Transform):
            yield from _built_into(value, f"{prefix}{called.get('prefix', name)}.")
        elif name == "transforms":
            for one in cast("Sequence[Transform]", value):
                yield from _built_into(one, prefix)
        elif name not in rule.hyperparameters and _is_whole(value):
            yield f"{prefix}{rule.name}.{name}", value


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number, several of them, or none."""
    if isinstance(value, tuple | list):
        return all(map(_is_whole, cast("Sequence[Any]", value)))
    return value is None or type(value) is int


def warn_of_other_numbers(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Warn where a state that is loaded (second) has other numbers than this optimizer was made
    with (first), because it was made with others; not where they only moved since.

    Whole numbers that are built into a rule stay what they are: like the rest of it they say how
    training goes on. They are no reason to refuse a state whose buffers fit.

    Warns:
        RheostatWarning: with all of them.
    """
    moved: list[str] = []
    stayed: list[str] = []
    for index, (mine, saved) in enumerate(pairs):
        here, there = json.loads(mine["given"]), json.loads(saved["given"])
        built, other = here.pop(_BUILT_IN, {}), there.pop(_BUILT_IN, {})
        moved += [
            f"{name} {_short(saved[name])} of group {index} (made with {_short(value)})"
            for name, value in here.items()
            if there.get(name, value) != value and _short(saved[name]) != _short(mine[name])
        ]
        stayed += [
            f"{name} {_short(value)} of group {index} (saved with {_short(other[name])})"
            for name, value in built.items()
            if other.get(name, value) != value
        ]
    told: list[str] = []
    if moved:
        told.append(
            "the saved numbers go on in place of those that this optimizer was made with: "
            f"{', '.join(moved)}; write to param_groups after loading to change them"
        )
    if stayed:
        told.append(
            f"what is built into this optimizer stays: {', '.join(stayed)}; make it with the saved "
            "number to go on as before"
        )
    if told:
        warnings.warn(f"load_state_dict: {'; and '.join(told)}", RheostatWarning, stacklevel=3)


def _short(value: Any) -> str:
    return json.dumps(value, default=float)
