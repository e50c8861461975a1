"""Many tensors as one long vector, in the few pieces in which inner products are cheap.

Small tensors are gathered into one buffer, large ones are read where they lie. On the CPU pieces
that fit the cache are numpy's, whose calls cost a third of torch's; both know `dot` and `-=`, and
so what is computed with them is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

_address = Tensor.data_ptr
_layout = attrgetter("layout")

GATHER = 2**15
"""Tensors with fewer elements are gathered; above it a call of its own costs less than the copy."""
GATHER_ON_DEVICE = 2**20
"""The same where a call is a kernel's launch."""
NUMPY = 2**18
"""Above so many elements a piece is torch's, whose sums take all its threads."""

HOST = "cpu"
"""The type of device whose numbers the host has without waiting."""

Piece = Any
"""A vector of float32 or float64: numpy's or torch's."""


def real(tensor: Tensor) -> Tensor:
    """Without the graph, dense, a complex tensor as pairs of reals."""
    plain = tensor.detach()
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    return torch.view_as_real(plain) if plain.is_complex() else plain


def as_piece(flat: Tensor) -> Piece:
    """A vector as numpy's where that is cheaper, else as it is; the memory is shared."""
    host = flat.device.type == HOST and flat.numel() <= NUMPY
    return flat.numpy() if host else flat


def put(mine: Piece, theirs: Piece) -> None:
    """Copy one piece into another of its kind."""
    if isinstance(mine, Tensor):
        mine.copy_(theirs)
    else:
        mine[:] = theirs


class Buffer:
    """Where small tensors are gathered: `views` has the shape of each, `piece` is all of it."""

    def __init__(self, shapes: list[torch.Size], dtype: torch.dtype, device: torch.device) -> None:
        sizes = [shape.numel() for shape in shapes]
        flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
        parts: Sequence[Tensor] = torch.split(flat, sizes)
        self.views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        self.piece = as_piece(flat)
        self._arrays = [as_piece(part) for part in parts]
        self._still = torch.no_grad()  # making one takes as long as copying a small tensor

    def fill(self, arrays: list[Any] | None, tensors: list[Tensor]) -> None:
        """Copy the tensors in; from numpy's views of them where there are some."""
        if arrays is not None and not isinstance(self.piece, Tensor):
            np.concatenate(arrays, out=self.piece)
        else:
            with self._still:
                torch._foreach_copy_(self.views, tensors)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]  (one call for all)

    def take_away(self, arrays: list[Any] | None, tensors: list[Tensor]) -> None:
        """Subtract the tensors from what is here."""
        if arrays is not None and not isinstance(self.piece, Tensor):
            for mine, theirs in zip(self._arrays, arrays, strict=True):
                np.subtract(mine, theirs, mine)
        else:
            with self._still:
                torch._foreach_sub_(self.views, tensors)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]  (one call for all)


class Layout:
    """How the tensors of a part fall into pieces, by their shapes, types and devices alone."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        plain = [real(tensor) for tensor in like]
        self.size = sum(tensor.numel() for tensor in plain)
        self.shapes = [tensor.shape for tensor in plain]
        self.host = all(tensor.device.type == HOST for tensor in plain)
        self.complex = any(tensor.is_complex() for tensor in like)
        self.devices = [tensor.device for tensor in plain]
        self.dtypes = [_summed_in(tensor.dtype) for tensor in plain]
        self.large = [i for i, tensor in enumerate(plain) if _stays(tensor, self.dtypes[i])]
        sets: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for i in sorted(set(range(len(plain))) - set(self.large)):
            sets.setdefault((self.devices[i], self.dtypes[i]), []).append(i)
        self.small = list(sets.values())
        """Those that are gathered, by device and type: the positions of each set."""
        self.one = len(self.small) == 1 and not self.large

    def buffers(self) -> list[Buffer]:
        """Memory for the small tensors of one vector."""
        return [
            Buffer([self.shapes[i] for i in one], self.dtypes[one[0]], self.devices[one[0]])
            for one in self.small
        ]


def _summed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _stays(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether it is a piece of its own. Others than contiguous ones have no cheap flat view, and
    shorter floats would be summed in their own precision."""
    least = GATHER if tensor.device.type == HOST else GATHER_ON_DEVICE
    return tensor.numel() >= least and tensor.is_contiguous() and tensor.dtype == dtype


class Source:
    """One vector, read from tensors that may be others at each step.

    A `steady` one (weights, moments) keeps numpy's views of them as long as their addresses stay;
    for gradients, which mostly are new at each step, that would keep memory from being freed.
    """

    def __init__(self, layout: Layout, steady: bool) -> None:
        self._layout = layout
        self._steady = steady and layout.host
        self._addresses: list[int] | None = None
        self.small: list[tuple[list[Any] | None, list[Tensor]]] = []
        """Of each set of small tensors numpy's flat views, where there are some, and themselves."""
        self._buffers: list[Buffer] | None = None
        self.large: list[Piece] = []
        """The pieces of the large tensors, in their own memory."""
        self._pieces: list[Piece] = []

    def look(self, tensors: list[Tensor]) -> list[Piece]:
        """The pieces of these tensors; those of small ones are copies."""
        if self._buffers is None:
            self._buffers = self._layout.buffers()
        self.find(tensors)
        if not self._pieces:
            self._pieces = [*[buffer.piece for buffer in self._buffers], *self.large]
        self.gather(self._buffers)
        return self._pieces

    def find(self, tensors: list[Tensor]) -> None:
        """Look at these tensors from now on."""
        layout = self._layout
        strided = [*map(_layout, tensors)].count(torch.strided) == len(tensors)
        addresses = [*map(_address, tensors)] if self._steady and strided else None
        if addresses is not None and addresses == self._addresses:
            return
        self._pieces = []
        found = tensors if strided and not layout.complex else [*map(real, tensors)]
        flats = [found[i].detach().reshape(-1).to(layout.dtypes[i]) for i in layout.large]
        self.large = [*map(as_piece, flats)]
        self.small = (
            [(None, found)]
            if layout.one
            else [(None, [found[i] for i in one]) for one in layout.small]
        )
        if self._steady:
            self.small = [(_arrays(tensors), tensors) for _, tensors in self.small]
            # What is a copy is stale by the next step.
            copied = any(
                flat.data_ptr() != found[i].data_ptr()
                for flat, i in zip(flats, layout.large, strict=True)
            )
            self._addresses = None if copied else addresses

    def gather(self, buffers: list[Buffer]) -> None:
        """Copy the small tensors into these buffers, one for each set of them."""
        for buffer, (arrays, tensors) in zip(buffers, self.small, strict=True):
            buffer.fill(arrays, tensors)

    def forget(self) -> None:
        """Let go of tensors that are not looked at again."""
        self.large, self._pieces, self.small, self._addresses = [], [], [], None


def _arrays(tensors: list[Tensor]) -> list[Any] | None:
    """numpy's flat views of tensors, or None where one has none, or they differ in type."""
    dtype = _summed_in(tensors[0].dtype)
    if all(t.is_contiguous() and t.dtype == dtype for t in tensors):
        return [tensor.detach().reshape(-1).numpy() for tensor in tensors]
    return None


class Kept:
    """One vector in memory of its own, which does not move."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._buffers = layout.buffers()
        self._flats = [
            torch.zeros(layout.shapes[i].numel(), dtype=layout.dtypes[i], device=layout.devices[i])
            for i in layout.large
        ]
        self._large = [as_piece(flat) for flat in self._flats]
        self.pieces: list[Piece] = [*(one.piece for one in self._buffers), *self._large]

    def take(self, source: Source) -> None:
        """Copy a vector."""
        source.gather(self._buffers)
        for mine, theirs in zip(self._large, source.large, strict=True):
            put(mine, theirs)

    def take_away(self, source: Source) -> None:
        """Subtract a vector."""
        for buffer, (arrays, tensors) in zip(self._buffers, source.small, strict=True):
            buffer.take_away(arrays, tensors)
        for mine, theirs in zip(self._large, source.large, strict=True):
            mine -= theirs  # noqa: PLW2901  (where it stands)

    def copy(self, pieces: list[Piece]) -> None:
        """Copy a vector that is in pieces already."""
        for mine, theirs in zip(self.pieces, pieces, strict=True):
            put(mine, theirs)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Each tensor, in its shape, in the order of the layout; the memory is shared."""
        layout = self._layout
        found: dict[int, Tensor] = {}
        for one, buffer in zip(layout.small, self._buffers, strict=True):
            found |= zip(one, buffer.views, strict=True)
        for i, flat in zip(layout.large, self._flats, strict=True):
            found[i] = flat.view(layout.shapes[i])
        return [found[i] for i in range(len(found))]
