"""Constraints: the nearest allowed weights, taken after the parameter has moved.

They hold after every step, whatever rule moved it: exactly for float32 and float64 weights. A
half-precision weight is rounded to its own grid after them, under every `precision`, and may then
lie beyond a bound by that rounding (box(−0.05, 0.05) leaves 0.05005 in bfloat16); under "master" it
is the float32 copy for which they hold exactly. Where several follow each other, the last one
holds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform, identity
from rheostat.transforms.norms import unit_norm as norm_of_units


@register("transform", "non_negative")
def non_negative() -> Transform:
    """No weight below zero: w ← max(w, 0)."""

    def after(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        return param.clamp(min=0.0)

    return Transform(identity, scope="element", after=after)


@register("transform", "box")
def box(lower: float = -1.0, upper: float = 1.0) -> Transform:
    """Every weight within [lower, upper].

    lower: least weight.
    upper: largest weight.
    """
    if isinstance(lower, float) and isinstance(upper, float) and lower > upper:
        raise InputError(f"box: lower={lower} is above upper={upper}; swap them")

    def after(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        return param.clamp(min=hyper.lower, max=hyper.upper)

    return Transform(identity, scope="element", after=after)


@register("transform", "unit_norm")
def unit_norm(dim: int | None = None) -> Transform:
    """Weights of norm 1: w ← w / ‖w‖₂; what is all zeros stays so.

    dim: each index of this dimension is normalised by itself (0: each output of a linear layer, 1:
        each input); None normalises a parameter whole. Vectors always are.
    """

    def after(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        size = norm_of_units(param, dim)
        return param / (size + (size == 0))

    return Transform(identity, scope="tensor", after=after)


@register("transform", "max_norm")
def max_norm(radius: NonNegative = 1.0, dim: int | None = None) -> Transform:
    """Weights of norm at most `radius`: w ← w · min(1, radius / ‖w‖₂).

    Source: Srivastava et al. 2014 (JMLR 15), with dim=0.
    radius: the largest norm.
    dim: each index of this dimension is limited by itself; None limits a parameter whole. Vectors
        always are.
    """

    def after(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        size = norm_of_units(param, dim)
        return param * torch.clamp(hyper.radius / (size + (size == 0)), max=1.0)

    return Transform(identity, scope="tensor", after=after)
