"""ADOPT: Adam that divides by the second moment of the past."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_adopt")
def scale_by_adopt(b1: Fraction = 0.9, b2: Fraction = 0.9999, eps: Positive = 1e-6) -> Transform:
    """The running mean of updates divided by the root mean square of those before them.

    m ← β₁ m + (1 − β₁) clip(u / max(√v, eps), (t − 1)^¼), after which v ← β₂ v + (1 − β₂) u²;
    the first u only starts v ← u². The bound of 0 at t = 1 is what makes the first update 0.

    Source: Taniguchi et al. 2024 (arXiv:2411.02853), Algorithm 2, with its clipping.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares.
    eps: least root mean square that an update is divided by.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        limit = (hyper.step - 1) ** 0.25
        normed = u / state["exp_avg_sq"].sqrt().clamp_(min=hyper.eps)
        mean = state["exp_avg"].lerp_(normed.clamp_(-limit, limit), 1 - b1)
        state["exp_avg_sq"].lerp_(u * u, 1 - b2 * (hyper.step > 1))
        return mean.clone()

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_sq": Buffer()},
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="element",
    )


@register("optimizer", "adopt")
def adopt(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.9999),
    eps: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """ADOPT: each gradient is divided by the second moment of those before it, then averaged.

    m ← β₁ m + (1 − β₁) clip(g / max(√v, eps), (t − 1)^¼),  w ← w − lr · (m + weight_decay · w),
    then v ← β₂ v + (1 − β₂) g²; the first gradient only starts v.

    Variant: with the clipping of the paper's practical version, its bound counted from 1 at the
     second gradient; decay is decoupled, and acts from the first step on.
    Equals: optax.contrib.adopt (nesterov=False, use_clipping=True), to float32 rounding.
     pytorch_optimizer.ADOPT counts the bound from 2, and by the step of the group: other numbers.
    Assumes: a gradient whose scale does not jump between steps, since each is divided by the
     past's.
    Theory: O(1 / √T) to a stationary point for every β₂ in (0, 1), without a bound on the noise
     (the paper).
    Practice: as AdamW where Adam works; steadier where β₂ matters, at a higher β₂ of 0.9999. The
     first gradient only sets the scale.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 14 an element.
    Use: where Adam is sensitive to β₂, or gradients are very noisy.
    Avoid: where the first gradients are far from typical: one batch sets the scale.
    Recipe: {optimizer: adopt, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay: 0.01}
    Tags: adaptive, momentum
    Source: Taniguchi et al. 2024 (arXiv:2411.02853), Algorithm 2.
    lr: step size; about the largest change of one weight in one update. Usual [1e-5, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.99, 0.99999]: higher averages over more steps.
    eps: least denominator, in units of the gradient. Usual [1e-8, 1e-4] gradient: larger damps
     weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        scale_by_adopt(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
