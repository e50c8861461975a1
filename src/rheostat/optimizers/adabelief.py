"""AdaBelief."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_belief")
def scale_by_belief(b1: Fraction = 0.9, b2: Fraction = 0.999, eps: Positive = 1e-16) -> Transform:
    """Adam's direction with the spread around the running mean in place of the mean square.

    m ← β₁ m + (1 − β₁) u,  s ← β₂ s + (1 − β₂) (u − m)² + eps, where eps stays in s,
    u ← (m / (1 − β₁ᵗ)) / (√(s / (1 − β₂ᵗ)) + eps).
    Zhuang et al. 2020 (arXiv:2010.07468), Algorithm 2.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        mean = state["exp_avg"].lerp_(u, 1 - b1)
        surprise = u - mean
        spread = state["exp_avg_var"].mul_(b2).addcmul_(surprise, surprise, value=1 - b2)
        spread.add_(hyper.eps)
        denominator = (spread / (1 - b2**hyper.step)).sqrt_().add_(hyper.eps)
        return (mean / denominator).div_(1 - b1**hyper.step)

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_var": Buffer()},
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="element",
    )


@register("optimizer", "adabelief")
def adabelief(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Positive = 1e-16,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """AdaBelief: long steps where the gradient is as predicted, short ones where it surprises.

    w ← w − lr · (m̂ / (√ŝ + eps) + weight_decay · w), with m̂ the bias-corrected running mean of the
    gradient and ŝ that of (g − m)², to which eps is added in every step.

    Variant: as published, eps inside the running spread and outside the root; no rectification;
    decay is decoupled and multiplied by the scheduled lr.
    Equals: pytorch_optimizer.AdaBelief (same defaults), and optax.adabelief with eps_root = eps
    (which has no decay), to float32 rounding.
    Source: Zhuang et al. 2020 (arXiv:2010.07468), Algorithm 2.
    lr: step size.
    betas: decay rates of the running mean and of the running spread.
    eps: added to the spread, in units of the gradient squared, and to its root.
    weight_decay: fraction of each weight taken off per unit of lr.
    """
    return chain(
        scale_by_belief(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
