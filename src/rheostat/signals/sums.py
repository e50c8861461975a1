"""All sums of one look at some tensors, on the CPU, in one pass of C++ over them where they lie.

A program says what is done with a block of 512 elements that lies in the cache: which vectors are
read, which are differences, which are written to memory, and of which pairs the product is summed.
Sums are taken in double precision. In float32 eight products at a time are added in their own
first, unless the sum over the block is below 1e-28 or above 1e37: with a product's own rounding and
two more sums that is an error of at most 11 · 2⁻²⁴ = 7e-7 of the sum of the terms' sizes.

Each tensor is cut into shares of 16,384 elements. In a share each place of a stride has a sum of
its own; these are added in one order, and then the shares in theirs: the bits depend on neither
the threads nor the processor.
"""

from __future__ import annotations

import array
import ctypes
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rheostat.core import compiler
from rheostat.core.signal import Product, Vector
from rheostat.signals.sums_source import SOURCE

LOST = "signals are summed vector by vector, several times slower"

SHARE = 16_384
"""Elements that one thread sums at a time."""
THREADS_FROM = 2**17
"""Elements from which threads pay."""

Column = Vector | Literal["now", "moving"]
"""Where a vector lies: in parameters, gradients, the optimizer's state, or a monitor's memory."""
COLUMNS: dict[Column, int] = {
    "now": 0,
    "gradient": 1,
    "momentum": 2,
    "second_moment": 3,
    "moving": 4,
    "last_gradient": 5,
    "last_update": 6,
}
MEMORY: tuple[Column, ...] = ("moving", "last_gradient", "last_update")
KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
"""The dtypes that are read; others are summed in the slower way."""

_PLAIN = {Tensor, torch.nn.Parameter}  # an address says nothing of what a subclass holds
_READ, _SUBTRACT, _AT_MOST, _ONES = range(4)

_address = Tensor.data_ptr
_contiguous = Tensor.is_contiguous
_dtype, _layout, _on_host = attrgetter("dtype"), attrgetter("layout"), attrgetter("is_cpu")
_numel = Tensor.numel
_bytes = attrgetter("nbytes")


@functools.cache
def compiled() -> Callable[[int, int, int], None] | None:
    """The function, or None (said once) where there is no compiler for it."""
    library = compiler.library(SOURCE, LOST)
    if library is None:
        return None
    take: Any = library.take
    take.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    take.restype = None
    return take


class Program:
    """What is done with each block, and the products that are summed.

    Args:
        columns: vectors that are read, and from where.
        products: what is wanted, in order; NaN for those with a vector that is not there.
        least: vectors that are 1 where another is no larger in magnitude than a number, else 0.
        differences: a vector -> the two of which it is the difference.
        kept: vectors that are written, and to where; after all has been read.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        products: Sequence[Product],
        least: Mapping[str, tuple[Vector, float]],
        differences: Mapping[str, tuple[str, str]],
        kept: Mapping[str, Column],
    ) -> None:
        self._columns, self._least, self._differences = columns, least, differences
        self._rows: dict[str, int] = {}
        self.memory: set[Column] = {*kept.values()}
        """The columns of a monitor's own memory that are read or written."""
        self._steps = array.array("q")
        for vector in kept:
            self._row(vector)
        pairs = array.array("q")
        self.picks: list[int] = []
        """Where each product is found: among the sums, or behind them NaN (-2), and the number of
        elements (-1)."""
        for a, b in products:
            if a == "one" == b:
                self.picks.append(-1)
            elif self._has(a) and self._has(b):
                self.picks.append(len(pairs) // 2)
                pairs.extend((self._row(a), self._row(b)))
            else:
                self.picks.append(-2)
        self.count = len(pairs) // 2
        stores = array.array("q")
        for vector, column in kept.items():
            stores.extend((self._rows[vector], COLUMNS[column]))
        self._tables = self._steps, pairs, stores
        lengths = len(self._rows), self.count, len(kept)
        starts = (table.buffer_info()[0] for table in self._tables)
        self._struct = array.array("q", chain(*zip(starts, lengths, strict=True)))
        self.address = self._struct.buffer_info()[0]
        self.plain = self.picks == [*range(self.count)]
        """Whether they are the sums, in order."""

    def _has(self, vector: str) -> bool:
        source = self._least.get(vector, (vector, 0.0))[0]
        return source == "one" or source in self._columns or source in self._differences

    def _row(self, vector: str) -> int:
        """The row that a vector is in, which is computed where it is not there yet."""
        if vector in self._rows:
            return self._rows[vector]
        if vector in self._columns:
            column = self._columns[vector]
            if column in MEMORY:
                self.memory.add(column)
            step = (_READ, COLUMNS[column], 0)
        elif vector in self._differences:
            step = (_SUBTRACT, *map(self._row, self._differences[vector]))
        elif vector in self._least:
            source, least = self._least[vector]
            step = (_AT_MOST, self._row(source), int(np.float64(least).view(np.int64)))
        else:
            step = (_ONES, 0, 0)
        row = self._rows[vector] = len(self._rows)
        self._steps.extend(step)
        return row


class Sums:
    """The sums of some tensors: the tables of their addresses, and the call.

    Args:
        params: what is looked at, with all that has their shapes.
        take: `compiled()`.
    """

    def __init__(self, params: Sequence[Tensor], take: Callable[[int, int, int], None]) -> None:
        self._params, self._take = params, take
        self._lengths = [*map(_numel, params)]
        count = self._count = len(params)
        self._addresses = array.array("Q", bytes(8 * count * len(COLUMNS)))
        self._kinds = array.array("q", bytes(8 * count * len(COLUMNS)))
        self._tensors: dict[Column, Sequence[Tensor]] = {}
        """What was looked at last, where it is held; of all columns what is known: the types, the
        addresses, the sizes."""
        self._dtypes: dict[Column, list[torch.dtype]] = {}
        self._known: dict[Column, list[int]] = {}
        self._bytes: dict[Column, list[int]] = {}
        self._shares = array.array(
            "q",
            chain.from_iterable(
                (tensor, start, min(SHARE, length - start))
                for tensor, length in enumerate(self._lengths)
                for start in range(0, length, SHARE)
            ),
        )
        self._size = sum(self._lengths)
        self._several = self._size >= THREADS_FROM
        self._parts = self._sums = array.array("d")
        self._struct = array.array("q")
        self._make_room(1)

    def look(self, column: Column, tensors: Sequence[Tensor]) -> bool:
        """Read these from now on; False where one cannot be read here.

        They are held until the next look, so that nothing else comes to lie where they do.
        """
        try:
            addresses = [*map(_address, tensors)]
        except RuntimeError:  # sparse: there is not one piece of memory
            return False
        if addresses == self._known.get(column) and [*map(_bytes, tensors)] == self._bytes[column]:
            return True
        if not self._readable(column, tensors):
            return False
        self._tensors[column], self._bytes[column] = tensors, [*map(_bytes, tensors)]
        self._put(column, addresses)
        return True

    def look_once(self, column: Column, tensors: Sequence[Tensor]) -> bool:
        """The same of tensors that will be others at the next look, and are not held here."""
        if not self._readable(column, tensors):
            return False
        self._put(column, [*map(_address, tensors)])
        return True

    def hold(self, column: Column, tensors: Sequence[Tensor]) -> None:
        """Read and write this memory, which does not move."""
        if self._tensors.get(column) is not tensors:
            self.look(column, tensors)

    def look_at_some(self, column: Column, tensors: Sequence[Tensor | None]) -> bool:
        """The same of what may be missing, and then counts as zeros."""
        there = [p if t is None else t for t, p in zip(tensors, self._params, strict=True)]
        if not self._readable(column, there):
            return False
        pairs = zip(tensors, there, strict=True)
        self._put(column, [0 if t is None else one.data_ptr() for t, one in pairs])
        return True

    def _readable(self, column: Column, tensors: Sequence[Tensor]) -> bool:
        strided = [*map(_layout, tensors)].count(torch.strided)
        if not _PLAIN.issuperset(map(type, tensors)) or strided < len(tensors):
            return False
        # More must not be read than is there.
        if not all(map(_contiguous, tensors)) or [*map(_numel, tensors)] != self._lengths:
            return False
        dtypes = [*map(_dtype, tensors)]
        if dtypes != self._dtypes.get(column):
            if not KINDS.keys() >= {*dtypes} or not all(map(_on_host, tensors)):
                return False
            self._dtypes[column] = dtypes
            at = COLUMNS[column] * self._count
            kinds = array.array("q", [KINDS[dtype] for dtype in dtypes])
            self._kinds[at : at + self._count] = kinds
        return True

    def _put(self, column: Column, addresses: list[int]) -> None:
        if addresses != self._known.get(column):
            self._known[column] = addresses
            at = COLUMNS[column] * self._count
            self._addresses[at : at + self._count] = array.array("Q", addresses)

    def take(self, program: Program) -> list[float]:
        """The program's products, in order; and its vectors are written."""
        count = program.count
        if count > len(self._sums):
            self._make_room(count)
        threads = torch.get_num_threads() if self._several else 1
        self._take(program.address, self._address, threads)
        found = self._sums[:count].tolist()
        if program.plain:
            return found
        found += (math.nan, float(self._size))
        return [found[pick] for pick in program.picks]

    def _make_room(self, count: int) -> None:
        shares = len(self._shares) // 3
        self._parts = array.array("d", bytes(8 * count * shares))
        self._sums = array.array("d", bytes(8 * count))
        tables = self._addresses, self._kinds, self._shares, self._parts, self._sums
        addresses, kinds, cuts, parts, sums = (table.buffer_info()[0] for table in tables)
        struct = addresses, kinds, self._count, cuts, shares, parts, sums
        self._struct = array.array("q", struct)
        self._address = self._struct.buffer_info()[0]
