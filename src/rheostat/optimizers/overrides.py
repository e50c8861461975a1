"""What a param group is given: held against its rule, and against what is loaded over it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from rheostat.core.errors import InputError, RheostatWarning, nearest
from rheostat.core.hyper import Argument, arguments_of, check_argument
from rheostat.core.registry import component
from rheostat.core.transform import Transform
from rheostat.optimizers.scheduled import has_schedule
from rheostat.optimizers.state import LABELS, SHARED
from rheostat.transforms.orthogonal import check_split


_SPLITTING = ("orthogonalize", "normalize_neurons")
"""Pieces with an argument `split`: proportions of a parameter's rows."""


def check_group(index: int, rule: Transform, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a param group is given, as the signatures of its rule and of its pieces take it.

    Raises InputError for a key that is neither a hyperparameter of the rule nor a label, a wrong
    type, a number or a schedule out of range.
    """
    known = {**SHARED, **rule.hyperparameters, **rule.scalars}
    signature: dict[str, Argument] = {}
    for one in (*rule.pieces, rule):  # the rule's own last: it says most
        if one.origin is not None and "@" in one.origin.component:
            signature |= arguments_of(component(one.origin.component).factory)
    where = f"param group {index}"
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known and key not in LABELS:
            near = nearest(key, rule.hyperparameters)
            raise InputError(f"{where}: unknown hyperparameter {key!r}; {near}")
        hyper = key in rule.hyperparameters and key in signature
        checked[key] = check_argument(signature[key], value, where) if hyper else value
    return checked


def check_shapes(rule: Transform, params: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse, with the parameter's name, rows that a piece is asked to split and that it cannot."""
    known = [p.origin for p in rule.pieces if p.origin and p.name in _SPLITTING]
    for split in filter(None, (origin.arguments["split"] for origin in known)):
        for name, param in params:
            try:
                check_split(split, param.shape[0] if param.ndim else 1)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None


def numbers_given(rule: Transform, group: Mapping[str, Any]) -> str:
    """The plain values that a group is made with, as JSON: it stays when they are written over, and
    is saved beside them."""
    names = (*rule.hyperparameters, "lr_factor", "maximize", "seed")
    plain = {name: group[name] for name in names if not has_schedule(group[name])}
    return json.dumps(plain, default=float)


def warn_of_other_numbers(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Warn where a state that is loaded (second) has other numbers than this optimizer was made
    with (first), because it was made with others; not where they only moved since.

    Warns:
        RheostatWarning: with all of them.
    """
    told: list[str] = []
    for index, (mine, saved) in enumerate(pairs):
        here, there = json.loads(mine["given"]), json.loads(saved["given"])
        told += [
            f"{name} {_short(saved[name])} of group {index} (made with {_short(value)})"
            for name, value in here.items()
            if there.get(name, value) != value and _short(saved[name]) != _short(mine[name])
        ]
    if told:
        warnings.warn(
            f"load_state_dict: the saved numbers go on in place of those that this optimizer was "
            f"made with: {', '.join(told)}; write to param_groups after loading to change them",
            RheostatWarning,
            stacklevel=3,
        )


def _short(value: Any) -> str:
    return json.dumps(value, default=float)
