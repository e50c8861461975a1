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

    Source: Zhuang et al. 2020 (arXiv:2010.07468), Algorithm 2.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squared deviations.
    eps: added to s at each step, and to the denominator.
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
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: regret O(√T) for convex losses and O(log T / √T) to a stationary point, under Adam's
     assumptions of bounded gradients and falling steps (the paper).
    Practice: close to Adam; gains over a tuned AdamW are small, and depend on eps, which decides
     how much a predictable gradient may be amplified.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 15 an element.
    Use: where Adam is used and its last accuracy on vision tasks falls short of SGD's.
    Avoid: without tuning eps: its default suits float32 alone, and 1e-8 is another algorithm.
    Recipe: {optimizer: adabelief, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay:
     0.01}
    Tags: adaptive, momentum
    Source: Zhuang et al. 2020 (arXiv:2010.07468), Algorithm 2.
    lr: step size. Usual [1e-5, 1e-2] weight: more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running spread. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the spread, in units of the gradient squared, and to its root. Usual [1e-18, 1e-8]
     gradient²: larger makes it more like SGD.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        scale_by_belief(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
