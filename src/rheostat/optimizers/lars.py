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
    Assumes: that a layer may change by a share of its norm, whatever its gradient; weights that
     start away from 0.
    Theory: O(1 / √T) to a stationary point with large batches, without momentum (You et al. 2020,
     arXiv:1904.00962).
    Practice: trains ResNet-50 with batches of 32,000 in a 5-epoch warm-up and polynomial decay; no
     help at small batches, nor for transformers.
    State: 4*m*n bytes for m × n, 4*n for n.
    Flops: about 8 an element, and two norms a parameter.
    Use: for convolutional networks at batches of thousands.
    Avoid: for norms and biases, which belong to sgd in a policy, and for transformers: use lamb.
    Recipe: {optimizer: lars, lr: {schedule: cosine, peak: 10.0, warmup: 20}}
    Tags: momentum, layerwise, large-batch, low-memory
    Source: You et al. 2017 (arXiv:1708.03888), Algorithm 1.
    lr: multiplies every layer's rate. Usual [0.1, 30] 1: more learns faster, until it diverges; in
     proportion to the batch.
    momentum: fraction of the running update kept each step; 0 keeps no buffer. Usual [0.8, 0.99]:
     higher is steadier, slower to turn.
    dampening: fraction of each new update left out of the running one. Usual [0, 0.9]: more makes
     steps smaller under momentum.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-3] gradient/weight: more keeps
     weights smaller, and shortens their steps.
    nesterov: look ahead along the running update. Usual False: True looks ahead, a little faster
     and less damped.
    trust_coefficient: the share of its norm by which a layer moves in one update at lr 1. Usual
     [1e-4, 1e-2] of ‖w‖: as lr, which it multiplies.
    """
    if nesterov and (not momentum or dampening):
        raise InputError("lars: nesterov=True needs momentum above 0 and dampening 0")
    return chain(
        scale_by_layer_rate(trust_coefficient, weight_decay),
        scale_by_learning_rate(lr),
        *([trace(momentum, dampening, nesterov)] if momentum else []),
    )
