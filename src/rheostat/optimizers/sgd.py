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

    Variant: momentum and L2 decay as in torch; the momentum buffer is not scaled by lr.
    Takes sparse gradients where both are 0.
    Equals: torch.optim.SGD (same defaults), to float32 rounding.
    Source: Robbins & Monro 1951; momentum as in Sutskever et al. 2013.
    lr: step size, in units of weight per unit of gradient.
    momentum: fraction of the running update kept each step; 0 keeps no buffer.
    dampening: fraction of each new gradient left out of the running update.
    weight_decay: L2 coefficient, added to the gradient.
    nesterov: look ahead along the running update.
    """
    if nesterov and (not momentum or dampening):
        raise InputError("sgd: nesterov=True needs momentum above 0 and dampening 0")
    return chain(
        add_decayed_weights_if_any(weight_decay),
        *([trace(momentum, dampening, nesterov)] if momentum else []),
        scale_by_learning_rate(lr),
    )
