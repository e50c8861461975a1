"""Norms, as several families of pieces take them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError

_linalg: Any = torch.linalg


def norm(u: Tensor) -> Tensor:
    """‖u‖₂ of all elements: 0-dim, float64, summed in u's own precision (halves in float32)."""
    return _linalg.vector_norm(_whole(u)).double()


def unit_norm(u: Tensor, dim: int | None = 0) -> Tensor:
    """‖u‖₂ of each unit, shaped to multiply with u: one unit an index of dimension `dim`.

    A vector or a scalar is one unit, and so is everything where `dim` is None. Raises InputError
    for a dimension that u has not.
    """
    check_dim(dim, u)
    kept = None if dim is None or u.ndim <= 1 else dim % u.ndim
    others = tuple(d for d in range(u.ndim) if d != kept)
    return cast("Tensor", _whole(u).norm(2, dim=others, keepdim=True))


def check_dim(dim: int | None, u: Tensor) -> None:
    """Raises InputError where `dim` is no dimension of u, for all that is not one unit anyway."""
    if dim is not None and u.ndim > 1 and not -u.ndim <= dim < u.ndim:
        raise InputError(
            f"dim={dim}: is no dimension of a parameter of shape {tuple(u.shape)}; should be "
            f"{-u.ndim} to {u.ndim - 1}, or None"
        )


def _whole(u: Tensor) -> Tensor:
    return u.float() if u.dtype in (torch.float16, torch.bfloat16) else u
