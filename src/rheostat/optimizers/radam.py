"""RAdam."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_radam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "radam")
def radam(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: bool = False,
) -> Transform:
    """Adam whose step size is rectified for how little its mean square has seen at first.

    w ← w − lr · r · m̂ √(1 − β₂ᵗ) / (√v + eps), with r = √(f(ρ) / f(ρ∞)),
    f(x) = (x − 4) (x − 2) / x, ρ∞ = 2 / (1 − β₂) − 1 and ρ = ρ∞ − 2 t β₂ᵗ / (1 − β₂ᵗ), and m̂ and v
    as in Adam; while ρ ≤ 5, w ← w − lr · m̂.

    Variant: the threshold is 5 (the paper's is 4), and eps stands beside √v before its correction.
    Equals: torch.optim.RAdam (same defaults, both kinds of decay), to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: argued from the variance of the adaptive step, without a proof of convergence.
    Practice: Adam without a hand-made warm-up: the first steps are SGD's, then grow over about 2 /
     (1 − β₂) updates.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 14 an element.
    Use: where the length of a warm-up is unknown.
    Avoid: with a warm-up besides, which makes it late twice.
    Recipe: {optimizer: radam, lr: {schedule: cosine, peak: 1e-2}}
    Tags: adaptive, momentum
    Source: Liu et al. 2020 (arXiv:1908.03265), Algorithm 2.
    lr: step size; about the largest change of one weight in one update, once rectified. Usual
     [1e-5, 1e-2] weight: more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: L2 coefficient, added to the gradient; or the fraction of each weight taken off
     per unit of lr. Usual [0, 0.3] gradient/weight or 1/lr: more keeps weights smaller and fits
     less closely.
    decoupled_weight_decay: which of the two. Usual False: True decays as AdamW does.
    """
    decay = add_decayed_weights(weight_decay)
    rule = scale_by_radam(*betas, eps)
    pieces = (rule, decay) if decoupled_weight_decay else (decay, rule)
    return chain(*pieces, scale_by_learning_rate(lr))
