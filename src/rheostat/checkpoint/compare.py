"""Where two checkpoints part: every tensor and every value of the documents that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from rheostat.checkpoint.load import Checkpoint
from rheostat.checkpoint.tensors import bits
from rheostat.core.durable import JsonObject

Tensors = Mapping[str, Mapping[str, Tensor]]


def differences(one: Checkpoint, other: Checkpoint) -> list[str]:
    """A line for each difference, to the bit; empty where the two hold the same.

    Steps, times and scores of the two are not compared.
    """
    return [
        *tensors_that_differ(one.tensors, other.tensors),
        *values_that_differ(dict(one.documents), dict(other.documents)),
    ]


def tensors_that_differ(one: Tensors, other: Tensors) -> Iterator[str]:
    """A line for each tensor that differs to the bit, as FILE/NAME, in the order of these."""
    mine = {f"{file}/{n}": t for file, named in one.items() for n, t in named.items()}
    theirs = {f"{file}/{n}": t for file, named in other.items() for n, t in named.items()}
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in theirs or name not in mine:
            yield f"{name}: only in the {'first' if name in mine else 'second'}"
        elif line := _difference(mine[name], theirs[name]):
            yield f"{name}: {line}"


def _difference(one: Tensor, other: Tensor) -> str | None:
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"{_kind(one)} in the first, {_kind(other)} in the second"
    changed = (bits(one) != bits(other)).any(-1) if one.numel() else torch.zeros(0)
    count = int(changed.sum())
    if not count:
        return None
    return f"{count:,} of {one.numel():,} elements differ, the first at {_place(one, changed)}"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _place(tensor: Tensor, changed: Tensor) -> str:
    """The index of the first element that differs."""
    flat = changed.int().argmax()
    return str([int(i) for i in torch.unravel_index(flat, tensor.shape)])


def values_that_differ(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """A line for each value that differs between two nests of mappings and lists; `where` is their
    place in what they are part of."""
    if isinstance(one, dict) and isinstance(other, dict):
        first, second = cast("JsonObject", one), cast("JsonObject", other)
        for key in [*first, *(key for key in second if key not in first)]:
            place = f"{where}.{key}" if where else key
            if key not in second or key not in first:
                yield f"{place}: only in the {'first' if key in first else 'second'}"
            else:
                yield from values_that_differ(first[key], second[key], place)
    elif isinstance(one, list) and isinstance(other, list):
        ours, others = cast("list[Any]", one), cast("list[Any]", other)
        if len(ours) != len(others):
            yield f"{where}: {len(ours)} items in the first, {len(others)} in the second"
        for i, (a, b) in enumerate(zip(ours, others, strict=False)):
            yield from values_that_differ(a, b, f"{where}[{i}]")
    # By their text: nan is nan, 0.0 is not -0.0 and 1 is not True.
    elif (mine := repr(cast("object", one))) != (theirs := repr(cast("object", other))):
        yield f"{where}: {mine[:60]} in the first, {theirs[:60]} in the second"
