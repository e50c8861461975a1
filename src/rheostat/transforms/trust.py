"""Trust ratios: the update of a layer in proportion to the norm of its weights.

A layer is a parameter tensor. Where a norm of 0 leaves a ratio undefined it is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform


@register("transform", "scale_by_trust_ratio")
def scale_by_trust_ratio() -> Transform:
    """Give the update the norm of the weights: u ← ‖w‖ / ‖u‖ · u; as it is where either norm is 0.

    Source: You et al. 2020 (arXiv:1904.00962), Algorithm 2, with φ the identity.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        weights, length = _norm(param.to(u.dtype)), _norm(u)
        return u * torch.where((weights > 0) & (length > 0), weights / length, 1.0)

    return Transform(update, scope="whole")


def _norm(x: Tensor) -> Tensor:
    return x.square().sum().sqrt()


@register("transform", "scale_by_layer_rate")
def scale_by_layer_rate(
    trust_coefficient: NonNegative = 1e-3, weight_decay: NonNegative = 0.0
) -> Transform:
    """LARS's local rate: u ← λ · (u + weight_decay · w), with
    λ = trust_coefficient · ‖w‖ / (‖u‖ + weight_decay · ‖w‖), or 1 where ‖w‖ or the divisor is 0.

    Source: You et al. 2017 (arXiv:1708.03888), equation 6 and Algorithm 1.
    trust_coefficient: share of the norm of the weights that a step is long.
    weight_decay: share of the weights that is added.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        weights = _norm(param.to(u.dtype))
        denominator = _norm(u) + hyper.weight_decay * weights
        rate = hyper.trust_coefficient * weights / denominator
        rate = torch.where((weights > 0) & (denominator > 0), rate, 1.0)
        return (u + hyper.weight_decay * param) * rate

    return Transform(update, scope="whole")
