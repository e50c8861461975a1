"""NAdam."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_nadam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "nadam")
def nadam(
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum_decay: NonNegative = 4e-3,
) -> Transform:
    """Adam with Nesterov's momentum, which warms up over the first ten thousand updates.

    w ← w − lr · ((1 − μₜ) g / (1 − Πₜ) + μₜ₊₁ m / (1 − Πₜ μₜ₊₁)) / (√v̂ + eps), with g the gradient
    plus weight_decay · w, m and v̂ as in Adam, μₜ = β₁ (1 − ½ · 0.96^(t · momentum_decay)), and
    Πₜ = μ₁ μ₂ … μₜ.

    Variant: Dozat's with the momentum schedule; weight decay is L2, `nadamw` decouples it.
    Equals: torch.optim.NAdam (same defaults), to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: no proof is published with it.
    Practice: a little faster than Adam early on; the momentum's warm-up makes β₁ lower than it
     looks in short runs.
    State: 8*m*n + 4 bytes for m × n, 8*n + 4 for n.
    Flops: about 15 an element.
    Use: in place of Adam for recurrent and small networks.
    Avoid: with weight decay: use nadamw; and where a constant momentum is meant, as in optax.
    Recipe: {optimizer: nadam, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: adaptive, momentum, nesterov
    Source: Dozat 2016 (ICLR workshop), Algorithm 2.
    lr: step size; about the largest change of one weight in one update. Usual [1e-5, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    momentum_decay: speed of the momentum's warmup, per update; at 0 it stays at β₁ / 2. Usual
     [0, 1e-2] 1/update: higher reaches β₁ sooner.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_nadam(*betas, eps, momentum_decay),
        scale_by_learning_rate(lr),
    )
