"""The ring of known-good states: which slots hold what, and since when it has proved itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rheostat.regimes.hands import Hands


@dataclass
class Saved:
    """A copy of the run in a slot: when it was taken, and whether it has proved good since."""

    slot: int
    at: int
    good: bool = False
    used: int = 0
    level: float = math.nan
    """Of the loss, when it was taken."""


class Ring:
    """At most `keep` good states, and a candidate that has yet to prove itself.

    With `start`, the first of them is kept beside them for as long as the run lasts.
    """

    def __init__(self, keep: int, *, start: bool = False) -> None:
        self.keep = keep
        self._fixed = 1 if start else 0
        self._states: list[Saved] = []
        """Oldest first."""

    @property
    def candidate(self) -> Saved | None:
        """The state that has not proved itself yet."""
        return next((state for state in self._states if not state.good), None)

    def newest(self, by: float) -> Saved | None:
        """The newest good state that was taken at this time or before."""
        good = [state for state in self._states if state.good and state.at <= by]
        return good[-1] if good else None

    @property
    def start(self) -> Saved | None:
        """The state of the start, where it is kept and has proved good."""
        first = self._states[0] if self._fixed and self._states else None
        return first if first is not None and first.good else None

    def remember(self, hands: Hands, at: int, level: float = math.nan) -> Saved:
        """Take a state as the candidate, in the place of an older candidate or of the oldest.

        `level` is that of the loss.
        """
        self.drop_candidate()
        if len(self._states) > self.keep + self._fixed:
            del self._states[self._fixed]
        used = {state.slot for state in self._states}
        slot = next(slot for slot in range(len(used) + 1) if slot not in used)
        hands.remember(slot)
        self._states.append(Saved(slot, at, level=level))
        return self._states[-1]

    def drop_candidate(self) -> None:
        """Forget the candidate: something went wrong too soon after it."""
        self._states = [state for state in self._states if state.good]

    def roll_back(self, hands: Hands, by: float) -> Saved | None:
        """Put back the newest good state of this time or before; those after it are forgotten, and
        it too at its second use, where there is an older one: it was not as good as it seemed.

        None where there is no such state; nothing is done then.
        """
        state = self.newest(by)
        if state is not None:
            hands.roll_back(state.slot)
            state.used += 1
            older = [other for other in self._states if other.at < state.at]
            self._states = older if older and state.used > 1 else [*older, state]
        return state

    def state_dict(self) -> list[dict[str, Any]]:
        """As plain values. What is in the slots, the run keeps."""
        return [asdict(state) for state in self._states]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on where another was."""
        self._states = [Saved(**state) for state in states]
