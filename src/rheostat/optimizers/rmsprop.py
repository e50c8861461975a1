"""RMSprop."""

from __future__ import annotations

from rheostat.core.hyper import Fraction, NonNegative, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.momentum import trace
from rheostat.transforms.rms import scale_by_rms
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "rmsprop")
def rmsprop(
    lr: NonNegative = 1e-2,
    alpha: UnitInterval = 0.99,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum: Fraction = 0.0,
    centered: bool = False,
) -> Transform:
    """The gradient over its running root mean square, with optional momentum.

    w ← w − lr · b,  b ← momentum · b + g / (√v + eps), with v the running mean of g² (its running
    variance where `centered`), not corrected for its start, and g the gradient plus
    weight_decay · w.

    Variant: eps outside the root, the mean square starting at zero, lr outside the momentum;
    `rmsprop_tf` has all three the other way. A variance that rounding makes negative counts as 0.
    Equals: torch.optim.RMSprop (same defaults), to float32 rounding.
    Source: Tieleman & Hinton 2012 (Coursera, lecture 6e); centered as in Graves 2013
    (arXiv:1308.0850).
    lr: step size; about the change of one weight in one update, without momentum.
    alpha: decay rate of the running means.
    eps: added to the denominator, in units of the gradient.
    weight_decay: L2 coefficient, added to the gradient.
    momentum: fraction of the running update kept each step; 0 keeps no buffer.
    centered: divide by the running deviation in place of the root mean square.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_rms(alpha, eps, centered),
        *([trace(momentum)] if momentum else []),
        scale_by_learning_rate(lr),
    )
