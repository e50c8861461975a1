"""The regime of a run: controllers, the arbiter and the safeguard, asked after every step."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from rheostat.core.controller import Controller, Now
from rheostat.core.errors import InputError
from rheostat.core.signal import Memory
from rheostat.regimes.account import Account
from rheostat.regimes.actuator import Actuator
from rheostat.regimes.arbiter import Arbiter
from rheostat.regimes.book import Book
from rheostat.regimes.course import Course
from rheostat.regimes.grants import Asked, Terms
from rheostat.regimes.hands import Hands, Idle
from rheostat.regimes.planned import Factors, Planned
from rheostat.regimes.safeguard import Care, Safeguard

_JUMP = 1.5
"""A rise of the planned learning rate from one update to the next that is a new beginning: what the
loss did before it is no forecast of what it will do."""


class Regime:
    """Controllers, bounded.

    Args:
        controllers: asked in this order; two of one name are told apart by a number.
        terms: the arbiter's.
        care: the safeguard's; None for none.
        dry_run: decide and write accounts, change nothing. Factors are then those that would be.

    Raises:
        InputError: what is no controller, one that is called as the arbiter or the safeguard is.
    """

    def __init__(
        self,
        controllers: Sequence[Controller],
        terms: Terms | None = None,
        care: Care | None = None,
        *,
        dry_run: bool = False,
    ) -> None:
        self.terms = terms or Terms()
        self.controllers = dict(zip(_names(controllers), controllers, strict=True))
        self.dry_run = dry_run
        self.course = Course(self.terms.history)
        self.book = Book(self.terms.window, dry_run)
        start = any(one.keeps_start for one in controllers)
        self.actuator = Actuator(
            self.terms.bounds,
            care.keep if care else 1,
            start=start,
            on_time=care is not None and care.on_time,
        )
        parts = (self.actuator, self.book, self.course)
        self.arbiter = Arbiter(self.terms, *parts)
        self.safeguard = Safeguard(care, self.terms.rollbacks, *parts) if care else None
        self.at = 0
        """Steps seen; a roll back does not take them back."""
        self._memories: dict[str, Memory] = {
            name: copy.deepcopy(dict(of.memory)) for name, of in self.controllers.items()
        }
        self._deaf: dict[str, int] = dict.fromkeys(self.controllers, 0)
        self._planned_lr = math.nan

    @property
    def needs(self) -> tuple[str, ...]:
        """The signals that must be measured for it, each once."""
        wanted = [signal for one in self.controllers.values() for signal in one.needs]
        return tuple(dict.fromkeys([*wanted, "gradient_norm"] if self.safeguard else wanted))

    @property
    def acts_on(self) -> tuple[str, ...]:
        """The hyperparameters that it may change, each once."""
        wanted = [name for one in self.controllers.values() for name in one.acts_on]
        return tuple(dict.fromkeys([*wanted, "lr"] if self.safeguard else wanted))

    def after(self, now: Now, hands: Hands) -> list[Account]:
        """Take a step in and decide; what is decided takes effect with the next update.

        Call it after every step that was an update or a skipped one, not after one that only
        accumulated. `now` needs no factors, shares or planned values: they are filled in here.
        """
        if self.dry_run:
            hands = Idle(hands)
        self.at += 1
        new = self._notice_new_beginning(hands)
        self.course.add(now.applied, now.loss)
        self.book.add(now.applied, now.loss)
        before = self.course.median(self.terms.window)
        self.book.begin(self.at, now.step, self.actuator.segment, before)
        if new:
            self.arbiter.void("the schedule began again before it was measured", self.at, hands)
        requests = self.safeguard.watch(now, self.at, hands) if self.safeguard else []
        harm = self.arbiter.follow(now, self.at, hands)
        if self.safeguard and harm is not None:
            requests.append(self.safeguard.ask("a trial did harm", {}, before=harm))
        requests += self._asked(now, hands)
        segment = self.actuator.segment
        self.arbiter.hear(requests, self.at, hands)
        if self.actuator.segment > segment:
            self._begin_again(now.step, hands)
        self._notice_deafness(hands)
        self.actuator.advance(hands)
        return self.book.take()

    def _asked(self, now: Now, hands: Hands) -> list[Asked]:
        planned = Planned(hands, self.acts_on)
        factors = Factors({**dict.fromkeys(planned, 1.0), **self.actuator.knobs.factors()})
        factors["batch"] = self.actuator.growth
        off = self.actuator.knobs.backed_off()
        now = replace(now, factors=factors, planned=planned, backed_off=off)
        requests: list[Asked] = []
        for name, one in self.controllers.items():
            self._deaf[name] = 0 if one.hears(now) else self._deaf[name] + 1
            if one.due(now):
                shares = self.actuator.knobs.shares(name)
                seen = replace(now, shares=shares) if shares else now
                decisions = one.asked(seen, self._memories[name])
                requests += [Asked(name, one.priority, decision) for decision in decisions]
        return requests

    def _notice_deafness(self, hands: Hands) -> None:
        for name, steps in self._deaf.items():
            if steps == self.terms.deaf and any(
                share != 1 for share in self.actuator.knobs.shares(name).values()
            ):
                needs = ", ".join(self.controllers[name].needs)
                why = f"{name} has missed its signals ({needs}) for {steps} steps: back to the plan"
                self.arbiter.take_back(name, why, self.at, hands)

    def _notice_new_beginning(self, hands: Hands) -> bool:
        planned = next(iter(hands.planned("lr").values()), math.nan)
        new = planned > _JUMP * self._planned_lr
        if new:
            self.course.forget()
        self._planned_lr = planned
        return new

    def _begin_again(self, step: int, hands: Hands) -> None:
        self.book.begin(self.at, step, self.actuator.segment, math.nan)
        if self.safeguard:
            smaller = self.safeguard.rolled_back(self.at, hands)
            self.arbiter.hear(smaller, self.at, hands)
        self.course.put_back()
        self._planned_lr = math.nan

    def finish(self) -> list[Account]:
        """What is still to be told when a run ends."""
        return self.book.finish()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on, as plain values, of its own."""
        state = {
            "at": self.at,
            "memories": self._memories,
            "deaf": self._deaf,
            "planned_lr": self._planned_lr,
            "course": self.course.state_dict(),
            "book": self.book.state_dict(),
            "actuator": self.actuator.state_dict(),
            "arbiter": self.arbiter.state_dict(),
            "safeguard": self.safeguard.state_dict() if self.safeguard else None,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another regime of the same controllers was.

        Raises InputError for the state of other controllers, or what is none.
        """
        if lacking := self.state_dict().keys() - state.keys():
            raise InputError(f"this is no state of a regime: it lacks {', '.join(sorted(lacking))}")
        mine, theirs = list(self.controllers), list(state["memories"])
        if mine != theirs or (state["safeguard"] is None) != (self.safeguard is None):
            raise InputError(
                f"the regime was saved with the controllers {', '.join(theirs) or 'none'}, and "
                f"this one has {', '.join(mine) or 'none'}, or only one of them has a safeguard"
            )
        state = copy.deepcopy(dict(state))
        self.at, self._planned_lr = state["at"], state["planned_lr"]
        self._memories, self._deaf = state["memories"], state["deaf"]
        self.course.load_state_dict(state["course"])
        self.book.load_state_dict(state["book"])
        self.actuator.load_state_dict(state["actuator"])
        self.arbiter.load_state_dict(state["arbiter"])
        if self.safeguard:
            self.safeguard.load_state_dict(state["safeguard"])


def _names(controllers: Sequence[Controller]) -> list[str]:
    """A name for each: that of its component, with a number where it comes again."""
    names: list[str] = []
    bases: list[str] = []
    if isinstance(cast("object", controllers), Controller):
        raise InputError(f"regime: {controllers!r} stands alone; give a list of controllers")
    for one in controllers:
        if not isinstance(cast("object", one), Controller):
            raise InputError(
                f"regime: {one!r} is no controller; in a recipe a name is one, here what "
                "component(name, 'controller').factory() gives"
            )
        name = one.name.partition("@")[0]
        if name in ("arbiter", "safeguard"):
            raise InputError(f"regime: a controller cannot be called {name!r}; choose another name")
        bases.append(name)
        count = bases.count(name)
        names.append(f"{name} {count}" if count > 1 else name)
    return names
