"""Norms over lists of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rheostat.core.sharded import any_sharded, local, summed


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of squares of each tensor: float64, one number a tensor, where the first one is.

    Costs one read of the tensors. Each tensor is summed in its own precision; one of which each
    process holds a part is summed over all of them.
    """
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    if any_sharded(tensors):
        return summed(squares([local(tensor) for tensor in tensors]), tensors)
    # One call for all tensors is several times faster than a call each.
    norms = torch._foreach_norm(list(tensors))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    if any(tensor.device != norms[0].device for tensor in tensors):
        norms = [norm.to(norms[0].device) for norm in norms]
    return torch.stack(norms).double().square()


def total_norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all elements together; a synchronisation on an accelerator."""
    return math.sqrt(squares(tensors).sum().item())
