"""The last word of most chains: the step size."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform


@register("transform", "scale_by_learning_rate")
def scale_by_learning_rate(lr: NonNegative = 1e-3) -> Transform:
    """Multiply the update by the learning rate: u ← lr · u.

    The loop puts it at the end of a chain that has no step size of its own.

    lr: step size.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * hyper.lr

    return Transform(update, scope="element", scaled=True, sparse=True)
