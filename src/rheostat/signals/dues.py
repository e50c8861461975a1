"""What is due in which update: the signals whose periods end there, and what is taken for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rheostat.core.signal import Signal
from rheostat.signals.accounts import union
from rheostat.signals.wanted import Wanted


@dataclass(frozen=True)
class Due:
    """What is measured in one update: the signals by name, what is taken for them, and those of
    the signals that need no report."""

    signals: frozenset[str] = frozenset()
    wanted: Wanted = field(default_factory=Wanted)
    silent: tuple[tuple[str, Signal], ...] = ()

    @cached_property
    def fresh(self) -> frozenset[str]:
        """The names of the silent ones."""
        return frozenset([name for name, _ in self.silent])

    @cached_property
    def idle(self) -> bool:
        """Whether nothing is to be done, for this update or the next."""
        return not (self.signals or self.wanted.gradient or self.wanted.update)


IDLE = Due()


class Dues:
    """What is due in each update, looked up once for each way in which periods end together."""

    def __init__(self, signals: Mapping[str, Signal]) -> None:
        self._signals = {name: one for name, one in signals.items() if not on_report(one)}
        self._periods = sorted({one.every for one in self._signals.values()})
        self._found: dict[tuple[bool, ...], Due] = {}
        """By which periods end in an update and in the one after it."""

    def at(self, step: int) -> Due:
        """What is due in the update that brings the count to `step`."""
        key = tuple([at % every == 0 for at in (step, step + 1) for every in self._periods])
        known = self._found.get(key)
        if known is None:
            here, after = (
                {name: one for name, one in self._signals.items() if one.due(at)}
                for at in (step, step + 1)
            )
            wanted = Wanted(union(here.values()), union(after.values()))
            silent = tuple((name, one) for name, one in here.items() if not one.reported)
            known = self._found[key] = Due(frozenset(here), wanted, silent)
        return known

    def next_end(self, step: int) -> int:
        """The first update after `step` in which a period ends."""
        return min((step - step % every + every for every in self._periods), default=step + 1)


def on_report(signal: Signal) -> bool:
    """Whether it waits for a report and nothing else, and so is due whenever that comes."""
    return bool(signal.reported) and not signal.products
