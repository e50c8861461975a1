"""LARS: layer-wise adaptive SGD for large batches."""

from __future__ import annotations

from rheostat.core.errors import InputError
from rheostat.core.hyper import Fraction, NonNegative, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.momentum import trace
from rheostat.transforms.scaling import scale_by_learning_rate
from rheostat.transforms.trust import scale_by_layer_rate


@register("optimizer", "lars")
def lars(
    lr: NonNegative = 1.0,
    momentum: Fraction = 0.9,
    dampening: UnitInterval = 0.0,
    weight_decay: NonNegative = 0.0,
    nesterov: bool = False,
    trust_coefficient: NonNegative = 1e-3,
) -> Transform:
    """LARS: momentum of gradients scaled, layer by layer, to a share of the norm of the weights.

    λ = trust_coefficient · ‖w‖ / (‖g‖ + weight_decay · ‖w‖),
    b ← momentum · b + (1 − dampening) · lr · λ · (g + weight_decay · w),  w ← w − b.

    Variant: as published: the step size is inside the momentum, and the two norms are added. λ is 1
    where ‖w‖ or the denominator is 0. No eps. A parameter tensor is a layer; biases and norms are
    usually given to sgd by a policy.
    Equals: optax.lars without decay (it takes the norm of g + weight_decay · w), and
    pytorch_optimizer.LARS for matrices at a constant lr (its lr is outside the momentum, it leaves
    out vectors, and its first update is damped), to float32 rounding.
    Source: You et al. 2017 (arXiv:1708.03888), Algorithm 1.
    lr: multiplies every layer's rate.
    momentum: fraction of the running update kept each step; 0 keeps no buffer.
    dampening: fraction of each new update left out of the running one.
    weight_decay: L2 coefficient, added to the gradient.
    nesterov: look ahead along the running update.
    trust_coefficient: the share of its norm by which a layer moves in one update at lr 1.
    """
    if nesterov and (not momentum or dampening):
        raise InputError("lars: nesterov=True needs momentum above 0 and dampening 0")
    return chain(
        scale_by_layer_rate(trust_coefficient, weight_decay),
        scale_by_learning_rate(lr),
        *([trace(momentum, dampening, nesterov)] if momentum else []),
    )
