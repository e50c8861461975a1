"""The update divided by a root of the squares it has had: Adagrad, RMSprop, Adadelta."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.hyper import NonNegative, UnitInterval
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule
from rheostat.core.transform import Buffer, Hyper, State, Transform


@register("transform", "scale_by_adagrad")
def scale_by_adagrad(
    lr_decay: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 0.0,
    eps: NonNegative = 1e-10,
) -> Transform:
    """The update over the root of the sum of all its squares, which only grows.

    s ← s + u²,  u ← u / ((√s + eps) (1 + (t − 1) lr_decay)).

    Source: Duchi, Hazan & Singer 2011 (JMLR 12:2121–2159), the diagonal form.
    lr_decay: how fast the update shrinks besides, per step.
    initial_accumulator_value: where the sum of squares begins.
    eps: added to the denominator, in units of the update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        root = state["sum"].addcmul_(u, u).sqrt().add_(hyper.eps)
        return (u / root).div_(1 + (hyper.step - 1) * hyper.lr_decay)

    return Transform(
        update,
        buffers={"sum": Buffer(_fixed("initial_accumulator_value", initial_accumulator_value))},
        hyperparameters={"lr_decay": lr_decay, "eps": eps},
        scope="element",
    )


@register("transform", "scale_by_rms")
def scale_by_rms(
    alpha: UnitInterval = 0.99,
    eps: NonNegative = 1e-8,
    centered: bool = False,
    eps_inside_root: bool = False,
    initial_square: NonNegative = 0.0,
) -> Transform:
    """The update over its running root mean square, or its running deviation where `centered`.

    v ← α v + (1 − α) u²,  u ← u / (√v + eps), or u / √(v + eps) with `eps_inside_root`. Centered,
    m ← α m + (1 − α) u, and v − m² takes the place of v below the root.

    Source: Tieleman & Hinton 2012 (Coursera, lecture 6e); centered as in Graves 2013
     (arXiv:1308.0850).
    alpha: α, decay rate of the running means.
    eps: added to the denominator, in units of the update.
    centered: take the square of the running mean off.
    eps_inside_root: add eps below the root.
    initial_square: where the running mean of squares begins.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        rest = 1 - hyper.alpha
        square = state["square_avg"].mul_(hyper.alpha).addcmul_(u, u, value=rest)
        if centered:
            mean = state["grad_avg"].lerp_(u, rest)
            # Rounding makes it negative where the updates have long been the same.
            square = square.addcmul(mean, mean, value=-1).clamp_(min=0)
        root = (square + hyper.eps).sqrt_() if eps_inside_root else square.sqrt().add_(hyper.eps)
        return u / root

    squares = {"square_avg": Buffer(_fixed("initial_square", initial_square))}
    return Transform(
        update,
        buffers={**squares, "grad_avg": Buffer()} if centered else squares,
        hyperparameters={"alpha": alpha, "eps": eps},
        scope="element",
    )


@register("transform", "scale_by_adadelta")
def scale_by_adadelta(rho: UnitInterval = 0.9, eps: NonNegative = 1e-6) -> Transform:
    """The update over its running root mean square, times that of what came out so far.

    v ← ρ v + (1 − ρ) u²,  u ← u √(d + eps) / √(v + eps),  d ← ρ d + (1 − ρ) u² of the new u; it
    is therefore in units of the weights.

    Source: Zeiler 2012 (arXiv:1212.5701), Algorithm 1.
    rho: ρ, decay rate of both running means.
    eps: added to both below the root; the first steps are as large as its root.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        square = state["square_avg"].mul_(hyper.rho).addcmul_(u, u, value=1 - hyper.rho)
        delta = state["acc_delta"].add(hyper.eps).sqrt_()
        delta.div_((square + hyper.eps).sqrt_()).mul_(u)
        state["acc_delta"].mul_(hyper.rho).addcmul_(delta, delta, value=1 - hyper.rho)
        return delta

    return Transform(
        update, buffers={"square_avg": Buffer(), "acc_delta": Buffer()}, scope="element"
    )


def _fixed(name: str, value: float | Schedule) -> float:
    """A number that a buffer is filled with. Raises InputError for a schedule."""
    if isinstance(value, Schedule):
        raise InputError(
            f"{name}: what the state begins with is read once; give a number, not a schedule"
        )
    return float(value)
