"""Stochastic gradient descent."""

from __future__ import annotations

from rheostat.core.errors import InputError
from rheostat.core.hyper import Fraction, NonNegative, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.momentum import trace
from rheostat.transforms.scaling import scale_by_learning_rate
from rheostat.transforms.sparse import add_decayed_weights_if_any


@register("optimizer", "sgd")
def sgd(
    lr: NonNegative = 1e-3,
    momentum: Fraction = 0.0,
    dampening: UnitInterval = 0.0,
    weight_decay: NonNegative = 0.0,
    nesterov: bool = False,
) -> Transform:
    """Stochastic gradient descent with optional (Nesterov) momentum.

    b ← momentum · b + (1 − dampening) · (g + weight_decay · w),  w ← w − lr · b.

    Variant: momentum and L2 decay as in torch; the momentum buffer is not scaled by lr. Takes
     sparse gradients where both are 0.
    Equals: torch.optim.SGD (same defaults), to float32 rounding.
    Assumes: gradients of similar scale in all layers, as normalised convolutions have.
    Theory: O(1 / √T) to a stationary point, O(1 / T) where strongly convex, with falling steps;
     momentum does not better the rate under noise.
    Practice: the best final accuracy for convolutional networks at a tuned lr, momentum 0.9 and a
     falling schedule; slow on transformers, whose layers differ in scale.
    State: 0*m*n bytes for m × n, 0*n for n; momentum keeps 4 an element.
    Flops: 2 an element, 4 with momentum.
    Use: for convolutional networks, convex models and where state must be nothing.
    Avoid: for transformers, and where the lr cannot be tuned.
    Recipe: {optimizer: sgd, lr: {schedule: cosine, peak: 0.1, warmup: 20}, momentum: 0.9}
    Tags: momentum, nesterov, low-memory
    Source: Robbins & Monro 1951; momentum as in Sutskever et al. 2013.
    lr: step size, in units of weight per unit of gradient. Usual [1e-3, 1] weight/gradient: more
     learns faster, until it diverges.
    momentum: fraction of the running update kept each step; 0 keeps no buffer, and no such key in
     the groups: a scheduler that cycles it needs one above 0 here. Usual [0, 0.99]: higher is
     steadier, makes steps longer, and turns more slowly.
    dampening: fraction of each new gradient left out of the running update. Usual [0, 0.9]: more
     makes steps smaller under momentum.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    nesterov: look ahead along the running update. Usual False: True looks ahead, a little faster
     and less damped.
    """
    if nesterov and (not momentum or dampening):
        raise InputError("sgd: nesterov=True needs momentum above 0 and dampening 0")
    return chain(
        add_decayed_weights_if_any(weight_decay),
        *([trace(momentum, dampening, nesterov)] if momentum else []),
        scale_by_learning_rate(lr),
    )
