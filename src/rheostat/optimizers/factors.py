"""The factors by which a regime bends what the plan says of hyperparameters.

They lie in the param groups under "factors", by name, and are saved with them. A group goes on
showing the plan's values; a rule sees them multiplied, so that schedule and regime never fight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from rheostat.core.controller import scaled
from rheostat.optimizers.numbers import Number


def under_factors(
    numbers: dict[str, Any],
    factors: Mapping[str, float],
    cell: Callable[[str, float], Number] | None = None,
) -> dict[str, Any]:
    """A rule's numbers under a group's factors; "momentum" is its own, or the first of its betas.

    `cell` makes a number of a factor where numbers live on a device.
    """
    for name, factor in factors.items():
        known = factor if cell is None else cell(name, factor)
        if name in numbers:
            numbers[name] = _scaled(name, numbers[name], known)
        elif name == "momentum" and "betas" in numbers:
            first, *rest = cast("tuple[Any, ...]", numbers["betas"])
            numbers["betas"] = (_scaled(name, first, known), *rest)
    return numbers


def _scaled(name: str, value: Any, factor: float | Number) -> Any:
    if not isinstance(factor, Number):
        return scaled(name, value, factor)
    if scaled(name, 1.0, 2.0) != 1.0:
        return value * factor
    # A momentum or a beta, of which 1 − β is scaled; on a device nobody can look whether it is
    # negative then.
    moved = 1.0 - (1.0 - value) * factor
    return moved.apply("relu", torch.relu, moved)
