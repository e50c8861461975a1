"""The inner products of all signals that are due, in one pass over the tensors of a part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheostat.core.signal import Product, Vector
from rheostat.signals.pieces import Kept, Layout, Piece, Source

Cells = list[Any]
"""The addends of one product, whose sum is taken in float64, on the host: where all is there, one
number, else 0-dimensional tensors, one a piece. What could not be measured is NaN."""

MOMENTS: tuple[Vector, ...] = ("momentum", "second_moment")
LAST: dict[Vector, Vector] = {"last_gradient": "gradient", "last_update": "update"}
_ZEROS: dict[Vector, tuple[Vector, float]] = {
    "gradient_zeros": ("gradient", 0.0),
    "second_moment_zeros": ("second_moment", 1e-16),
}

_gradient = attrgetter("grad")
_missing = partial(is_, None)

_LOW, _HIGH = 1e-30, 1e38
"""Outside these (the lower one times the number of elements) what float32 lost may count."""


@dataclass(frozen=True)
class Wanted:
    """What is to be taken in one update, for this one and for the next."""

    products: tuple[Product, ...] = ()
    next: tuple[Product, ...] = ()
    """Those of the next update, of which some need this one's gradient or update."""

    @cached_property
    def early(self) -> tuple[Product, ...]:
        """Products without the weights and the update: taken before the weights are copied."""
        rest = [p for p in self.products if "weights" not in p and "update" not in p]
        return tuple(p for p in rest if not is_past(p))

    @cached_property
    def held(self) -> tuple[Product, ...]:
        """Products with the weights, but not the update."""
        return tuple(p for p in self.products if "weights" in p and "update" not in p)

    @cached_property
    def late(self) -> tuple[Product, ...]:
        """Products with the update."""
        return tuple(p for p in self.products if "update" in p)

    @cached_property
    def over(self) -> tuple[Product, ...]:
        """Products of both vectors of the update before, whose values are known since then."""
        return tuple(p for p in self.products if is_past(p))

    @cached_property
    def soon_over(self) -> tuple[Product, ...]:
        """The same of the next update."""
        return tuple(p for p in self.next if is_past(p))

    @cached_property
    def ahead(self) -> tuple[Product, ...]:
        """`soon_over`, under the names that they have in this update."""
        return tuple((LAST[a], LAST[b]) for a, b in self.soon_over)

    @cached_property
    def taken(self) -> tuple[Product, ...]:
        """The products that `Part` takes for this update, in the order in which it does."""
        return (*self.early, *self.held, *self.late)

    @cached_property
    def vectors(self) -> frozenset[Vector]:
        """All vectors of which products are taken in this update."""
        return _vectors((*self.taken, *self.ahead))

    @cached_property
    def late_moments(self) -> tuple[Vector, ...]:
        """Moments beside the update: those after it."""
        return tuple(name for name in MOMENTS if name in _vectors(self.late))

    @cached_property
    def weights_now(self) -> bool:
        """Whether the weights after the update are looked at, for products with it."""
        return "weights" in _vectors(self.late)

    @cached_property
    def keeps(self) -> frozenset[Vector]:
        """What the next update needs of this one, as vectors."""
        found = _vectors(p for p in self.next if not is_past(p))
        return frozenset(vector for vector in LAST if vector in found)

    @cached_property
    def gradient(self) -> bool:
        """Whether the gradient is looked at."""
        return "gradient" in self.vectors or "last_gradient" in self.keeps

    @cached_property
    def update(self) -> bool:
        """Whether the update is taken."""
        return "update" in self.vectors or "last_update" in self.keeps


def is_past(product: Product) -> bool:
    """Whether both vectors are those of the update before."""
    return product[0] in LAST and product[1] in LAST


def needs_both(products: Iterable[Product]) -> bool:
    """Whether the last update must live on beside the weights, from which this one is made."""
    return any(
        "last_update" in product and ("weights" in product or "update" in product)
        for product in products
    )


def _vectors(products: Iterable[Product]) -> frozenset[Vector]:
    found: set[Vector] = {vector for product in products for vector in product}
    found |= {_ZEROS[vector][0] for vector in found if vector in _ZEROS}
    return frozenset(found)


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
        self._last: dict[Vector, Kept] = {}
        self._rows: dict[str, list[Piece]] = {}
        self._inside = False

    # -- around one update -----------------------------------------------------------------------

    def before(self, wanted: Wanted) -> list[Cells]:
        """The products of `wanted.early` and `wanted.held`."""
        needed, rows = wanted.vectors, self._rows
        if self._inside:  # `after` was never called: what was kept is half overwritten
            self._last.clear()
        rows.clear()
        for name, kept in self._last.items():
            rows[name] = kept.pieces
        if wanted.gradient:
            rows["gradient"] = self._gradient.look(self._gradients())
        for name in MOMENTS:
            if name in needed:
                self._see_moment(name)
        cells = self._products(wanted.early)
        if wanted.update:
            self._weights.find(self.params)
            self._moving.take(self._weights)
            rows["weights"] = self._moving.pieces
        elif "weights" in needed:
            rows["weights"] = self._weights.look(self.params)
        self._inside = True
        return cells + self._products(wanted.held)

    def after(self, wanted: Wanted) -> list[Cells]:
        """The products of `wanted.late` and `wanted.ahead`."""
        rows = self._rows
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
        self._inside = False
        return cells

    # -- what is kept from one update to the next ------------------------------------------------

    def kept(self, wanted: Wanted) -> dict[Vector, list[Tensor]]:
        """The vectors that the update after `wanted` needs of it, as a tensor a parameter."""
        return {name: self._last[name].tensors() for name in wanted.keeps if name in self._last}

    def put_back(self, kept: dict[Vector, list[Tensor | None]]) -> None:
        """What `kept` gave, from whatever device; what it did not give is not known any more."""
        self._last.clear()
        for name, tensors in kept.items():
            whole = [tensor for tensor in tensors if tensor is not None]
            if len(whole) == len(tensors):
                for mine, theirs in zip(self._memory(name).tensors(), whole, strict=True):
                    mine.copy_(theirs)

    def _memory(self, name: Vector) -> Kept:
        if name not in self._last:
            shared = name == "last_update" and not self._apart
            self._last[name] = self._moving if shared else Kept(self.layout)
        return self._last[name]

    # -- one vector, one product -----------------------------------------------------------------

    def _gradients(self) -> list[Tensor]:
        found = [*map(_gradient, self.params)]
        if not any(map(_missing, found)):
            return found
        pairs = zip(found, self.params, strict=True)
        return [torch.zeros_like(p) if _missing(g) else g for g, p in pairs]

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
                found.append(self._cells(a, b))
                continue
            if len(x) == 1:
                total = float(x[0].dot(y[0]))
            else:
                total = sum([float(mine.dot(other)) for mine, other in zip(x, y, strict=True)])
            found.append([total] if low < abs(total) < _HIGH else [_in_double(x, y)])
        return found

    def _cells(self, a: str, b: str) -> Cells:
        if a == "one" == b:
            return [float(self.layout.size)]
        if {a, b} == {"update", "weights"}:
            # The weights before are the weights now and the update together.
            cells = [*self._cells("update", "now"), *self._cells("update", "update")]
            return [sum(cells)] if self.layout.host else cells
        if "one" in (a, b):
            x = self._row(a if b == "one" else b)
            return [math.nan] if x is None else self._sums(x)
        x, y = self._row(a), self._row(b)
        if x is None or y is None:
            return [math.nan]
        if self.layout.host:
            return [_in_double(x, y)]
        return [mine.dot(other) for mine, other in zip(x, y, strict=True)]

    def _sums(self, x: list[Piece]) -> Cells:
        """Sums of elements: numpy's are slower than a product with ones."""
        cells = [
            mine.sum() if ones is None else mine.dot(ones)
            for mine, ones in zip(x, self._ones, strict=True)
        ]
        return [sum(map(float, cells))] if self.layout.host else cells

    def _row(self, name: str) -> list[Piece] | None:
        if name not in _ZEROS:
            return self._rows.get(name)
        source, least = _ZEROS[name]
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
