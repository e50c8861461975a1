"""The arbiter: hears what controllers ask for, grants, bounds or refuses it, tries out what is
large, and takes back what did not help."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rheostat.core.controller import Decision, Limit, Now, Scale
from rheostat.core.errors import InputError
from rheostat.regimes.account import Ease
from rheostat.regimes.actuator import Actuator
from rheostat.regimes.book import Book
from rheostat.regimes.course import Course
from rheostat.regimes.grants import SAFETY, Asked, Refused, Terms, cost, granted, octaves
from rheostat.regimes.hands import Hands
from rheostat.regimes.robust import Line
from rheostat.regimes.trial import Trial

ARBITER = "arbiter"
_LIMITS = "limits"


class Arbiter:
    """Decides about decisions: `actuator` carries out what it grants, `book` has an account of it.

    Attributes:
        spent: octaves of the budget.
        stood_down: whether the budget is spent, and all that controllers did is being taken back.
        trial: the one that is under way.
    """

    def __init__(self, terms: Terms, actuator: Actuator, book: Book, course: Course) -> None:
        self.terms = terms
        self.actuator = actuator
        self.book = book
        self.course = course
        self.spent = 0.0
        self.stood_down = False
        self.trial: Trial | None = None
        self._held: dict[str, tuple[int, int]] = {}
        """Subject -> when it was changed last, and at which priority."""
        self._failed: dict[str, tuple[int, int]] = {}
        """Who and subject -> when its last trial failed, and how many have in a row. `_LIMITS`:
        when a limit was lifted that skipped too much, and how many were before one was taken back
        by who asked for it."""
        self._skipped = 0

    @property
    def left(self) -> float:
        """Octaves that the budget still has."""
        return self.terms.budget - self.spent

    # -- requests -------------------------------------------------------------------------------

    def hear(self, requests: Iterable[Asked], at: int, hands: Hands) -> None:
        """Decide about the requests of a step, the most urgent first, then the largest."""
        heard: list[Asked] = []
        for asked in sorted(requests, key=lambda one: (-one.priority, -one.size)):
            try:
                before = [one for one in heard if one.subject == asked.subject]
                for one in before:
                    if one.who != asked.who or one.overlaps(asked):
                        raise Refused(f"{one.who} was heard first")
                if not before:
                    self._check_time(asked, at)
                self._grant(asked, at, hands)
                heard.append(asked)
            except (Refused, InputError) as why:
                self.book.refuse(asked.who, asked.decision, asked.subject, str(why))
        if not self.stood_down and self.left < self.terms.deadband:
            self._stand_down(at, hands)

    def _grant(self, asked: Asked, at: int, hands: Hands) -> None:
        left = self.left if asked.pays else math.inf
        done, less = granted(asked.decision, self.terms, left, self.actuator, at, hands)
        line = self._forecast(asked, done)
        if self.trial is not None and asked.subject == self.trial.hyperparameter:
            self.void(f"{asked.who} had to act before it was measured", at, hands)
        values = self._values(done, hands)
        if isinstance(done, Limit) and done.norm == math.inf and self.actuator.limit < math.inf:
            self._failed.pop(_LIMITS, None)
        self.actuator.carry_out(asked.who, done, at, hands)
        if asked.subject == "roll_back":  # it may have been refused until here
            self.void(f"{asked.who} had to act before it was measured", at, hands)
        self.spent += cost(done) if asked.pays else 0.0
        self._held[asked.subject] = (at, asked.priority)
        number = self.book.tell(
            asked.who,
            "trial" if line else "bounded" if less else "accepted",
            f"{asked.decision.reason}{less}",
            asked=asked.decision,
            done=done,
            subject=asked.subject,
            values=values,
        )
        if line is not None and isinstance(done, Scale):
            part = self.actuator.knobs.part(asked.who, done.hyperparameter, done.group)
            change = (done.hyperparameter, done.group, math.log2(done.factor), part)
            seen = len(self.course.last(self.terms.history))
            logs = self.course.line(logarithmic=True)
            self.trial = Trial(number, at, asked.who, *change, line, seen, logs)

    def _check_time(self, asked: Asked, at: int) -> None:
        """Raises Refused where this is not the time for it."""
        subject, urgent = asked.subject, asked.priority >= SAFETY
        if asked.decision.kind in ("stop", "roll_back"):
            return
        if self.stood_down and asked.pays:
            raise Refused("the regime has stood down")
        if self.trial is not None and subject == self.trial.hyperparameter and not urgent:
            raise Refused(f"a trial of {subject} is under way")
        if isinstance(asked.decision, Limit):
            since, lifted = self._failed.get(_LIMITS, (0, 0))
            wait = self.terms.cooldown * 2**lifted
            if lifted and asked.decision.norm < math.inf and at - since < wait:
                raise Refused(f"limits skipped too much, {lifted} in a row; {wait} steps of wait")
            return
        since, priority = self._held.get(subject, (-self.terms.cooldown, 0))
        if at - since < self.terms.cooldown and asked.priority <= priority:
            raise Refused(f"{subject} was changed less than {self.terms.cooldown} steps ago")
        since, failures = self._failed.get(f"{asked.who} {subject}", (0, 0))
        wait = self.terms.cooldown * 2**failures
        if failures and at - since < wait and not urgent:
            raise Refused(f"trials of {subject} failed, {failures} in a row; {wait} steps of wait")

    def _forecast(self, asked: Asked, done: Decision) -> Line | None:
        """What a trial has to beat; None for what is none."""
        if not isinstance(done, Scale):
            return None
        large = octaves(done.factor) >= self.terms.trial_from and asked.priority < SAFETY
        if not (large or done.trial):
            return None
        if self.trial is not None:
            raise Refused(f"a trial of {self.trial.hyperparameter} is under way")
        line = self.course.line()
        if line is None:
            raise Refused("there are too few losses to judge a trial by")
        return line

    def void(self, why: str, at: int, hands: Hands) -> None:
        """End a trial that is under way, without a judgement."""
        if self.trial is not None:
            self._undo(self.trial, why, {}, at, hands)

    def _values(self, act: Decision | Ease, hands: Hands) -> tuple[float, float] | None:
        """The value of a hyperparameter now, and where the act leads."""
        if not isinstance(act, Scale):
            return None
        return self.actuator.way(act.hyperparameter, hands, act.group, act.factor)

    # -- what follows ---------------------------------------------------------------------------

    def follow(self, now: Now, at: int, hands: Hands) -> int | None:
        """Measure the trial that is under way, and lift a limit that skips too much. Returns how
        many steps ago a trial began that ended here and did great harm, None without one."""
        self._skipped = 0 if now.applied or self.actuator.waits else self._skipped + 1
        if self._skipped >= self.terms.skips and self.actuator.limit < math.inf:
            self._failed[_LIMITS] = (at, self._failed.get(_LIMITS, (0, 0))[1] + 1)
            self._act(
                ARBITER,
                Limit(norm=math.inf, reason=f"{self._skipped} updates were skipped in a row"),
                at,
                hands,
            )
        trial = self.trial
        if trial is None or not now.applied or not math.isfinite(now.loss):
            return None
        trial.add(now.loss, self.actuator.knobs.still(trial.hyperparameter))
        if len(trial.after) < self.terms.window:
            return None
        expected, found, z = trial.forecast()
        numbers = {"forecast": expected, "found": found, "z": z}
        key = f"{trial.who} {trial.hyperparameter}"
        said = f"the loss is {found:.4g}, {expected:.4g} was forecast without it (z = {z:.2f})"
        if z >= self.terms.convinced:
            self._failed.pop(key, None)
            self.trial = None
            self.book.tell(
                trial.who,
                "kept",
                said,
                subject=trial.hyperparameter,
                evidence=numbers,
                about=trial.number,
            )
        else:
            self._failed[key] = (at, self._failed.get(key, (0, 0))[1] + 1)
            self._undo(trial, said, numbers, at, hands)
        return at - trial.at if trial.harm > self.terms.harm else None

    def _undo(
        self, trial: Trial, why: str, numbers: Mapping[str, float], at: int, hands: Hands
    ) -> None:
        self.trial = None
        part = self.actuator.knobs.part(trial.who, trial.hyperparameter, trial.group)
        # Of a part that is being taken back, as much as is left.
        whole = math.isclose(part, trial.part, abs_tol=1e-9)
        size = abs(trial.octaves) if whole else min(abs(trial.octaves), abs(part))
        octaves_back = -math.copysign(size, trial.octaves)
        back = Scale(
            hyperparameter=trial.hyperparameter,
            factor=2.0**octaves_back,
            group=trial.group,
            reason=why,
            evidence=numbers,
        )
        values = self._values(back, hands)
        self.actuator.carry_out(trial.who, back, at, hands)
        self.book.tell(
            trial.who,
            "undone",
            why,
            done=back,
            subject=trial.hyperparameter,
            values=values,
            evidence=numbers,
            about=trial.number,
        )

    def take_back(self, who: str | None, why: str, at: int, hands: Hands) -> None:
        """Ease somebody's parts, or everybody's, back to 1, and say why."""
        self._act(ARBITER, Ease(who=who, reason=why), at, hands)

    def _stand_down(self, at: int, hands: Hands) -> None:
        self.stood_down = True
        self.void("the budget is spent", at, hands)
        if self.actuator.limit < math.inf:
            self._act(ARBITER, Limit(norm=math.inf, reason="the budget is spent"), at, hands)
        why = (
            f"the budget of {self.terms.budget:g} octaves is spent: factors go back to the plan, "
            "gradually; what grew or moved stays"
        )
        self.take_back(None, why, at, hands)

    def _act(self, who: str, act: Decision | Ease, at: int, hands: Hands) -> None:
        self.actuator.carry_out(who, act, at, hands)
        self.book.tell(who, "undone", act.reason, done=act)

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "spent": self.spent,
            "stood_down": self.stood_down,
            "trial": self.trial and self.trial.state_dict(),
            "held": {subject: [*held] for subject, held in self._held.items()},
            "failed": {key: [*failed] for key, failed in self._failed.items()},
            "skipped": self._skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was."""
        self.spent, self.stood_down = state["spent"], state["stood_down"]
        self.trial = Trial.of(state["trial"]) if state["trial"] else None
        self._held = {subject: (at, how) for subject, (at, how) in state["held"].items()}
        self._failed = {key: (at, count) for key, (at, count) in state["failed"].items()}
        self._skipped = state["skipped"]
