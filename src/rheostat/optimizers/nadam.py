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
    Source: Dozat 2016 (ICLR workshop), Algorithm 2.
    lr: step size; about the largest change of one weight in one update.
    betas: decay rates of the running mean and of the running mean square.
    eps: added to the denominator, in units of the gradient.
    weight_decay: L2 coefficient, added to the gradient.
    momentum_decay: speed of the momentum's warmup, per update; at 0 it stays at β₁ / 2.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_nadam(*betas, eps, momentum_decay),
        scale_by_learning_rate(lr),
    )
