"""The weights to evaluate with, shown in place of those that are trained, and taken away again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from rheostat.core.transform import Hyper, Transform
from rheostat.optimizers.items import numbers_of

States = Mapping[Tensor, dict[str, Tensor]]


def show(groups: Sequence[dict[str, Any]], rules: Sequence[Transform], states: States) -> None:
    """Show the view of every rule that has one; the weights are parked in the state.

    A parameter that never stepped is its own view: weights may have been loaded since its buffers
    were made. After a reset its count says nothing of that.
    """
    for group, rule in zip(groups, rules, strict=True):
        views = [piece.view for piece in rule.pieces if piece.view is not None]
        if group["evaluating"] or not views:
            continue
        group["evaluating"] = True
        numbers = numbers_of(group, rule)
        for param in group["params"]:
            if state := states.get(param, {}):
                hyper = Hyper(**numbers, step=state["step"].item())
                state["parked"] = param.clone()
                if hyper.step or group["renewed"]:
                    working = state.get("master", cast("Tensor", param))
                    param.copy_(views[0](working, state, hyper))


def put_back(groups: Sequence[dict[str, Any]], states: States) -> None:
    """Put back the weights that are trained, to the bit."""
    for group in groups:
        if group["evaluating"]:
            group["evaluating"] = False
            for param in group["params"]:
                parked = states.get(param, {}).pop("parked", None)
                if parked is not None:
                    param.copy_(parked)
