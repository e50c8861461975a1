"""Scion: steps of a given norm, a norm for each kind of layer."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform, chain
from rheostat.optimizers.policy import Policy, match, policy
from rheostat.transforms.orthogonal import (
    Coefficients,
    Iterations,
    Precision,
    orthogonalize,
    trace_ema,
)
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "scion")
def scion(
    lr: NonNegative = 2**-12,
    momentum: Fraction = 0.9,
    radius: Positive = 50.0,
    sign_radius: Positive = 3000.0,
    constrained: bool = True,
    coefficients: Coefficients = "quintic",
    ns_steps: Iterations | None = None,
    dtype: Precision = "bfloat16",
    eps: NonNegative = 1e-8,
) -> Policy:
    """A step to the point of a ball that the gradient likes best, or of its length: each layer's
    ball in the norm that suits the layer.

    b ← momentum · b + (1 − momentum) · g; constrained w ← (1 − lr) w − lr · ρ · d(b), otherwise
    w ← w − lr · ρ · d(b), where d is: polar(b) · √(m/n) for matrices of m rows and n columns, and
    divided by the kernel's positions for convolutions (spectral norm); sign(b) / n for embeddings
    and the head (largest element); b / RMS(b) for all else (root mean square).

    Variant: the authors' Scion with the norms of their nanoGPT example; momentum is what is kept,
     0.9 where they write 0.1. The constrained form never leaves the balls; weights that begin
     outside shrink into them.
    Equals: the authors' Scion, to bfloat16 rounding, except that a kernel of unequal sides counts
     all its positions; pytorch_optimizer.SCION where the norm of each group is the one above.
    Source: Pethick et al. 2025 (arXiv:2502.07529), Algorithms 1 and 2, Tables 2 to 4.
    lr: fraction of the way to the ball's point in one step, γ in the paper.
    momentum: fraction of the running mean of the gradient kept each step.
    radius: ρ of matrices, convolutions, norms and biases.
    sign_radius: ρ of embeddings and of the head.
    constrained: stay in the balls; otherwise weights may grow without bound.
    coefficients: the polynomials of the iteration: quintic, polar_express or polar_express_wide.
    ns_steps: how many polynomials; 5, and 4 of polar_express_wide, where it is not given.
    dtype: precision of the iteration.
    eps: added to a root mean square, and the smallest norm that a momentum is divided by.
    """

    def rule(direction: Transform, rho: float) -> Transform:
        pull = [_pull_to_centre()] if constrained else []
        return chain(
            trace_ema(momentum, nesterov=False),
            direction,
            _times_radius(rho),
            *pull,
            scale_by_learning_rate(lr),
        )

    spectral = orthogonalize(coefficients, ns_steps, "scion", dtype, eps)
    return policy(
        match(rule(spectral, radius), role=("matrix", "convolution"), optional=True),
        match(rule(_sign(), sign_radius), role=("embedding", "head"), optional=True),
        match(rule(_unit_rms(eps), radius), optional=True),
    )


def _sign() -> Transform:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u.sign() / max(u.shape[-1], 1)

    return Transform(update, name="sign")


def _unit_rms(eps: float) -> Transform:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u / (u.square().sum() / max(u.numel(), 1)).sqrt().add_(hyper.eps)

    return Transform(update, hyperparameters={"eps": eps}, name="unit_rms")


def _times_radius(radius: float) -> Transform:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * hyper.radius

    return Transform(update, hyperparameters={"radius": radius}, scope="element", name="radius")


def _pull_to_centre() -> Transform:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + param

    return Transform(update, scope="element", name="pull_to_centre")
