"""Momentum: a running sum of updates."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Fraction, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform


@register("transform", "trace")
def trace(
    momentum: Fraction = 0.9, dampening: UnitInterval = 0.0, nesterov: bool = False
) -> Transform:
    """Heavy-ball momentum, as torch.optim.SGD has it: b ← momentum · b + (1 − dampening) · u.

    The first update of a parameter enters undamped. With `nesterov` the update is
    u + momentum · b, otherwise b itself.

    Source: Sutskever et al. 2013 (ICML).
    momentum: share of the buffer that a step keeps.
    dampening: share of the update that does not enter.
    nesterov: look ahead by one momentum.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        buffer = state["momentum_buffer"]
        weight = 1.0 - hyper.dampening * (hyper.step > 1)
        buffer.mul_(hyper.momentum).add_(u, alpha=weight)
        # The buffer itself must not leave: what follows in the chain may not write into it,
        # but a caller could.
        return u.add(buffer, alpha=hyper.momentum) if nesterov else buffer.clone()

    return Transform(update, buffers={"momentum_buffer": Buffer()}, scope="element")
