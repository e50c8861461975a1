"""What a monitor remembers of each part, and how one step's numbers become signals there."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rheostat.core.errors import InputError
from rheostat.core.signal import Memory, Product, Reading, Signal
from rheostat.signals.wanted import Wanted


@dataclass
class Account:
    """One part: all parameters (its key is ""), a group or a parameter."""

    key: str
    size: int
    memories: dict[str, Memory]
    values: dict[str, float]
    """The latest of each signal."""
    over: dict[Product, float] = field(default_factory=dict[Product, float])
    """Products of the update that was read last, as the one after it calls them."""

    def label(self, signal: str) -> str:
        """What a signal's value over this part is called."""
        return f"{signal}[{self.key}]" if self.key else signal

    def products(self, wanted: Wanted, numbers: Sequence[float]) -> dict[Product, float]:
        """The products of a step, from its numbers in the order in which `Part` takes them."""
        found = dict(zip(wanted.taken, numbers, strict=False))
        if not (wanted.over or wanted.next or self.over):
            return found
        for product in wanted.over:
            found[product] = self.over.get(product, math.nan)
        self.over = dict(zip(wanted.soon_over, numbers[len(wanted.taken) :], strict=True))
        return found

    def measure(self, signals: Iterable[tuple[str, Signal]], reading: Reading) -> None:
        """Measure signals. `reading.signals` has to show `values`, so that each sees those before
        it."""
        values, memories = self.values, self.memories
        for name, signal in signals:
            values[name] = signal.measure(reading, memories[name])

    # -- saving ----------------------------------------------------------------------------------

    def written(self) -> dict[str, Any]:
        """As plain values."""
        over = [[a, b, value] for (a, b), value in self.over.items()]
        return {"memories": copy.deepcopy(self.memories), "values": dict(self.values), "over": over}

    def put_back(self, saved: Mapping[str, Any]) -> None:
        """What `written` gave. Raises InputError where it has other signals, or other memories."""
        if set(saved["memories"]) != set(self.memories):
            where = f" over {self.key}" if self.key else ""
            raise InputError(
                f"the saved monitor measures {', '.join(sorted(saved['memories'])) or 'nothing'}"
                f"{where}, this one {', '.join(sorted(self.memories)) or 'nothing'}"
            )
        for name, memory in self.memories.items():
            if lacking := set(memory) - set(saved["memories"][name]):
                raise InputError(
                    f"the saved memory of {name} lacks {', '.join(sorted(lacking))}: it is that of "
                    "another Rheostat; go on with the one that saved it, or begin anew"
                )
        self.memories = copy.deepcopy(dict(saved["memories"]))
        self.values = dict(saved["values"])
        self.over = {(a, b): value for a, b, value in saved["over"]}


def open_accounts(signals: Mapping[str, Signal], sizes: Mapping[str, int]) -> list[Account]:
    """An account of all parameters, and of every part with a name the signals that are made of
    inner products."""
    made = {"": dict(signals)}
    for key in sizes:
        if key:
            made[key] = {name: signal for name, signal in signals.items() if signal.products}
    return [
        Account(
            key,
            sizes.get(key, sum(sizes.values())),
            {name: copy.deepcopy(dict(signal.memory)) for name, signal in measured.items()},
            dict.fromkeys(measured, math.nan),
        )
        for key, measured in made.items()
    ]


def union(signals: Iterable[Signal]) -> tuple[Product, ...]:
    """All products of some signals, each once, whichever way round it is declared."""
    found: dict[frozenset[str], Product] = {}
    for signal in signals:
        for product in signal.products:
            found.setdefault(frozenset(product), product)
    return tuple(found.values())
