"""Adam."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_adam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "adam")
def adam(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Adam: the running mean of the gradient over its running root mean square.

    w ← w − lr · m̂ / (√v̂ + eps), with m̂ and v̂ the bias-corrected running mean of g and of g², where
    g is the gradient plus weight_decay · w.

    Variant: weight decay is L2, rescaled by the rule as the gradient is; `adamw` decouples it.
    Equals: torch.optim.Adam (same defaults), to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: can fail to converge on convex problems at any fixed β₂ (Reddi et al. 2018,
     arXiv:1904.09237); O(log T / √T) to a neighbourhood that shrinks as β₂ nears 1 (Défossez et al.
     2020, arXiv:2003.02395).
    Practice: robust over decades of lr; the usual first choice beside AdamW. Without a warm-up the
     first steps of transformers are too long.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 13 an element.
    Use: for small problems, generative models, reinforcement learning, where decay plays no part.
    Avoid: with weight decay: the rule divides it by √v, so that weights with large gradients are
     hardly decayed; use adamw.
    Recipe: {optimizer: adam, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: adaptive, momentum
    Source: Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 1.
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
        scale_by_adam(*betas, eps),
        scale_by_learning_rate(lr),
    )
