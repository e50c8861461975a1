"""Adadelta."""

from __future__ import annotations

from rheostat.core.hyper import NonNegative, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.rms import scale_by_adadelta
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "adadelta")
def adadelta(
    lr: NonNegative = 1.0,
    rho: UnitInterval = 0.9,
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """The gradient over its running root mean square, in units of the updates so far.

    w ← w − lr · u,  u = g √(d + eps) / √(v + eps), with v and d the running means of g² and of u²,
    not corrected for their start, and g the gradient plus weight_decay · w.

    Variant: the paper's where lr is 1. Weight decay is L2.
    Equals: torch.optim.Adadelta (same defaults), to float32 rounding.
    Assumes: that past updates tell the scale of the next one.
    Theory: no proof is published with it.
    Practice: starts slowly, since the first updates are of size √eps; rarely the best today, but
     works without a tuned lr.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 12 an element.
    Use: for a quick start where nobody tunes.
    Avoid: where the budget is short, or a schedule is to shape the run.
    Recipe: {optimizer: adadelta, lr: {schedule: cosine, peak: 1.0}}
    Tags: adaptive, parameter-free
    Source: Zeiler 2012 (arXiv:1212.5701), Algorithm 1.
    lr: factor on the update, without a unit. Usual [0.1, 10] 1: more takes longer steps than the
     rule's own.
    rho: decay rate of both running means. Usual [0.9, 0.99]: higher averages over more steps.
    eps: added below both roots; sets the size of the first updates. Usual [1e-8, 1e-4] gradient²:
     larger starts faster and adapts less.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(lr),
    )
