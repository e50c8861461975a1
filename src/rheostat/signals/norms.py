"""Norms over lists of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def total_norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all elements together, accumulated in float64 over tensors.

    Costs one read of the tensors, and a synchronisation where they are on an accelerator.
    """
    if not tensors:
        return 0.0
    # One call for all tensors is several times faster than a call each.
    norms = torch._foreach_norm(list(tensors))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return math.sqrt(sum(norm.item() ** 2 for norm in norms))
