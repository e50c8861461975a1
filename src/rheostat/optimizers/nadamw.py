"""NAdamW."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_nadam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "nadamw")
def nadamw(
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
    momentum_decay: NonNegative = 4e-3,
) -> Transform:
    """NAdam with decoupled weight decay.

    w ← w − lr · (u + weight_decay · w), with u the direction of `nadam` from the bare gradient.

    Variant: Dozat's momentum schedule; decay multiplied by the scheduled lr. Others of this name
     (optax's, AlgoPerf's) have a constant momentum.
    Equals: torch.optim.NAdam(decoupled_weight_decay=True, weight_decay=1e-2), the rest its
     defaults, to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: no proof is published with it.
    Practice: one of the strongest baselines of tuned comparisons (AlgoPerf's, with a constant
     momentum); as AdamW, a little faster.
    State: 8*m*n + 4 bytes for m × n, 8*n + 4 for n.
    Flops: about 17 an element.
    Use: as a strong baseline beside AdamW.
    Avoid: to reproduce AlgoPerf's or optax's numbers, whose momentum is constant.
    Recipe: {optimizer: nadamw, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay: 0.1}
    Tags: adaptive, momentum, nesterov
    Source: Dozat 2016 (ICLR workshop), Algorithm 2; Loshchilov & Hutter 2019 (arXiv:1711.05101).
    lr: step size; about the largest change of one weight in one update. Usual [1e-5, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    momentum_decay: speed of the momentum's warmup, per update; at 0 it stays at β₁ / 2. Usual
     [0, 1e-2] 1/update: higher reaches β₁ sooner.
    """
    return chain(
        scale_by_nadam(*betas, eps, momentum_decay),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
