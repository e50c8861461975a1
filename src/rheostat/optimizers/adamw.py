"""AdamW."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_adam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "adamw")
def adamw(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
) -> Transform:
    """Adam with decoupled weight decay.

    w ← w − lr · (m̂ / (√v̂ + eps) + weight_decay · w), with m̂ and v̂ the bias-corrected running
    mean of the gradient and of its square.

    Variant: decay is multiplied by the scheduled lr, as in torch.
    Equals: torch.optim.AdamW (same defaults), to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: as Adam's for the loss; with decay it tends to points where the loss is stationary under
     |w| ≤ 1 / weight_decay (Xie & Li 2024, arXiv:2404.04454).
    Practice: the baseline for transformers: insensitive to lr within a factor of about 3, with
     warm-up and a falling schedule; β₂ 0.95 to 0.98 where batches are large and losses spike.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 15 an element.
    Use: first, for nearly everything, and as the baseline of a comparison.
    Avoid: where 8 bytes of state an element are too much: lion, adafactor, muon.
    Recipe: {optimizer: adamw, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay: 0.1}
    Tags: adaptive, momentum
    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 2.
    lr: step size; about the largest change of one weight in one update. Usual [1e-5, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        scale_by_adam(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
