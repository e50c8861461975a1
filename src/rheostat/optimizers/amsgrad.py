"""AMSGrad."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_amsgrad
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "amsgrad")
def amsgrad(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Adam over the largest mean square so far, so that no weight's step size grows back.

    w ← w − lr · m̂ / (√(v⁺ / (1 − β₂ᵗ)) + eps),  v⁺ ← max(v⁺, v), with m̂ the bias-corrected running
    mean of g, v the running mean of g², and g the gradient plus weight_decay · w.

    Variant: with Adam's bias corrections, which the paper leaves out; the maximum is taken before
     them. Weight decay is L2.
    Equals: torch.optim.Adam(amsgrad=True) (same defaults), to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: regret O(√T) for convex losses with bounded gradients on a bounded domain (the paper,
     with falling steps).
    Practice: mostly as Adam; one large gradient early keeps a weight's steps small for good.
    State: 12*m*n bytes for m × n, 12*n for n.
    Flops: about 14 an element.
    Use: where Adam oscillates around the end of a long run at a constant lr.
    Avoid: with a falling schedule, which cures the same illness without the third buffer.
    Recipe: {optimizer: amsgrad, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: adaptive, momentum
    Source: Reddi, Kale & Kumar 2018 (arXiv:1904.09237), Algorithm 2.
    lr: step size; about the largest change of one weight in one update. Usual [1e-5, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_amsgrad(*betas, eps),
        scale_by_learning_rate(lr),
    )
