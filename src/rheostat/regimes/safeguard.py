"""The safeguard: keeps known-good states, asks for one when training breaks, and finds out why.

A state is taken where the loss is finite and on its trend; it is good once enough steps have passed
after it without alarm, and that of the start after one. When one was put back, the learning rate
backs off and returns gradually, and the batches that stood out since are looked at again with the
good weights: what stands out again is bad data, what does not was bad luck. So are those that come
next, before any is learnt from: while their losses are worse than they were when the state was
taken, it is the data that is bad, and the good state waits until it is over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any, Literal

import annotated_types as at

from rheostat.core.controller import Now, RollBack, Scale, Stop
from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, Positive, Steps, check_arguments
from rheostat.regimes.account import SAFEGUARD, Ease, LeaveOut, Verdict, Wait
from rheostat.regimes.actuator import Actuator
from rheostat.regimes.book import Book
from rheostat.regimes.course import Course
from rheostat.regimes.grants import Asked
from rheostat.regimes.hands import Hands
from rheostat.regimes.robust import z_score

_PRIORITY = 1000
_RECENT = 5
"""Losses whose median has to be above the trend."""
_LOST = 0.5
"""Of the progress: more than this lost is an alarm."""
_AGAIN = 0.5
"""Of `z`: what is an alarm soon after a roll back, where suspicion has its reason."""
_SOUND = 0.1
"""The same: a state in which more is lost is not kept."""
_LOOKS = 3
"""Losses with the good weights whose median has to be as it was, before they learn again."""
_LEFT_OUT = 4
"""Streaks of losses or gradients that are not finite and of which no update was made, after which
training has diverged: few of them harm nothing."""
_HOPELESS = 2
"""Streaks after which training should end, where there is nothing to go back to."""
_WATCHED = 1024
"""Batches that are remembered, at most, since the last good state."""


@dataclass(frozen=True)
class Care:
    """The safeguard's terms. Lengths are in steps.

    Attributes:
        every: from one state taken to the next.
        keep: good states that are kept, beside a candidate; each is a copy of weights and state.
        survive: steps without alarm after which a state is good.
        z: spreads above its trend at which a loss is an alarm, and a batch stands out.
        persist: alarms in a row after which training has diverged.
        streak: losses in a row that are not finite, after which it has; where the loop left their
            updates out, or those of gradients that are not, and all weights are finite, four times
            as many.
        backoff: factor on the learning rate after a roll back. Where gradients are many times as
            large as before (new data), a rule with β₂ = 0.999 takes steps several times too large
            for a hundred updates: its second moment is that of before.
        hold: steps after which that factor begins to return to 1.
        wait: steps that the state put back may leave out, while the losses of the batches that come
            say that the data is bad; then it is taken for what data is now. 0: it learns at once.
        on_time: whether what is left of the schedules goes by faster after a roll back, so that
            they end with the batch at which they would have ended; those in epochs and in time
            do not.
        suspects: batches that are looked at again after a roll back, at most.
        bad_batches: what becomes of those that stand out again.
    """

    every: Count = 100
    keep: Annotated[int, at.Ge(1), at.Le(1000)] = 2
    survive: Count = 50
    z: Positive = 8.0
    persist: Count = 10
    streak: Count = 5
    backoff: Annotated[float, at.Gt(0), at.Le(1)] = 0.125
    hold: Count = 20
    wait: Steps = 48
    on_time: bool = False
    suspects: Steps = 3
    bad_batches: Literal["skip", "keep"] = "skip"

    def __post_init__(self) -> None:
        """Raises InputError for numbers that mean nothing."""
        check_arguments(Care, vars(self), "safeguards", live=False)


class Safeguard:
    """Watches every step; says what it wants, as controllers do."""

    def __init__(
        self, care: Care, rollbacks: int, actuator: Actuator, book: Book, course: Course
    ) -> None:
        self.care = care
        self.rollbacks = rollbacks
        """How often the arbiter grants one."""
        self.actuator = actuator
        self.book = book
        self.course = course
        self._alarms = 0
        self._streak = 0
        self._unusable = 0
        """Updates left out in a row because their losses or gradients were not finite."""
        self._learnt = True
        """Whether an update was applied since the last roll back."""
        self._batches: list[tuple[int, list[int], float, float]] = []
        """When, which (several where gradients are accumulated), their mean loss and the norm of
        their gradient."""
        self._back_at = -1
        """When the run was rolled back last; -1 where nothing is left of that."""
        self._waiting: dict[str, Any] | None = None
        """While updates are left out: since when, up to which loss one is as it was, and the losses
        seen."""

    def watch(self, now: Now, at: int, hands: Hands) -> list[Asked]:
        """Take a step in: keep states, and ask for one where training broke."""
        if self._waiting is not None:
            self._look_ahead(self._waiting, now.loss, at, hands)
            return []
        finite = math.isfinite(now.loss)
        if not finite:
            self.actuator.ring.drop_candidate()
        if now.applied and finite:
            self._streak, self._unusable, self._learnt = 0, 0, True
        elif now.applied:
            self._streak += 1
        elif not (finite and math.isfinite(now["gradient_norm"])):
            self._unusable += 1
        above = self.course.above(_RECENT)
        lost = self.course.lost
        high = self.care.z * (_AGAIN if self.course.fresh else 1)
        alarm = above > high or lost > _LOST
        self._alarms = self._alarms + 1 if alarm else 0
        if alarm:
            self.actuator.ring.drop_candidate()
        elif now.applied and math.isfinite(now.loss):
            self._keep_states(at, hands, sound=lost <= _SOUND)
        batches = (at, [*hands.positions()], now.loss, now["gradient_norm"])
        self._batches = [*self._batches[-(_WATCHED - 1) :], batches]
        if self._back_at >= 0 and at - self._back_at >= self.care.hold:
            self._return_gradually(f"{self.care.hold} steps since the roll back", at, hands)
        return self._broken(now, at, above if above > high else 0.0, lost, hands)

    def _keep_states(self, at: int, hands: Hands, *, sound: bool) -> None:
        ring = self.actuator.ring
        candidate = ring.candidate
        # Where nothing was learnt there is nothing to prove: the start needs one finite loss.
        survive = 1 if candidate is not None and candidate.at == 1 else self.care.survive
        if candidate is not None and at - candidate.at >= survive:
            candidate.good = True
            self._batches = [batch for batch in self._batches if batch[0] > candidate.at]
        newest = ring.newest(at)
        since = math.inf if newest is None else at - newest.at
        if sound and ring.candidate is None and since >= self.care.every:
            ring.remember(hands, at, self.course.median(_RECENT))

    def _broken(self, now: Now, at: int, above: float, lost: float, hands: Hands) -> list[Asked]:
        streak, long = self.care.streak, _LEFT_OUT * self.care.streak
        spoilt = self._unusable >= streak and not hands.weights_are_finite()
        if self._streak >= streak or self._unusable >= long or spoilt:
            count = max(self._streak, self._unusable)
            what = "gradients" if math.isfinite(now.loss) else "losses"
            why, numbers = f"{count} {what} in a row are not finite", {}
        elif self._alarms >= self.care.persist and above:
            why = f"the loss is {above:.1f} spreads above its trend, for {self._alarms} steps"
            numbers = {"above": above}
        elif self._alarms >= self.care.persist:
            why = f"{lost:.0%} of the progress is lost, for {self._alarms} steps"
            numbers = {"lost": lost}
        else:
            return []
        none = "there is no good state to go back to" if not self.actuator.ring.newest(at) else ""
        spent = f"roll backs ({self.rollbacks}) are used up"
        hopeless = none or (spent if self.actuator.segment >= self.rollbacks else "")
        if self._unusable >= long and not self._learnt:
            hopeless = "so they are with the good weights"
        ended = self._streak == _HOPELESS * streak or self._unusable >= long
        if ended and hopeless:
            said = f"{why}, and {hopeless}"
            return [Asked(SAFEGUARD, _PRIORITY, Stop(reason=said))]
        if self._alarms + self._streak > 2 * (self.care.persist + self.care.streak):
            self._alarms = self._streak = 0  # there was nothing to go back to: look anew
        return [self.ask(why, numbers)]

    def ask(self, why: str, numbers: Mapping[str, float], before: int = 0) -> Asked:
        """The request to go back."""
        return Asked(SAFEGUARD, _PRIORITY, RollBack(reason=why, evidence=numbers, before=before))

    # -- after a roll back ----------------------------------------------------------------------

    def rolled_back(self, at: int, hands: Hands) -> list[Asked]:
        """Look again at the batches that stood out, and ask for a smaller learning rate."""
        unseen = [
            str(position)
            for positions, loss, norm in self._suspects()
            for position in positions
            if not self._look_again(position, _said(positions, loss, norm), at, hands)
        ]
        if unseen:
            said = (
                f"batches stood out, and the loop cannot look again (loss_of): {', '.join(unseen)}"
            )
            self.book.tell(SAFEGUARD, "refused", said)
        self._alarms = self._streak = self._unusable = 0
        self._learnt = False
        self._batches = []
        if self._waiting is not None:
            late = self._late(at - self._waiting["since"])
            self._tell(Wait(on=False, late=late, reason="it went back once more"), at, hands)
            self._waiting = None
        if self.actuator.anew:
            self._begin_anew(at, hands)
            return []
        self._back_at = at
        self._wait(at, hands)
        if self.care.backoff == 1 or not hands.planned("lr"):
            return []
        why = "the run was rolled back: smaller steps for a while"
        smaller = Scale(hyperparameter="lr", factor=self.care.backoff, reason=why)
        return [Asked(SAFEGUARD, _PRIORITY, smaller)]

    def _suspects(self) -> list[tuple[list[int], float, float]]:
        """The batches that stand out most by loss or by gradient, worst first."""
        found = [
            (score, positions, loss, norm)
            for _, positions, loss, norm in self._batches
            if (score := self._stands_out(loss, norm)) > self.care.z
        ]
        found.sort(key=lambda one: -one[0])
        return [one[1:] for one in found[: self.care.suspects]]

    def _stands_out(self, loss: float, norm: float) -> float:
        """How far a loss or a gradient lies above those of the other batches since the last good
        state, in spreads; infinite for what is not finite."""
        if not math.isfinite(loss) or math.isinf(norm):
            return math.inf
        losses = [batch[2] for batch in self._batches if math.isfinite(batch[2])]
        norms = [batch[3] for batch in self._batches if math.isfinite(batch[3])]
        scores = [z_score(value, of) for value, of in ((loss, losses), (norm, norms)) if of]
        return max((score for score in scores if not math.isnan(score)), default=0.0)

    def _look_again(self, position: int, said: str, at: int, hands: Hands) -> bool:
        """Whether it could be looked at; what became of it is in the book."""
        again = hands.examine(position)
        if again is None:
            return False
        bad = self._stands_out(*again) > self.care.z
        why = (
            f"{said}; with the good weights batch {position} has {again[0]:.4g} and "
            f"{again[1]:.4g}: {'the data' if bad else 'luck'}"
        )
        act = None
        verdict: Verdict = "accepted"
        if bad and self.care.bad_batches == "skip":
            act = LeaveOut(position=position, reason=f"{why}; left out from now on")
            try:
                self.actuator.carry_out(SAFEGUARD, act, at, hands)
                why = act.reason
            except InputError as cannot:
                act, verdict, why = None, "refused", f"{why}; {cannot}"
        numbers = {"position": float(position), "loss": again[0], "gradient_norm": again[1]}
        self.book.tell(SAFEGUARD, verdict, why, done=act, evidence=numbers)
        return True

    def _begin_anew(self, at: int, hands: Hands) -> None:
        """End what an earlier roll back began: the start has the warm-up of its schedule."""
        self._back_at = -1
        part = self.actuator.knobs.part(SAFEGUARD, "lr")
        if part:
            why = "a new beginning has the warm-up of its schedule"
            back = Scale(hyperparameter="lr", factor=2.0**-part, reason=why)
            self._tell(back, at, hands, "lr")

    def _wait(self, at: int, hands: Hands) -> None:
        """Leave updates out until the data was looked at."""
        bound = self.actuator.level + _AGAIN * self.care.z * self.course.scatter
        # In a dry run the weights are not those that were good.
        if not self.care.wait or math.isnan(bound) or self.book.dry:
            return
        why = "the run was rolled back: the next batches are looked at before they are learnt"
        try:
            self._tell(Wait(on=True, reason=why), at, hands)
        except InputError as cannot:  # another library's loop
            self.book.tell(SAFEGUARD, "refused", f"{cannot}: it learns from the next batch on")
            return
        self._waiting = {"since": at, "bound": bound, "losses": []}

    def _look_ahead(self, waiting: dict[str, Any], loss: float, at: int, hands: Hands) -> None:
        losses: list[float] = waiting["losses"]
        losses.append(loss if math.isfinite(loss) else math.inf)
        bound, waited = waiting["bound"], at - waiting["since"]
        newest = median(losses[-_LOOKS:])
        good = waited >= _LOOKS and newest <= bound
        if not good and waited < self.care.wait:
            return
        self._waiting, self._back_at = None, at
        if not math.isfinite(newest):
            why = f"for {waited} steps the losses were not finite: they learn again"
        elif not good:
            why = f"for {waited} steps no better than {newest:.4g}: the data has changed"
        elif waited == _LOOKS:
            why = f"with the good weights the loss is {newest:.4g}, as it was: they learn again"
        else:
            why = f"the loss is {newest:.4g} again after {waited} steps: it was the data"
        self._tell(Wait(on=False, late=self._late(waited), reason=why), at, hands)
        if good and waited > _LOOKS:
            self._return_gradually("it was the data", at, hands)

    def _late(self, waited: int) -> int:
        return waited if self.care.on_time else 0

    def _tell(
        self, act: Ease | Scale | Wait, at: int, hands: Hands, subject: str | None = None
    ) -> None:
        """Do it, and have it in the book."""
        self.actuator.carry_out(SAFEGUARD, act, at, hands)
        values = self.actuator.way(subject, hands) if subject else None
        self.book.tell(SAFEGUARD, "accepted", act.reason, done=act, subject=subject, values=values)

    def _return_gradually(self, since: str, at: int, hands: Hands) -> None:
        self._back_at = -1
        if self.actuator.knobs.part(SAFEGUARD, "lr"):
            why = f"{since}: the learning rate returns"
            act = Ease(who=SAFEGUARD, hyperparameter="lr", reason=why)
            self._tell(act, at, hands, "lr")

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "alarms": self._alarms,
            "streak": self._streak,
            "unusable": self._unusable,
            "learnt": self._learnt,
            "batches": [[*batch] for batch in self._batches],
            "back_at": self._back_at,
            "waiting": self._waiting,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was."""
        self._alarms, self._streak = state["alarms"], state["streak"]
        self._unusable, self._learnt = state.get("unusable", 0), state.get("learnt", True)
        self._batches = [(at, which, loss, norm) for at, which, loss, norm in state["batches"]]
        self._back_at = state["back_at"]
        self._waiting = state.get("waiting")


def _said(positions: list[int], loss: float, norm: float) -> str:
    """What batches showed when they were trained on."""
    first, last = positions[0], positions[-1]
    which = f"batch {first}" if first == last else f"batches {first} to {last} together"
    return f"{which} had loss {loss:.4g}, gradient {norm:.4g}"
