"""Curvature by Hessian–vector products, on request: exact, for about three gradients, and two more
for each power iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal


@register("signal", "curvature_hvp", version=1)
def curvature_hvp(every: Count = 100) -> Signal:
    """The curvature of the loss by Hessian–vector products, as the loop reports it.

    vᵀHv / vᵀv, v the gradient or what power iteration makes of it: the loop reports
    {"curvature_hvp": rayleigh(closure, parameters)} when monitor.due("curvature_hvp").
    Unit: loss per weight².
    Source: Pearlmutter 1994.
    every: updates from one request to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return reading.reported["curvature_hvp"]

    return Signal(
        measure,
        unit="loss per weight²",
        cost="about three gradients, and two for each power iteration",
        reported=("curvature_hvp",),
        every=every,
    )


def rayleigh(
    closure: Callable[[], Tensor], params: Sequence[Tensor], iterations: int = 0
) -> Tensor:
    """vᵀHv / vᵀv of a loss that `closure` computes, v its gradient after so many power iterations.

    With 0 iterations it is the curvature along the gradient; with some ten it nears the eigenvalue
    of the Hessian that is largest in magnitude. Neither `.grad` nor weights are touched. The
    closure is called once; each product costs about two gradients beside its own. NaN where the
    gradient is zero.
    The result is a 0-dimensional tensor where the parameters are: nothing waits for it.
    """
    watched = [param for param in params if param.requires_grad]
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            closure(), watched, create_graph=True, allow_unused=True, materialize_grads=True
        )
    vector = [gradient.detach() for gradient in gradients]
    for _ in range(iterations):
        product = _hessian_times(vector, gradients, watched)
        length = _dot(product, product).sqrt()
        # What the Hessian maps to zero it leaves where it is.
        pairs = zip(vector, product, strict=True)
        vector = [torch.where(length > 0, part / length, kept) for kept, part in pairs]
    product = _hessian_times(vector, gradients, watched)
    return (_dot(vector, product) / _dot(vector, vector)).detach()


def _hessian_times(
    vector: Sequence[Tensor], gradients: Sequence[Tensor], params: Sequence[Tensor]
) -> Sequence[Tensor]:
    if not any(gradient.requires_grad for gradient in gradients):
        return [torch.zeros_like(param) for param in params]  # a loss that is linear
    curved = [(g, v) for g, v in zip(gradients, vector, strict=True) if g.requires_grad]
    return torch.autograd.grad(
        [g for g, _ in curved],
        list(params),
        [v for _, v in curved],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum().double() for x, y in zip(a, b, strict=True)]).sum()
