"""The Signal shape: one quantity that is measured while training runs.

A signal never reads a tensor itself. It declares the inner products that it is made of
(`products`), over all parameters, and the monitor takes those of all signals that are due in one
pass, where the data is; `measure` then is arithmetic on a few host numbers. What it remembers from
step to step lies in a mapping of plain values that is saved with the run, so that a resumed signal
goes on to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Vector = Literal[
    "one",
    "weights",
    "gradient",
    "update",
    "momentum",
    "second_moment",
    "last_gradient",
    "last_update",
    "gradient_zeros",
    "second_moment_zeros",
]
"""What inner products are taken of, all parameters of a part as one vector: ones, the weights
before the update, the gradient, the update (weights before − after), the first and second moment
where the rule keeps them, and, for what needs two evaluations, the gradient and the update of the
update before this one. `gradient_zeros` is 1 where the gradient is exactly 0, else 0;
`second_moment_zeros` is 1 where √v ≤ 1e-8. Products with the update are taken after it, all others
before: a moment beside anything but the update is the one that this gradient has not yet moved."""

Product = tuple[Vector, Vector]
Memory = dict[str, Any]
"""What a signal or a controller remembers: numbers, strings, booleans, None, lists and mappings of
them; whatever JSON can hold."""


_NONE: Mapping[Any, float] = MappingProxyType({})


class Reading(NamedTuple):
    """What one step has to say, in host numbers. What was not measured is NaN."""

    step: int
    """Updates applied so far, this one included."""
    applied: bool = True
    loss: float = math.nan
    size: int = 0
    """Elements of the parameters that the products are summed over."""
    products: Mapping[Product, float] = _NONE
    reported: Mapping[str, float] = _NONE
    """What the training loop said beside the loss: "validation", "small_square" …"""
    signals: Mapping[str, float] = _NONE
    """The latest value of the signals that are measured before this one."""

    def dot(self, a: Vector, b: Vector) -> float:
        """An inner product, in whichever order it was declared."""
        found = self.products.get((a, b))
        return self.products.get((b, a), math.nan) if found is None else found


@dataclass(frozen=True)
class Signal:
    """One measured quantity.

    Attributes:
        measure: the reading of a step and the signal's memory, which it may write -> its value; NaN
            where it cannot say (yet).
        unit: of the value, as it is printed: "1", "loss per update", "joules".
        cost: in words, what it takes beside arithmetic: "one read of the gradients".
        products: the inner products that it needs; empty for one that lives on the loss alone.
        needs: names of other signals, measured before it.
        reported: names of what the training loop must report for it ("validation").
        every: updates from one measurement to the next; those of `products` fall due together.
        memory: what it starts from.
        name, arguments: who made it, as the registry stamps it.
    """

    measure: Callable[[Reading, Memory], float]
    unit: str
    cost: str
    products: tuple[Product, ...] = ()
    needs: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    every: int = 1
    memory: Mapping[str, Any] = field(default_factory=dict[str, Any])
    name: str = "a signal"
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def stamped(self, component: str, arguments: Mapping[str, Any], numbers: set[str]) -> Signal:
        """The signal, marked with the component that made it."""
        del numbers
        return replace(self, name=component, arguments=arguments)

    def due(self, step: int) -> bool:
        """Whether it is measured in the update that brings the count to `step`."""
        return step % self.every == 0
