"""What is to be taken of an update: which inner products, when, and what the next one needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from rheostat.core.signal import Product, Vector
from rheostat.signals.sums import Program

Moment = Literal["momentum", "second_moment"]
MOMENTS: tuple[Moment, ...] = ("momentum", "second_moment")
LAST: dict[Vector, Vector] = {
    "last_gradient": "gradient",
    "last_update": "update",
}
ZEROS: dict[str, tuple[Vector, float]] = {
    "gradient_zeros": ("gradient", 0.0),
    "second_moment_zeros": ("second_moment", 1e-16),
}


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
    def moments(self) -> tuple[Moment, ...]:
        """Moments of which products are taken."""
        return tuple(name for name in MOMENTS if name in self.vectors)

    @cached_property
    def late_moments(self) -> tuple[Moment, ...]:
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
        return frozenset([vector for vector in LAST if vector in found])

    @cached_property
    def gradient(self) -> bool:
        """Whether the gradient is looked at."""
        return "gradient" in self.vectors or "last_gradient" in self.keeps

    @cached_property
    def update(self) -> bool:
        """Whether the update is taken."""
        return "update" in self.vectors or "last_update" in self.keeps

    @cached_property
    def before(self) -> dict[tuple[Any, ...], Program]:
        """What has been written to take those before the update in one pass, by what there is."""
        return {}

    @cached_property
    def after(self) -> dict[tuple[Any, ...], Program]:
        """The same of those after it."""
        return {}


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
    found |= {ZEROS[vector][0] for vector in found if vector in ZEROS}
    return frozenset(found)
