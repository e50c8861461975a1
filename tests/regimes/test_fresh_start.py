"""The fresh start: once, where all that was learnt is lost, and nowhere else."""

from __future__ import annotations

import json
import math
import random

import pytest
from tests.references.hands import Loop, Paper
from tests.references.rig import Rig, make

from rheostat.core.controller import Controller, Now, RollBack
from rheostat.core.errors import InputError
from rheostat.regimes.account import Account
from rheostat.regimes.regime import Regime
from rheostat.regimes.replay import Replay
from rheostat.regimes.ring import Ring
from rheostat.regimes.safeguard import Care

CARE = Care(every=40, survive=20)


def feed(rig: Rig, losses: list[float], seed: int = 3, applied: bool = True) -> Rig:
    noise = random.Random(seed)
    for loss in losses:
        rig.feed(loss + noise.gauss(0, 0.02), applied=applied)
    return rig


def learning(steps: int = 200) -> list[float]:
    """A loss that falls: 1.05 after 48 updates, 0.1 after 200."""
    return [0.02 + 2.3 * math.exp(-k / 60) for k in range(steps)]


def test_a_run_that_learns_is_left_alone() -> None:
    rig = feed(Rig(make("fresh_start")), learning(2000))
    assert rig.decisions == []
    assert rig.memory["learnt"]


def test_where_all_is_lost_it_begins_anew_once() -> None:
    rig = feed(Rig(make("fresh_start")), learning() + [2.0] * 400)
    ((at, back),) = rig.decisions
    assert isinstance(back, RollBack)
    assert back.start
    assert 200 + 48 <= at <= 200 + 48 + 8
    assert back.evidence["level"] == pytest.approx(2.0, abs=0.05)
    assert back.evidence["mark"] == pytest.approx(1.05, abs=0.1)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ([0.9] * 400, "half of it is still known"),
        (([2.0] * 40 + [0.5] * 20) * 6, "it comes back each time"),
        ([math.nan] * 400, "what is no number says nothing of what was learnt"),
    ],
)
def test_less_than_all_is_left_to_others(after: list[float], why: str) -> None:
    assert feed(Rig(make("fresh_start")), learning() + after).decisions == [], why


def test_what_was_never_learnt_cannot_be_lost() -> None:
    for seed in range(20):
        rig = feed(Rig(make("fresh_start")), [2.3] * 600, seed)
        assert rig.decisions == []


def test_a_roll_back_begins_the_count_anew() -> None:
    rig = feed(Rig(make("fresh_start")), learning() + [2.0] * 40)
    rig.steps = 150
    feed(rig, [2.0] * 40)
    assert rig.decisions == []
    assert len(feed(rig, [2.0] * 20).decisions) == 1


def test_what_the_good_weights_make_of_new_data_counts_while_updates_are_left_out() -> None:
    rig = feed(feed(Rig(make("fresh_start")), learning()), [2.0] * 45, applied=False)
    assert rig.decisions == []
    ((at, back),) = feed(rig, [2.0] * 20).decisions
    assert isinstance(back, RollBack)
    assert at <= 200 + 48 + 8


def test_the_mark_is_of_updates_alone() -> None:
    rig = feed(Rig(make("fresh_start")), learning(40))
    feed(rig, [1.2] * 40, applied=False)
    assert rig.memory["mark"] is None
    feed(rig, [1.0] * 8)
    assert rig.memory["mark"] == pytest.approx(1.0, abs=0.1)


# -- what it asks for is done --------------------------------------------------------------------


def broken(regime: Regime | Replay) -> Loop:
    """A run whose weights are spoilt so often that no good state lasts."""
    return Loop(regime, faults=dict.fromkeys(range(150, 200), 30.0))


def guarded() -> Regime:
    # Of itself the safeguard sees nothing here.
    care = Care(every=40, survive=20, z=1e9, persist=10**6)
    return Regime([make("fresh_start", within=24)], care=care)


def test_the_run_begins_anew_without_smaller_steps_and_replays_to_the_same_bits() -> None:
    run = broken(guarded()).run(400)
    (back,) = [
        a for a in run.accounts if a.done and a.done["kind"] == "roll_back" and not a.outcome
    ]
    assert back.who == "fresh_start"
    assert back.at - int((back.done or {})["before"]) == 1
    assert run.updates < 400 - back.at + 5
    assert run.factors.get("lr", 1.0) == 1.0
    assert not any(a.hyperparameter == "lr" for a in run.accounts), (
        "the schedule has its own warm-up"
    )
    assert sum(run.losses[-32:]) < 0.5 * sum(run.losses[back.at - 32 : back.at])
    written = json.loads(json.dumps([a.written() for a in run.accounts], allow_nan=False))
    again = broken(Replay(map(Account.read, written))).run(400)
    assert list(map(str, again.losses)) == list(map(str, run.losses)), "NaN, too"


def test_the_start_is_kept_for_those_who_may_ask_for_it_alone() -> None:
    for start, kept in ((True, True), (False, False)):
        ring, hands = Ring(2, start=start), Paper(lr=0.1)
        for at in (1, 10, 20, 30, 40):
            ring.remember(hands, at).good = True
        oldest = ring.newest(5)
        assert (oldest is not None) is kept
        assert (ring.start is not None) is kept
        newest = ring.newest(100)
        assert newest is not None
        assert newest.at == 40
    slots = {what[1] for what in hands.said}
    assert slots <= {0, 1, 2}


def test_after_a_way_back_to_the_start_nothing_else_is_good() -> None:
    ring, hands = Ring(2, start=True), Paper(lr=0.1)
    for at in (1, 10, 20):
        ring.remember(hands, at).good = True
    assert ring.roll_back(hands, 1) is not None
    assert hands.said[-1] == ("roll_back", 0)
    assert ring.newest(100) is ring.start
    other = Ring(2, start=True)
    other.load_state_dict(ring.state_dict())
    assert other.start == ring.start


def test_who_wants_the_start_has_to_say_so_beforehand() -> None:
    back = RollBack(start=True, reason="told to")
    with pytest.raises(InputError, match=r"should declare keeps_start=True"):
        Controller(lambda now, memory: back, name="c").asked(Now(1, True, 1.0), {})
    told = Regime([Controller(lambda now, memory: back, name="c", keeps_start=True)])
    (account,) = told.after(Now(1, True, 1.0), Paper(lr=0.1))
    assert account.verdict == "refused"
    assert "no good state" in account.reason
