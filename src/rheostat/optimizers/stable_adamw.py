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
    takes it along. Wortsman et al. 2023 (arXiv:2304.13013), Algorithm 2.
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
    Source: Wortsman et al. 2023 (arXiv:2304.13013), Algorithm 2.
    lr: step size; about the largest change of one weight in one update.
    betas: decay rates of the running mean and of the running mean square.
    eps: added to the denominator, and the least √v̂ in the RMS, in units of the gradient.
    weight_decay: fraction of each weight taken off per unit of lr.
    """
    return chain(
        scale_by_stable_adam(*betas, eps, weight_decay),
        scale_by_learning_rate(lr),
    )
