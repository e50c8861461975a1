"""RMSprop as TensorFlow has it."""

from __future__ import annotations

from rheostat.core.hyper import Fraction, NonNegative, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.momentum import trace
from rheostat.transforms.rms import scale_by_rms
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "rmsprop_tf")
def rmsprop_tf(
    lr: NonNegative = 1e-2,
    alpha: UnitInterval = 0.9,
    eps: NonNegative = 1e-10,
    weight_decay: NonNegative = 0.0,
    momentum: Fraction = 0.0,
    centered: bool = False,
) -> Transform:
    """RMSprop as TensorFlow 1 had it, with which many published vision recipes were tuned.

    w ← w − b,  b ← momentum · b + lr · g / √(v + eps), with v the running mean of g² (its running
    variance where `centered`), which starts at one, and g the gradient plus weight_decay · w.

    Variant: eps inside the root, the mean square starting at one (so that the first updates are
     small), lr inside the momentum (so that a new lr reaches the updates slowly).
    Equals: tf.compat.v1.train.RMSPropOptimizer and timm's RMSpropTF (same defaults but for lr,
     which TensorFlow requires), to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: as rmsprop's.
    Practice: what EfficientNet and MnasNet were trained with; eps in the root, a start at 1 and lr
     in the momentum change results visibly.
    State: 4*m*n bytes for m × n, 4*n for n; momentum and centered keep 4 more an element each.
    Flops: about 6 an element.
    Use: to reproduce recipes that were tuned under TensorFlow.
    Avoid: otherwise.
    Recipe: {optimizer: rmsprop_tf, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: adaptive, low-memory
    Source: Tieleman & Hinton 2012 (Coursera, lecture 6e); centered as in Graves 2013
     (arXiv:1308.0850).
    lr: step size; about the change of one weight in one update, without momentum. Usual
     [1e-5, 0.05] weight: more learns faster, until it diverges.
    alpha: decay rate of the running means; TensorFlow's `decay`. Usual [0.9, 0.999]: higher
     averages over more steps.
    eps: added to the mean square, in units of the squared gradient. Usual [1e-10, 1e-2] gradient²:
     larger damps weights whose gradients are small.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    momentum: fraction of the running update kept each step; 0 keeps no buffer. Usual [0, 0.95]:
     higher is steadier, slower to turn.
    centered: divide by the running deviation in place of the root mean square. Usual False: True
     takes longer steps where gradients agree, and keeps a buffer more.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_rms(alpha, eps, centered, eps_inside_root=True, initial_square=1.0),
        scale_by_learning_rate(lr),
        *([trace(momentum)] if momentum else []),
    )
