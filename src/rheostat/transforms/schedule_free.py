"""Schedule-free steps: train on an interpolation y, evaluate an average x, move a base point z.

Defazio et al. 2024 (arXiv:2405.15682), with step size γ and direction u = u(y):

    z ← z − γ u,   x ← (1 − c) x + c z,   y ← (1 − β) z + β x,   c = w / Σ w,

where w = tʳ · (largest γ so far)ᵖ weighs the t-th point. The parameters hold y while training and
x under `view`. One of x and z is kept in a buffer, the other follows from it and y. It is z for
β > 0: x = (y − (1 − β) z) / β. At β = 0, where y = z, it is x. Whatever else moved y would move
the other one with it, unseen: `chain` refuses projections and Lookahead beside such a step, and
behind it whatever changes an update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.hyper import Fraction, NonNegative, Steps
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, one_number

Scalar = float | Tensor
OfHyper = Callable[[Hyper], Scalar]
Rate = Callable[[Hyper, Tensor], Scalar]
"""The step size γ of a step, and any tensor on the device it is for."""


# Sums over all steps: float64, as float32 stops counting at 2²⁴ steps of equal weight. They are a
# parameter's own, so that one whose first gradient comes late begins an average of its own.
_SUMS = {
    "weight_sum": Buffer(dtype=torch.float64, shape=one_number),
    "lr_max": Buffer(dtype=torch.float64, shape=one_number),
}


@register("transform", "schedule_free_step")
def schedule_free_step(
    lr: NonNegative = 1.0,
    momentum: Fraction = 0.9,
    warmup_steps: Steps = 0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
) -> Transform:
    """A schedule-free step along the update; see the module. Last in a chain, it is the step size.

    Source: Defazio et al. 2024 (arXiv:2405.15682).
    lr: γ, the step size of the base point.
    momentum: β, the share of the average in the point where the gradient is taken. At 0 this is
        SGD whose iterates are averaged. A later change of it moves the average.
    warmup_steps: first steps of a parameter over which γ rises linearly to lr.
    r: power of the step in the weights of the average.
    weight_lr_power: power of the largest step size so far in these weights.
    """

    numbers = {"lr": lr, "momentum": momentum, "r": r, "weight_lr_power": weight_lr_power}
    rate = warmed_up(warmup_steps)
    return averaging_step(numbers, rate, lambda hyper: hyper.momentum, averaged=not momentum)


def warmed_up(warmup_steps: int) -> Rate:
    """γ with a linear warmup: lr · min(1, step / warmup_steps)."""

    def rate(hyper: Hyper, like: Tensor) -> Scalar:
        if not warmup_steps:
            return hyper.lr
        return as_tensor(hyper.step / warmup_steps, like).clamp(max=1.0) * hyper.lr

    return rate


def as_tensor(number: Scalar, like: Tensor) -> Tensor:
    """A number as a 0-dim float64 tensor, made on the device of `like` without a copy to it."""
    return torch.zeros((), dtype=torch.float64, device=like.device) + number


def averaging_step(
    hyperparameters: Mapping[str, Any], rate: Rate, beta: OfHyper, *, averaged: bool
) -> Transform:
    """The step of the module, with γ and β found by `rate` and `beta` from what a step knows.

    `averaged` keeps x in the buffer instead of z; that is right for every β < 1, but less exact in
    z the closer β is to 1.
    """

    def from_z(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        gamma, b, z = rate(hyper, u), beta(hyper), state["z"]
        c = _share(state, hyper, gamma)
        # y − y', with neither y' nor x at hand: exactly 0 where z = y and γ = 0.
        update = (param - z).mul_(c).add_(u * (gamma * (1 - b * (1 - c))))
        z.sub_(u * gamma)
        return update

    def from_x(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        gamma, b, x = rate(hyper, u), beta(hyper), state["x"]
        c = _share(state, hyper, gamma)
        step = u * gamma
        ahead = ((param - b * x) / (1 - b)).sub_(step).sub_(x)
        x.add_(ahead * c)
        return (step * (1 - b) - ahead * (b * c)).to(u.dtype)

    def view(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        if averaged:
            return state["x"]
        b = beta(hyper)
        if not b:
            raise InputError(
                "schedule-free: the average cannot be found with a momentum that was set to 0 in "
                "mid-training; build the optimizer with 0"
            )
        return param + (state["z"] - param) * (1 - 1 / b)

    kept = "x" if averaged else "z"
    return Transform(
        from_x if averaged else from_z,
        buffers={kept: Buffer("param"), **_SUMS},
        hyperparameters=hyperparameters,
        scope="element",
        scaled=True,
        view=view,
        mixes=True,
        name="schedule_free_step",
    )


def _share(state: State, hyper: Hyper, gamma: Scalar) -> Tensor:
    """c: what the newest point weighs in the average; 0 while nothing has moved."""
    largest = state["lr_max"].clamp_(gamma)
    weight = hyper.step**hyper.r * largest**hyper.weight_lr_power
    total = state["weight_sum"].add_(weight)
    return weight / (total + (total == 0))


def scale_by_corrected_rms(betas: tuple[float, float], eps: float) -> Transform:
    """Adam's denominator alone, u ← u / (√(v / (1 − β₂ᵗ)) + eps): the first moment of a
    schedule-free rule is its interpolation, which reads betas[0]."""

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b2 = hyper.betas[1]
        square = state["exp_avg_sq"].mul_(b2).addcmul_(u, u, value=1 - b2)
        return u / (square / (1 - b2**hyper.step)).sqrt_().add_(hyper.eps)

    return Transform(
        update,
        buffers={"exp_avg_sq": Buffer()},
        hyperparameters={"betas": betas, "eps": eps},
        scope="element",
        name="scale_by_corrected_rms",
    )
