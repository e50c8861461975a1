"""Fingerprints: what proves that two runs saw the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a nest of tensors, by content.

    Dtypes and shapes count, devices and strides do not. Tensors may be nested in tuples, lists
    and dicts (whose keys count). Costs one read of the content (about 1 GB/s a core).
    """
    digest = hashlib.sha256()
    for piece in _pieces(value):
        digest.update(piece)
    return digest.hexdigest()[:16]


def _pieces(value: Any) -> Iterable[Any]:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        yield f"{tensor.dtype}{tuple(tensor.shape)}".encode()
        # numpy knows neither bfloat16 nor complex halves; bytes are bytes.
        yield tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""
    elif isinstance(value, Mapping):
        for key, part in cast("Mapping[str, Any]", value).items():
            yield f"{key}:".encode()
            yield from _pieces(part)
    elif isinstance(value, tuple | list):
        for part in cast("tuple[Any, ...]", value):
            yield from _pieces(part)
    else:
        yield repr(value).encode()
