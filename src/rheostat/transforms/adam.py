"""Adam's rule and its relatives: the update divided by its running root mean square."""

from __future__ import annotations

import torch
from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, one_number

_MOMENTS = {"exp_avg": Buffer(), "exp_avg_sq": Buffer()}


def _moments(u: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """The buffers m ← β₁ m + (1 − β₁) u and v ← β₂ v + (1 − β₂) u²: to read, not to change."""
    b1, b2 = hyper.betas
    mean = state["exp_avg"].lerp_(u, 1 - b1)
    return mean, state["exp_avg_sq"].mul_(b2).addcmul_(u, u, value=1 - b2)


def _root(square: Tensor, hyper: Hyper) -> Tensor:
    """√(v / (1 − β₂ᵗ)) + eps, in a tensor of its own."""
    return (square.sqrt() / (1 - hyper.betas[1] ** hyper.step) ** 0.5).add_(hyper.eps)


@register("transform", "scale_by_adam")
def scale_by_adam(b1: Fraction = 0.9, b2: Fraction = 0.999, eps: NonNegative = 1e-8) -> Transform:
    """Adam's direction, both moments corrected for their zero start.

    m ← β₁ m + (1 − β₁) u,  v ← β₂ v + (1 − β₂) u²,
    u ← (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps), with t the parameter's own step count.

    Source: Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 1.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares.
    eps: added to the denominator, in units of the update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        mean, square = _moments(u, state, hyper)
        return (mean / _root(square, hyper)).div_(1 - hyper.betas[0] ** hyper.step)

    return Transform(
        update,
        buffers=_MOMENTS,
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="element",
    )


@register("transform", "scale_by_amsgrad")
def scale_by_amsgrad(
    b1: Fraction = 0.9, b2: Fraction = 0.999, eps: NonNegative = 1e-8
) -> Transform:
    """Adam's direction with the largest v so far in its denominator, so that it never shrinks.

    v⁺ ← max(v⁺, v),  u ← (m / (1 − β₁ᵗ)) / (√(v⁺ / (1 − β₂ᵗ)) + eps).

    Source: Reddi, Kale & Kumar 2018 (arXiv:1904.09237), Algorithm 2, with Adam's corrections; the
     maximum is taken before them, as torch has it.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares.
    eps: added to the denominator, in units of the update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        mean, square = _moments(u, state, hyper)
        largest = state["max_exp_avg_sq"].clamp_(min=square)
        return (mean / _root(largest, hyper)).div_(1 - hyper.betas[0] ** hyper.step)

    return Transform(
        update,
        buffers={**_MOMENTS, "max_exp_avg_sq": Buffer()},
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="element",
    )


@register("transform", "scale_by_nadam")
def scale_by_nadam(
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: NonNegative = 1e-8,
    momentum_decay: NonNegative = 4e-3,
) -> Transform:
    """Adam's direction with Nesterov's momentum, which warms up: μₜ = β₁ (1 − ½ · 0.96^(t ψ)).

    u ← ((1 − μₜ) u / (1 − Πₜ) + μₜ₊₁ m / (1 − Πₜ μₜ₊₁)) / (√(v / (1 − β₂ᵗ)) + eps), with ψ the
    momentum_decay and Πₜ = μ₁ μ₂ … μₜ.

    Source: Dozat 2016 (ICLR workshop), Algorithm 2.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares.
    eps: added to the denominator, in units of the update.
    momentum_decay: ψ, how fast μₜ rises to β₁.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, t, decay = hyper.betas[0], hyper.step, hyper.momentum_decay
        mean, square = _moments(u, state, hyper)
        now = b1 * (1 - 0.5 * 0.96 ** (t * decay))
        ahead = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * decay))
        product = state["mu_product"].mul_(now).to(u.dtype)
        own, coming = (1 - now) / (1 - product), ahead / (1 - product * ahead)
        return (u * own + mean * coming).div_(_root(square, hyper))

    return Transform(
        update,
        # One number a parameter; in float32 as torch keeps it, also where the parameter is complex.
        buffers={**_MOMENTS, "mu_product": Buffer(1.0, torch.float32, one_number)},
        hyperparameters={"betas": (b1, b2), "eps": eps, "momentum_decay": momentum_decay},
        scope="element",
    )


@register("transform", "scale_by_radam")
def scale_by_radam(b1: Fraction = 0.9, b2: Fraction = 0.999, eps: NonNegative = 1e-8) -> Transform:
    """Adam's direction, rectified: shortened while v has seen little, and plain momentum at first.

    With ρ∞ = 2 / (1 − β₂) − 1, ρ = ρ∞ − 2 t β₂ᵗ / (1 − β₂ᵗ) and f(x) = (x − 4) (x − 2) / x:
    u ← √(f(ρ) / f(ρ∞)) · (m / (1 − β₁ᵗ)) · √(1 − β₂ᵗ) / (√v + eps) where ρ > 5, otherwise
    u ← m / (1 − β₁ᵗ).

    Source: Liu et al. 2020 (arXiv:1908.03265), Algorithm 2; with 5 for its 4, and eps beside √v, as
     torch has it.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares.
    eps: added to the denominator, in units of the update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2, t = *hyper.betas, hyper.step
        mean, square = _moments(u, state, hyper)
        plain = mean / (1 - b1**t)
        correction = 1 - b2**t
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * t * b2**t / correction
        on = (length > 5) * 1.0  # arithmetic, as scalars may be tensors, which do not branch
        share = on * (_f(length, on) / _f(longest, on) * correction) ** 0.5
        return plain * (share / square.sqrt().add_(hyper.eps) + (1 - on))

    return Transform(
        update,
        buffers=_MOMENTS,
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="element",
    )


def _f(length: float, on: float) -> float:
    length = on * length + (1 - on) * 6  # somewhere harmless, where the result is not asked for
    return (length - 4) * (length - 2) / length


@register("transform", "scale_by_adamax")
def scale_by_adamax(b1: Fraction = 0.9, b2: Fraction = 0.999, eps: NonNegative = 1e-8) -> Transform:
    """Adam's direction by the maximum norm: the running mean over the decaying largest update.

    n ← max(β₂ n, |u| + eps),  u ← m / ((1 − β₁ᵗ) n).

    Source: Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 2, with eps as torch has it.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the largest update.
    eps: added to the size of each update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        mean = state["exp_avg"].lerp_(u, 1 - b1)
        largest = state["exp_inf"].mul_(b2).clamp_(min=u.abs().add_(hyper.eps))
        return (mean / largest).div_(1 - b1**hyper.step)

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_inf": Buffer()},
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="element",
    )
