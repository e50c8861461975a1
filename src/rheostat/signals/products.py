"""The inner products of all signals that are due, in one pass over the tensors of a part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from operator import attrgetter, is_
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rheostat.core.signal import Product, Vector
from rheostat.signals.pieces import Kept, Layout, Piece, Source
from rheostat.signals.sums import Column, Program, Sums
from rheostat.signals.wanted import LAST, MOMENTS, ZEROS, Moment, Wanted

Cells = Any
"""One product: a number, where the host has it. Else the addends, whose sum is taken in float64 on
the host: 0-dimensional tensors, one a piece. What could not be measured is NaN."""

_gradient = attrgetter("grad")
_missing = partial(is_, None)

_LOW, _HIGH = 1e-30, 1e38
"""Outside these (the lower one times the number of elements) what float32 lost may count."""


class Part:
    """Some parameters, seen as one vector.

    Args:
        params: its parameters.
        moments: a moment's name -> its tensor for each parameter, None where a rule has none.
        apart: whether the last update has memory beside that of the weights (`needs_both`).
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        moments: Callable[[Vector], list[Tensor] | None],
        apart: bool,
    ) -> None:
        self.params = list(params)
        self.layout = Layout(params)
        self._find_moment = moments
        self._apart = apart
        self._low = _LOW * self.layout.size
        self._weights = Source(self.layout, steady=True)
        self._gradient = Source(self.layout, steady=False)
        self._moments = {name: Source(self.layout, steady=True) for name in MOMENTS}
        self._moving = Kept(self.layout)
        """The weights, which become the update where they stand."""
        self._last: dict[Column, Kept] = {}
        self._known: set[Vector] = set()
        """What there is of the update before."""
        self._rows: dict[str, list[Piece]] = {}
        self._grads: list[Tensor | None] = []
        """The gradients, from before the update until after it."""
        self._one_pass: Sums | None = None
        self._inside = self._in_one = False

    def sum_in_one(self, take: Callable[[int, int, int], None] | None) -> None:
        """Take all products in one pass by this function (`sums.compiled`) where it can read the
        tensors; None for vector by vector."""
        self._one_pass = None if take is None or not self.layout.host else Sums(self.params, take)

    # -- around one update -----------------------------------------------------------------------

    def before(self, wanted: Wanted) -> list[Cells]:
        """The products of `wanted.early` and `wanted.held`."""
        if self._inside:  # `after` was never called: what was kept is half overwritten
            self._known.clear()
        self._inside = True
        self._grads = [*map(_gradient, self.params)] if wanted.gradient else []
        if any(g is not None and (g.is_neg() or g.is_conj()) for g in self._grads):
            # Negated or conjugated in name only: their memory says something else.
            self._grads = [g if g is None else g.resolve_conj().resolve_neg() for g in self._grads]
        one_pass = self._one_pass
        program = None if one_pass is None else self._program_before(one_pass, wanted)
        self._in_one = program is not None
        if one_pass is None or program is None:
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is taken again
                return self._before(wanted)
        return one_pass.take(program)

    def after(self, wanted: Wanted) -> list[Cells]:
        """The products of `wanted.late` and `wanted.ahead`."""
        one_pass = self._one_pass if self._in_one else None
        program = None if one_pass is None else self._program_after(one_pass, wanted)
        if one_pass is None or program is None:
            with np.errstate(over="ignore", invalid="ignore"):
                cells = self._after(wanted)
        else:
            cells = one_pass.take(program)
        self._known = {name for name in wanted.keeps if name in self._last}
        self._grads = []
        self._inside = self._in_one = False
        return cells

    # -- vector by vector ------------------------------------------------------------------------

    def _before(self, wanted: Wanted) -> list[Cells]:
        self._look(wanted)
        for name in wanted.moments:
            self._see_moment(name)
        cells = self._products(wanted.early)
        if wanted.update:
            self._weights.find(self.params)
            self._moving.take(self._weights)
            self._rows["weights"] = self._moving.pieces
        elif "weights" in wanted.vectors:
            self._rows["weights"] = self._weights.look(self.params)
        return cells + self._products(wanted.held)

    def _after(self, wanted: Wanted) -> list[Cells]:
        rows = self._rows
        if self._in_one:  # until now
            self._look(wanted)
        if wanted.update:
            self._weights.find(self.params)
            self._moving.take_away(self._weights)
            rows["update"] = self._moving.pieces
            rows.pop("weights", None)
            if wanted.weights_now:
                rows["now"] = self._weights.look(self.params)
        for name in wanted.late_moments:
            self._see_moment(name)
        cells = self._products(wanted.late) + self._products(wanted.ahead)
        if wanted.update:
            spare = self._last.get("last_update")
            self._last["last_update"] = self._moving
            if self._apart:
                self._moving = spare or Kept(self.layout)
        if "last_gradient" in wanted.keeps:
            self._memory("last_gradient").copy(rows["gradient"])
        self._gradient.forget()
        rows.clear()
        return cells

    def _look(self, wanted: Wanted) -> None:
        """Open the rows of what is known before the update."""
        rows = self._rows
        rows.clear()
        for name in self._known:
            rows[name] = self._last[name].pieces
        if wanted.gradient:
            pairs = zip(self._grads, self.params, strict=True)
            grads = [torch.zeros_like(p) if g is None else g for g, p in pairs]
            rows["gradient"] = self._gradient.look(grads)

    # -- the same in one pass --------------------------------------------------------------------

    def _program_before(self, one_pass: Sums, wanted: Wanted) -> Program | None:
        """What is to be done before the update; None where a tensor cannot be read so."""
        grads = self._grads
        if not one_pass.look("now", self.params):
            return None
        if any(map(_missing, grads)):
            readable = one_pass.look_at_some("gradient", grads)
        else:
            readable = not grads or one_pass.look_once("gradient", cast("list[Tensor]", grads))
        if not readable:
            return None

        def made(columns: dict[str, Column]) -> Program:
            kept: dict[str, Column] = {"weights": "moving"} if wanted.update else {}
            products = *wanted.early, *wanted.held
            return Program({**columns, "weights": "now"}, products, ZEROS, {}, kept)

        return self._program(one_pass, wanted.moments, wanted.before, made)

    def _program_after(self, one_pass: Sums, wanted: Wanted) -> Program | None:
        """The same of what is to be done after it."""
        if not one_pass.look("now", self.params):
            return None

        def made(columns: dict[str, Column]) -> Program:
            kept: dict[str, Column] = {LAST[name]: name for name in sorted(wanted.keeps)}
            products = *wanted.late, *wanted.ahead
            there: dict[str, Column] = {**columns, "weights": "moving", "now": "now"}
            return Program(there, products, ZEROS, {"update": ("weights", "now")}, kept)

        return self._program(one_pass, wanted.late_moments, wanted.after, made)

    def _program(
        self,
        one_pass: Sums,
        moments: tuple[Moment, ...],
        written: dict[tuple[Any, ...], Program],
        make: Callable[[dict[str, Column]], Program],
    ) -> Program | None:
        """The program for the moments and the vectors of the last update that there are, made once;
        None where a moment cannot be read."""
        there = self._look_at_moments(one_pass, moments)
        if there is None:
            return None
        known = self._known
        key = (there, *sorted(known)) if known else there
        program = written.get(key)
        if program is None:
            columns: dict[str, Column] = {name: name for name in (*there, *known, "gradient")}
            program = written[key] = make(columns)
        for column in program.memory:
            one_pass.hold(column, self._memory(column).tensors)
        return program

    def _look_at_moments(
        self, one_pass: Sums, names: tuple[Moment, ...]
    ) -> tuple[Moment, ...] | None:
        """Those that there are; None where one cannot be read."""
        there: list[Moment] = []
        for name in names:
            found = self._find_moment(name)
            if found is not None:
                if not one_pass.look(name, found):
                    return None
                there.append(name)
        return tuple(there)

    # -- what is kept from one update to the next ------------------------------------------------

    def kept(self, wanted: Wanted) -> dict[Vector, list[Tensor]]:
        """The vectors that the update after `wanted` needs of it, as a tensor a parameter."""
        return {name: self._last[name].tensors for name in self._known & wanted.keeps}

    def put_back(self, kept: dict[Vector, list[Tensor | None]]) -> None:
        """What `kept` gave, from whatever device; what it did not give is not known any more."""
        self._known.clear()
        for name, tensors in kept.items():
            whole = [tensor for tensor in tensors if tensor is not None]
            if len(whole) == len(tensors):
                for mine, theirs in zip(self._memory(name).tensors, whole, strict=True):
                    mine.copy_(theirs)
                self._known.add(name)

    def _memory(self, name: Column) -> Kept:
        if name == "moving":
            return self._moving
        if name not in self._last:
            shared = name == "last_update" and not self._apart
            self._last[name] = self._moving if shared else Kept(self.layout)
        return self._last[name]

    # -- one vector, one product -----------------------------------------------------------------

    def _see_moment(self, name: Vector) -> None:
        found = self._find_moment(name)
        if found is not None:
            self._rows[name] = self._moments[name].look(found)

    def _products(self, products: Sequence[Product]) -> list[Cells]:
        if not self.layout.host:
            return [self._cells(a, b) for a, b in products]
        # What follows is `_cells` for most, without its calls: small models feel each of them.
        rows, low, found = self._rows, self._low, list[Cells]()
        for a, b in products:
            x, y = rows.get(a), rows.get(b)
            if x is None or y is None:
                found.append(sum(self._cells(a, b)))
                continue
            if len(x) == 1:
                total = float(x[0].dot(y[0]))
            else:
                total = sum([float(mine.dot(other)) for mine, other in zip(x, y, strict=True)])
            found.append(total if low < abs(total) < _HIGH else _in_double(x, y))
        return found

    def _cells(self, a: str, b: str) -> list[Any]:
        """The addends of a product."""
        if a == "one" == b:
            return [float(self.layout.size)]
        if {a, b} == {"update", "weights"}:
            # The weights before are the weights now and the update together.
            return [*self._cells("update", "now"), *self._cells("update", "update")]
        if "one" in (a, b):
            x = self._row(a if b == "one" else b)
            return [math.nan] if x is None else self._added(x)
        x, y = self._row(a), self._row(b)
        if x is None or y is None:
            return [math.nan]
        if self.layout.host:
            return [_in_double(x, y)]
        return [mine.dot(other) for mine, other in zip(x, y, strict=True)]

    def _added(self, x: list[Piece]) -> list[Any]:
        """Sums of elements: numpy's are slower than a product with ones."""
        cells = [
            mine.sum() if ones is None else mine.dot(ones)
            for mine, ones in zip(x, self._ones, strict=True)
        ]
        return [*map(float, cells)] if self.layout.host else cells

    def _row(self, name: str) -> list[Piece] | None:
        if name not in ZEROS:
            return self._rows.get(name)
        source, least = ZEROS[name]
        pieces = self._rows.get(source)
        return None if pieces is None else [_at_most(piece, least) for piece in pieces]

    @cached_property
    def _ones(self) -> list[Piece]:
        return [_ones_like(piece) for piece in self._moving.pieces]


def _ones_like(piece: Piece) -> Piece:
    """Ones; None for torch's, whose own sum is fast."""
    return None if isinstance(piece, Tensor) else np.ones_like(piece)


def _at_most(piece: Piece, least: float) -> Piece:
    small = abs(piece) <= least
    return small.to(piece.dtype) if isinstance(piece, Tensor) else small.astype(piece.dtype)


def _in_double(x: list[Piece], y: list[Piece]) -> float:
    """The product where float32 may have lost too much, or nobody has looked."""
    wide = [[torch.as_tensor(piece, dtype=torch.float64) for piece in row] for row in (x, y)]
    return sum([float(mine.dot(other)) for mine, other in zip(*wide, strict=True)])
