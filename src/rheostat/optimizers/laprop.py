"""LaProp: momentum of normalised gradients."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_laprop")
def scale_by_laprop(b1: Fraction = 0.9, b2: Fraction = 0.999, eps: Positive = 1e-15) -> Transform:
    """The running mean of updates already divided by their running root mean square.

    v ← β₂ v + (1 − β₂) u²,  m ← β₁ m + (1 − β₁) u / (√(v / (1 − β₂ᵗ)) + eps),  u ← m / (1 − β₁ᵗ).
    No update exceeds 1 / √(1 − β₂), whatever β₁ is.

    Source: Ziyin et al. 2020 (arXiv:2002.04839), Algorithm 1.
    b1: β₁, decay rate of the running mean of divided updates.
    b2: β₂, decay rate of the running mean of squares.
    eps: added to the denominator, in units of the update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        square = state["exp_avg_sq"].mul_(b2).addcmul_(u, u, value=1 - b2)
        denominator = (square.sqrt() / (1 - b2**hyper.step) ** 0.5).add_(hyper.eps)
        return state["exp_avg"].lerp_(u / denominator, 1 - b1) / (1 - b1**hyper.step)

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_sq": Buffer()},
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="element",
    )


@register("optimizer", "laprop")
def laprop(
    lr: NonNegative = 4e-4,
    betas: Betas = (0.9, 0.999),
    eps: Positive = 1e-15,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """LaProp: Adam with momentum after the normalisation, so that their rates are independent.

    m ← β₁ m + (1 − β₁) g / (√v̂ + eps),  w ← w − lr · (m̂ + weight_decay · w).

    Variant: the paper's, with the step size outside the momentum; the authors' code averages lr · g
     / (√v̂ + eps), which differs only while lr changes. Not centred; decay is decoupled and
     multiplied by the scheduled lr.
    Equals: pytorch_optimizer.LaProp (same defaults) at a constant lr, which decays the weight after
     the step, so equal without decay; heavyball.LaProp with decay; to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: regret O(√T) for convex losses, for any β₁ and β₂ (the paper, under Adam's assumptions).
    Practice: as Adam at its defaults; keeps working at small β₂, where Adam diverges.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 13 an element.
    Use: where noise is heavy and β₂ must be low: reinforcement learning, style transfer.
    Avoid: for a reproduction of Adam's numbers: momentum comes after the division.
    Recipe: {optimizer: laprop, lr: {schedule: cosine, peak: 5e-3, warmup: 20}}
    Tags: adaptive, momentum
    Source: Ziyin et al. 2020 (arXiv:2002.04839), Algorithm 1.
    lr: step size; about the largest change of one weight in one update. Usual [1e-5, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.5, 0.9999]: higher averages over more steps.
    eps: added to the denominator, in units of the gradient. Usual [1e-16, 1e-6] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        scale_by_laprop(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
