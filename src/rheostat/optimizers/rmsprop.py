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
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: can fail to converge at a fixed alpha, as Adam; converges where alpha is close enough to
     1 for the problem (Shi et al. 2021).
    Practice: still the habit in reinforcement learning; elsewhere Adam has replaced it.
    State: 4*m*n bytes for m × n, 4*n for n; momentum and centered keep 4 more an element each.
    Flops: about 6 an element.
    Use: to follow published recipes of reinforcement learning and old vision models.
    Avoid: as a default: adamw is better understood.
    Recipe: {optimizer: rmsprop, lr: {schedule: cosine, peak: 5e-3, warmup: 20}}
    Tags: adaptive, low-memory
    Source: Tieleman & Hinton 2012 (Coursera, lecture 6e); centered as in Graves 2013
     (arXiv:1308.0850).
    lr: step size; about the change of one weight in one update, without momentum. Usual
     [1e-5, 1e-2] weight: more learns faster, until it diverges.
    alpha: decay rate of the running means. Usual [0.9, 0.999]: higher averages over more steps.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-2] gradient: larger
     damps weights whose gradients are small.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    momentum: fraction of the running update kept each step; 0 keeps no buffer. Usual [0, 0.95]:
     higher is steadier, slower to turn.
    centered: divide by the running deviation in place of the root mean square. Usual False: True
     takes longer steps where gradients agree, and keeps a buffer more.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_rms(alpha, eps, centered),
        *([trace(momentum)] if momentum else []),
        scale_by_learning_rate(lr),
    )
