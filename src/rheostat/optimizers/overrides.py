"""What a param group is given, held against its rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rheostat.core.errors import InputError, nearest
from rheostat.core.hyper import Argument, arguments_of, check_argument
from rheostat.core.registry import component
from rheostat.core.transform import Transform
from rheostat.optimizers.state import LABELS, SHARED


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
