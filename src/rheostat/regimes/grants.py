"""What of a decision may be done: the terms, and how they bound each kind of decision."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Decision, Grow, Limit, Move, Restart, RollBack, Scale
from rheostat.core.hyper import Count, NonNegative, Steps, check_arguments
from rheostat.regimes.account import SAFEGUARD
from rheostat.regimes.actuator import Actuator
from rheostat.regimes.hands import Hands
from rheostat.regimes.knobs import Bounds

SAFETY = 100
"""The priority from which on a decision is a brake: it is not put on trial unless it asks for one,
because what it prevents is in no forecast; who asked for it takes it back when all is calm."""

TRIAL_FROM = 0.9
"""Octaves from which on a change is a trial, unless the terms say otherwise."""


def stepwise(factor: float) -> float:
    """As much of a factor as is no trial yet, for who computes where a value belongs: that is no
    bet on the loss, and what does not lower it is not wrong for that."""
    most = 2.0 ** (TRIAL_FROM - 0.05)
    return min(max(factor, 1 / most), most)


@dataclass(frozen=True)
class Terms:
    """The arbiter's terms. Lengths are in updates, distances in octaves (log₂ of a factor).

    Attributes:
        bounds: how far factors go, and how fast.
        deadband: what is less than this is not worth a change.
        cooldown: from one change of a hyperparameter to the next, unless the next is of a higher
            priority. It doubles with each trial in a row that one controller fails on it.
        trial_from: a change as large as this is a trial.
        history: losses from which a forecast is made.
        window: losses that a trial takes.
        convinced: standard errors by which a trial's loss must lie below the forecast.
        harm: standard errors above it from which a failed trial is rolled back.
        budget: octaves of the controllers' changes in all; a restart counts as one. Then they stand
            down. The safeguard's smaller steps are neither paid from it nor end with it.
        growth: of the batch, at most.
        rollbacks: in all, at most.
        share_rate: of a share, in one update, at most.
        deaf: updates without its signals after which a controller's parts are taken back.
        skips: updates that a limit may skip in a row; then it is lifted, and another is refused
            for twice the cooldown, which doubles with each that skips too much.
    """

    bounds: Bounds = field(default_factory=Bounds)
    deadband: NonNegative = 0.05
    cooldown: Count = 20
    trial_from: NonNegative = TRIAL_FROM
    history: Annotated[int, at.Ge(48), at.Le(100_000)] = 96
    window: Annotated[int, at.Ge(8), at.Le(100_000)] = 24
    convinced: NonNegative = 1.0
    harm: NonNegative = 6.0
    budget: NonNegative = 48.0
    growth: Annotated[float, at.Ge(1)] = 64.0
    rollbacks: Steps = 8
    share_rate: Annotated[float, at.Gt(0), at.Le(1)] = 0.1
    deaf: Count = 200
    skips: Count = 20

    def __post_init__(self) -> None:
        """Raises InputError for a history too short to make a forecast from, and the like."""
        numbers = {name: value for name, value in vars(self).items() if name != "bounds"}
        check_arguments(Terms, numbers, "terms", live=False)


@dataclass(frozen=True)
class Asked:
    """A decision, and who wants it how much."""

    who: str
    priority: int
    decision: Decision

    @property
    def subject(self) -> str:
        """What it changes: a hyperparameter, or what its kind is about."""
        return getattr(self.decision, "hyperparameter", self.decision.kind)

    @property
    def pays(self) -> bool:
        """Whether the budget is for it, as for whatever controllers do."""
        return self.who != SAFEGUARD

    def overlaps(self, other: Asked) -> bool:
        """Whether both are about the same param group."""
        mine, others = self.decision.group, other.decision.group
        return mine is None or others is None or mine == others

    @property
    def size(self) -> float:
        """In octaves; what is no factor counts as one."""
        return octaves(getattr(self.decision, "factor", 2.0))


class Refused(Exception):  # noqa: N818  # a verdict, not an error: the arbiter writes it down
    """Why a decision is not carried out."""


def octaves(factor: float) -> float:
    """|log₂ factor|; 0 for what is no factor."""
    return abs(math.log2(factor)) if 0 < factor < math.inf else 0.0


def cost(decision: Decision) -> float:
    """What a decision takes from the budget, in octaves."""
    if isinstance(decision, Scale | Grow):
        return octaves(decision.factor)
    return 1.0 if isinstance(decision, Restart) else 0.0


def granted(
    decision: Decision, terms: Terms, left: float, actuator: Actuator, at: int, hands: Hands
) -> tuple[Decision, str]:
    """What of a decision may be done with what is `left` of the budget, and, where that is less
    than was asked for, how much, in words.

    Raises Refused where it is nothing, and InputError for a share that the hands say is none.
    """
    match decision:
        case Scale():
            check_group(decision, hands)
            asked = _octaves_of(decision.factor)
            room = actuator.knobs.room(decision.hyperparameter, decision.group, asked)
            given = math.copysign(min(abs(room), left), room)
            return _as_given(decision, asked, given, terms)
        case Grow():
            asked = _octaves_of(decision.factor)
            so_far = math.log2(actuator.growth)
            room = min(max(so_far + asked, 0.0), math.log2(terms.growth)) - so_far
            given = math.copysign(min(abs(room), left), room)
            return _as_given(decision, asked, given, terms)
        case Move():
            return _slow_enough(decision, terms, hands)
        case Limit(norm=norm):
            if not norm > 0:
                raise Refused(f"a limit of {norm:g} would skip every update")
        case RollBack():
            state = actuator.target(decision, at)
            if state is None:
                raise Refused("there is no good state to go back to")
            if actuator.segment >= terms.rollbacks:
                raise Refused(f"the run was rolled back {actuator.segment} times already")
            on_time = decision.on_time or actuator.on_time
            return replace(decision, before=at - state.at, on_time=on_time), ""
        case Restart():
            if left < cost(decision):
                raise Refused("the budget is spent")
        case _:
            pass
    return decision, ""


def check_group(decision: Scale | Move, hands: Hands) -> list[float]:
    """The plan's values in the groups that a decision is about. Raises Refused without any."""
    name, planned = decision.hyperparameter, hands.planned(decision.hyperparameter)
    found = [value for group, value in planned.items() if decision.group in (None, group)]
    if not found:
        there = f"param group {decision.group} has no {name}"
        raise Refused(there if planned else f"nothing here is called {name}")
    return found


def _octaves_of(factor: float) -> float:
    if not 0 < factor < math.inf:
        raise Refused(f"a factor of {factor:g} means nothing")
    return math.log2(factor)


def _as_given(
    decision: Scale | Grow, asked: float, given: float, terms: Terms
) -> tuple[Scale | Grow, str]:
    if abs(given) < terms.deadband:
        raise Refused(
            "it lies within the deadband" if abs(asked) < terms.deadband else "a bound is reached"
        )
    if math.isclose(given, asked, rel_tol=1e-9):  # the room is a difference, and rounded
        return decision, ""
    factor = 2.0**given
    return replace(decision, factor=factor), f"; bounded to a factor of {factor:.4g}"


def _slow_enough(decision: Move, terms: Terms, hands: Hands) -> tuple[Move, str]:
    shares = check_group(decision, hands)
    for group in hands.planned(decision.hyperparameter):
        if decision.group in (None, group):
            hands.check_share(decision.hyperparameter, group)
    if any(not 0 <= share <= 1 for share in (decision.to, *shares)):
        raise Refused(f"{decision.hyperparameter} is no share between 0 and 1")
    far = max(abs(decision.to - share) for share in shares)
    # Rounded first: 0.3 / 0.1 is a little less than 3, and 0.6 / 0.2 a little more.
    least = max(1, math.ceil(round(far / terms.share_rate, 9)))
    if decision.over >= least:
        return decision, ""
    return replace(decision, over=least), f"; bounded to {least} updates"
