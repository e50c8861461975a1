"""Adam's rule and its relatives: the update divided by its running root mean square."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform


@register("transform", "scale_by_adam")
def scale_by_adam(
    b1: Fraction = 0.9, b2: Fraction = 0.999, eps: NonNegative = 1e-8
) -> Transform:
    """Adam's direction, both moments corrected for their zero start.

    m ← β₁ m + (1 − β₁) u,  v ← β₂ v + (1 − β₂) u²,
    u ← (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps), with t the parameter's own step count.
    Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 1.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        mean = state["exp_avg"].lerp_(u, 1 - b1)
        square = state["exp_avg_sq"].mul_(b2).addcmul_(u, u, value=1 - b2)
        scale = (1 - b2**hyper.step) ** 0.5
        denominator = (square.sqrt() / scale).add_(hyper.eps)
        return (mean / denominator).div_(1 - b1**hyper.step)

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_sq": Buffer()},
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="element",
    )
