"""StableAdamW: AdamW with AdaFactor's update clipping."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform, chain
from rheostat.transforms.adam import scale_by_adam
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_stable_adam")
def scale_by_stable_adam(
    b1: Fraction = 0.9,
    b2: Fraction = 0.99,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Adam's direction and the decay, divided by max(1, RMS) of u / √v̂, one number a parameter.

    It lets up where v̂ lags behind a gradient that grew. The decay is in here because the division
    takes it along.

    Source: Wortsman et al. 2023 (arXiv:2304.13013), Algorithm 2.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares.
    eps: added to the denominator, in units of the update.
    weight_decay: share of the weights that is added before the division.
    """
    adam = scale_by_adam(b1, b2, eps)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        direction = adam.update(u, state, param, hyper)
        _, b2 = hyper.betas
        root = (state["exp_avg_sq"] / (1 - b2**hyper.step)).sqrt_().clamp_(min=hyper.eps)
        rms = (u / root).square().mean().sqrt()
        return (direction + hyper.weight_decay * param) / rms.clamp(min=1)

    return Transform(
        update,
        buffers=adam.buffers,
        hyperparameters={**adam.hyperparameters, "weight_decay": weight_decay},
        scope="whole",
    )


@register("optimizer", "stable_adamw")
def stable_adamw(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.99),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 1e-2,
) -> Transform:
    """AdamW whose step shrinks, per parameter, when the second moment lags behind the gradient.

    w ← w − lr / max(1, RMS) · (m̂ / (√v̂ + eps) + weight_decay · w), RMS being that of
    g / max(√v̂, eps).

    Variant: as published: the RMS is of each parameter, v̂ includes the present gradient, and the
     decay shrinks with the step. Moments are stored raw and corrected, which equals the paper's β̂.
    Equals: pytorch_optimizer.StableAdamW (kahan_sum=False; same defaults), to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: no proof is published with it.
    Practice: AdamW without its loss spikes at large scale; makes gradient clipping mostly unneeded.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 19 an element, and a mean a parameter.
    Use: for large transformers whose losses spike.
    Avoid: where AdamW's numbers must be reproduced.
    Recipe: {optimizer: stable_adamw, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay:
     0.1}
    Tags: adaptive, momentum, clipping
    Source: Wortsman et al. 2023 (arXiv:2304.13013), Algorithm 2.
    lr: step size; about the largest change of one weight in one update. Usual [1e-5, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, and the least √v̂ in the RMS, in units of the gradient. Usual
     [1e-10, 1e-4] gradient: larger damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        scale_by_stable_adam(*betas, eps, weight_decay),
        scale_by_learning_rate(lr),
    )
