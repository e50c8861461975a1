"""Fingerprints: what proves that two runs saw the same numbers."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

SECTIONS = 32
"""The most parts that `mark` tells apart."""

_SMALL = 1 << 16
"""Bytes below which calling for each tensor costs more than copying them together."""

_ODD = 0x9E3779B97F4A7C15
"""2⁶⁴ over the golden ratio: the product's upper bits depend on all bits of the other factor."""


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a nest of tensors, by content.

    Dtypes and shapes count, devices and strides do not. Tensors may be nested in tuples, lists
    and dicts (whose keys count). Costs one read of the content (about 1 GB/s a core).
    """
    digest = hashlib.sha256()
    for piece in _pieces(value):
        digest.update(piece)
    return digest.hexdigest()[:16]


@torch.no_grad()
def mark(tensors: Sequence[Tensor]) -> str:
    """Four hexadecimal digits for each of the `sections` of a list of tensors: the sum of its bytes
    as 64-bit integers, modulo 2⁶⁴, folded.

    No proof like `fingerprint`, but a change goes unseen once in 65,536 times, and it costs one
    read of the tensors, where they are. Integers are summed, so neither the number of threads nor
    the device matters. A synchronisation on an accelerator.
    """
    totals: list[int] = []
    elsewhere: list[tuple[int, Tensor]] = []
    for i, part in enumerate(sections(len(tensors))):
        totals.append(0)
        for content in _joined(tensors[part]):
            if content.is_cpu:
                totals[i] += _sum(content)
            else:
                elsewhere.append((i, _device_sum(content)))
    if elsewhere:
        device = elsewhere[0][1].device
        sums = torch.stack([one.to(device) for _, one in elsewhere])
        found = cast("list[int]", sums.tolist())
        for (i, _), more in zip(elsewhere, found, strict=True):
            totals[i] += more
    return "".join(f"{(one * _ODD >> 48) & 0xFFFF:04x}" for one in totals)


def sections(count: int) -> list[slice]:
    """Which of `count` tensors make up each section: one a section, or equal runs of several."""
    parts = min(count, SECTIONS)
    return [slice(i * count // parts, (i + 1) * count // parts) for i in range(parts)]


def section_names(names: Sequence[str]) -> list[str]:
    """What each section is called: by its tensor, or by its first and last."""
    runs = [names[part] for part in sections(len(names))]
    return [run[0] if len(run) == 1 else f"{run[0]} … {run[-1]}" for run in runs]


def parted(one: str, other: str, names: Sequence[str]) -> str | None:
    """The first section in which two marks of the same tensors differ; None where none does."""
    for i, name in enumerate(names):
        if one[4 * i : 4 * i + 4] != other[4 * i : 4 * i + 4]:
            return name
    return None


def rng_mark() -> str:
    """Eight hexadecimal digits (CRC-32) of the state of torch's global generators."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    found = 0
    for state in states:
        found = zlib.crc32(state.numpy().data, found)
    return f"{found:08x}"


def _joined(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors' bytes, flat; the small ones of several together."""
    flat = [tensor.reshape(-1).view(torch.uint8) for tensor in tensors]
    small = [one for one in flat if one.numel() <= _SMALL and one.device == flat[0].device]
    if len(small) < 2:
        return flat
    kept = {id(one) for one in small}
    return [torch.cat(small), *(one for one in flat if id(one) not in kept)]


def _sum(content: Tensor) -> int:
    """The sum of bytes in host memory as 64-bit integers; numpy's call costs a third of torch's."""
    found = content.numpy()
    whole = found.size - found.size % 8
    total = int(np.add.reduce(found[:whole].view(np.int64)))
    return total if whole == found.size else total + int(found[whole:].sum())


def _device_sum(content: Tensor) -> Tensor:
    """The same on the device, not yet read; modulo 2⁶⁴ both are."""
    if content.storage_offset() % 8:
        content = content.clone()  # a view as integers must begin at one
    whole = content.numel() - content.numel() % 8
    total = content[:whole].view(torch.int64).sum()
    return total if whole == content.numel() else total + content[whole:].sum(dtype=torch.int64)


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
