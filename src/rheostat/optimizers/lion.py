"""Lion."""

from __future__ import annotations

import torch
from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_lion")
def scale_by_lion(b1: Fraction = 0.9, b2: Fraction = 0.99) -> Transform:
    """The sign of the update mixed with its running mean: u ← sign(β₁ m + (1 − β₁) u), after which
    m ← β₂ m + (1 − β₂) u.

    Source: Chen et al. 2023 (arXiv:2302.06675), Algorithm 2.
    b1: β₁, share of the running mean in the sign that is taken.
    b2: β₂, decay rate of the running mean.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        direction = torch.lerp(u, state["exp_avg"], b1).sign_()
        state["exp_avg"].lerp_(u, 1 - b2)
        return direction

    return Transform(
        update,
        buffers={"exp_avg": Buffer()},
        hyperparameters={"betas": (b1, b2)},
        scope="element",
    )


@register("optimizer", "lion")
def lion(
    lr: NonNegative = 1e-4,
    betas: Betas = (0.9, 0.99),
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Lion: the sign of a momentum that looks at the present gradient twice.

    w ← w − lr · (sign(β₁ m + (1 − β₁) g) + weight_decay · w),  m ← β₂ m + (1 − β₂) g.

    Variant: as published; decay is decoupled and multiplied by the scheduled lr. No bias
     correction, which a sign would not see.
    Equals: pytorch_optimizer.Lion and optax.lion (same defaults, but for optax's decay of 1e-3), to
     float32 rounding.
    Assumes: that signs are worth following: batches large enough for them to be mostly right.
    Theory: with decay it solves the loss under |w| ≤ 1 / weight_decay (Chen et al. 2023,
     arXiv:2310.05898); as a sign rule it wants small noise.
    Practice: as AdamW for vision and diffusion models at half its state; lr a third to a tenth of
     AdamW's, decay so much higher. Weaker at small batches.
    State: 4*m*n bytes for m × n, 4*n for n.
    Flops: about 8 an element.
    Use: where AdamW's second moment is memory that is missed, with large batches.
    Avoid: with batches below about 64, or L2 decay, which a sign would lose.
    Recipe: {optimizer: lion, lr: {schedule: cosine, peak: 3e-3, warmup: 20}, weight_decay: 0.1}
    Tags: sign, momentum, low-memory
    Source: Chen et al. 2023 (arXiv:2302.06675), Algorithm 2.
    lr: step size; every weight whose mixed momentum is not zero moves by exactly this. Usual
     [1e-6, 3e-3] weight: more learns faster and jitters more at the end.
    betas: share of the mean in the mix whose sign is taken, and decay rate of the mean. Usual
     [0.9, 0.95], [0.98, 0.999]: a lower first listens more to the present gradient.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 10] 1/lr: more keeps
     weights smaller; three to ten times AdamW's.
    """
    return chain(
        scale_by_lion(*betas),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
