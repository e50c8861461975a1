"""Norms over lists of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rheostat.core.sharded import any_sharded, local, summed

_norms: Any = torch._foreach_norm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def squares(tensors: Sequence[Tensor], *, wide: bool = False) -> Tensor:
    """The sum of squares of each tensor: float64, one number a tensor, where the first one is.

    Costs one read of the tensors. Each tensor is summed in its own precision, or in float64 where
    `wide`: then large float32 numbers do not overflow. One of which each process holds a part is
    summed over all of them.
    """
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    if any_sharded(tensors):
        return summed(squares([local(tensor) for tensor in tensors], wide=wide), tensors)
    # One call for all tensors is several times faster than a call each.
    real = list(tensors)
    if wide:
        real = [torch.view_as_real(one) if one.is_complex() else one for one in tensors]
    norms = _norms(real, dtype=torch.float64 if wide else None)
    if any(tensor.device != norms[0].device for tensor in tensors):
        norms = [norm.to(norms[0].device) for norm in norms]
    return torch.stack(norms).double().square()


def peaks(tensors: Sequence[Tensor]) -> Tensor:
    """The largest magnitude in each tensor: infinite or NaN where one of its elements is."""
    return torch.stack(_norms(list(tensors), ord=float("inf"))).double()


def total_norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all elements together; a synchronisation on an accelerator."""
    return math.sqrt(squares(tensors).sum().item())
