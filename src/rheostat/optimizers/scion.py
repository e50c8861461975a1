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
    Assumes: that layers have a natural norm, and steps of equal length in it suit all: lr and radii
     carry over between widths.
    Theory: O(T^(−1/4)) in the dual norm for smooth losses under noise, with falling lr and
     momentum; constrained, a conditional gradient method (the paper).
    Practice: as Muon on language models with one buffer for all parameters and no AdamW beside;
     hyperparameters transfer from narrow to wide networks.
    State: 4*m*n bytes for m × n, 4*n for n.
    Flops: 20 m² n + 10 m³ for a matrix with m ≤ n and five iterations.
    Use: for transformers and convolutions whose width is to change.
    Avoid: for weights that begin far outside the balls, which only shrink at first; for norms at 1
     where the radius is small.
    Recipe: {optimizer: scion, lr: {schedule: cosine, peak: 2e-3, warmup: 20}, radius: 10.0,
     sign_radius: 100.0}
    Tags: matrix, momentum, spectral, sign, low-memory
    Source: Pethick et al. 2025 (arXiv:2502.07529), Algorithms 1 and 2, Tables 2 to 4.
    lr: fraction of the way to the ball's point in one step, γ in the paper. Usual [3e-5, 3e-3] of
     the radius: more learns faster and ends farther from the optimum.
    momentum: fraction of the running mean of the gradient kept each step. Usual [0.8, 0.98]: higher
     is steadier, slower to turn.
    radius: ρ of matrices, convolutions, norms and biases. Usual [1, 100] norm of a layer: larger
     allows larger weights and longer steps.
    sign_radius: ρ of embeddings and of the head. Usual [100, 10000] largest element · n: as radius,
     for the first and the last layer.
    constrained: stay in the balls; otherwise weights may grow without bound. Usual True: False
     leaves weights free to grow, without decay.
    coefficients: the polynomials of the iteration: quintic, polar_express or polar_express_wide.
     Usual 'quintic': the others are closer to orthogonal at the same or a lower cost.
    ns_steps: how many polynomials; 5, and 4 of polar_express_wide, where it is not given. Usual
     [3, 8] products: more is closer to orthogonal, and slower.
    dtype: precision of the iteration. Usual 'bfloat16': 'float32' is slower where the machine has
     bfloat16.
    eps: added to a root mean square, and the smallest norm that a momentum is divided by. Usual
     [1e-10, 1e-6] gradient: it only guards against a momentum of 0.
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
