"""Parameters with names, and some steps of training, the same for every way to run a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Named = list[tuple[str, nn.Parameter]]


def named(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Named:
    """Parameters of these shapes, the same every time."""
    generator = torch.Generator().manual_seed(0)
    return [
        (f"m{i}", nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)))
        for i, shape in enumerate(shapes)
    ]


def train(opt: Any, params: Named, steps: range) -> list[Tensor]:
    """Some steps, in two of which the second parameter has no gradient; the parameters after."""
    for k in steps:
        generator = torch.Generator().manual_seed(k)
        for i, (_, param) in enumerate(params):
            gradient = torch.randn(param.shape, generator=generator, dtype=param.dtype)
            param.grad = None if i == 1 and k in (0, 3) else gradient
        opt.step()
    return [param.detach() for _, param in params]
