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
    u ← sign(m). Bernstein et al. 2018 (arXiv:1802.04434), Algorithm 2.
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
    Source: Bernstein et al. 2018 (arXiv:1802.04434), Algorithm 2.
    lr: step size; every weight whose mean gradient is not zero moves by exactly this.
    momentum: decay rate of the running mean.
    weight_decay: fraction of each weight taken off per unit of lr.
    """
    return chain(
        scale_by_signum(momentum),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
