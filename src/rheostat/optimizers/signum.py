"""Signum: sign descent with momentum."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_signum")
def scale_by_signum(momentum: Fraction = 0.9) -> Transform:
    """The sign of the running mean of the update: m ← momentum · m + (1 − momentum) · u,
    u ← sign(m).

    Source: Bernstein et al. 2018 (arXiv:1802.04434), Algorithm 2.
    momentum: decay rate of the running mean.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return state["momentum_buffer"].lerp_(u, 1 - hyper.momentum).sign()

    return Transform(update, buffers={"momentum_buffer": Buffer()}, scope="element")


@register("optimizer", "signum")
def signum(
    lr: NonNegative = 1e-4,
    momentum: Fraction = 0.9,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """The sign of the running mean of the gradient; signSGD where momentum is 0.

    m ← momentum · m + (1 − momentum) · g,  w ← w − lr · (sign(m) + weight_decay · w).

    Variant: as published, on one worker; decay is decoupled and multiplied by the scheduled lr.
    Equals: pytorch_optimizer.SignSGD with momentum, and optax.signum (which has no decay), to
     float32 rounding.
    Assumes: that signs are worth following: batches large enough for them to be mostly right.
    Theory: O(1 / √T) in the first norm where the batch grows with T (the paper), or the noise is
     unimodal and symmetric; with small batches it may not converge (Karimireddy et al. 2019,
     arXiv:1901.09847).
    Practice: a plain relative of Lion, with one rate for both uses of the momentum; needs a falling
     lr, since steps never shrink by themselves.
    State: 4*m*n bytes for m × n, 4*n for n.
    Flops: about 6 an element.
    Use: as a baseline for sign rules, and where updates are sent as bits.
    Avoid: with small batches, or at a constant lr to the end.
    Recipe: {optimizer: signum, lr: {schedule: cosine, peak: 3e-3, warmup: 20}}
    Tags: sign, momentum, low-memory
    Source: Bernstein et al. 2018 (arXiv:1802.04434), Algorithm 2.
    lr: step size; every weight whose mean gradient is not zero moves by exactly this. Usual
     [1e-6, 3e-3] weight: more learns faster and jitters more at the end.
    momentum: decay rate of the running mean. Usual [0.8, 0.99]: higher makes signs more reliable,
     and slower to turn.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        scale_by_signum(momentum),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
