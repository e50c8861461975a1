"""A batch that grows in mid-training: more gradients are averaged for an update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Transform
from rheostat.optimizers.accumulating import check_average
from rheostat.optimizers.items import LOOPS_OWN, Options


def grown(
    options: Options, rules: Sequence[Transform], groups: Sequence[dict[str, Any]], factor: float
) -> Options:
    """The options with `factor` times as many gradients as `accumulate` says; the groups have it
    too, so that it is saved.

    Raises:
        InputError: that is no whole number of gradients, an average is begun already, or a rule
            takes the gradient elsewhere.
    """
    if not isinstance(factor, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"grow: factor={factor!r}: should be a number, such as 2")
    count = options.accumulate * factor
    if not math.isfinite(count) or round(count) < 1 or not math.isclose(count, round(count)):
        raise InputError(f"grow: {count:g} gradients for an update: should be a whole number")
    if groups[0]["phase"]:
        raise InputError("grow: an average is begun; grow between two updates")
    made = replace(options, growth=float(factor))
    for rule in rules:
        check_average(rule, made)
    for group in groups:
        group["growth"] = float(factor)
    return made


def grow_state(options: Options, states: Mapping[Tensor, dict[str, Tensor]]) -> None:
    """Give each parameter the loop's buffers under these options, in the order of a new state."""
    for param, state in states.items():
        had = {name: state.pop(name) for name in LOOPS_OWN if name in state}
        for name, buffer in options.buffers(param).items():
            state[name] = had[name] if name in had else buffer.make(param)


def growth_in(saved: object) -> float:
    """By how much a saved state has its batch grown. Raises InputError where it is no optimizer's
    state."""
    if not (isinstance(saved, Mapping) and {"param_groups", "state"} <= saved.keys()):
        raise InputError(
            "what is loaded is no optimizer's state: it has not 'param_groups' and 'state', as "
            "state_dict() gives them"
        )
    groups = cast("Mapping[str, Any]", saved)["param_groups"]
    growth = groups[0].get("growth", 1.0) if groups else 1.0
    if not isinstance(growth, int | float):
        raise InputError(f"the saved state has growth={growth!r}, which should be a number")
    return growth
