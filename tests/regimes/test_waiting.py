"""After a roll back the next batches are looked at before they are learnt from."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.references.hands import Paper
from tests.references.scripts import Script, scripted

from rheostat.core.controller import Controller, Limit, Now, RollBack
from rheostat.core.errors import InputError
from rheostat.regimes.account import Account
from rheostat.regimes.grants import Terms
from rheostat.regimes.hands import Unable
from rheostat.regimes.regime import Regime
from rheostat.regimes.replay import Replay
from rheostat.regimes.safeguard import Care

CARE = Care(every=20, survive=10, wait=30)
BROKEN = range(150, 161)


class Data:
    """A loop on paper: a level of 2 with some noise, another while the data is bad, and 9 where the
    weights are broken, until a good state is put back."""

    def __init__(
        self, regime: Regime | Replay, bad: Callable[[int], float | None], hands: Any = None
    ) -> None:
        self.regime = regime
        self.hands = hands or Paper(lr=0.1)
        self.bad = bad
        self.noise = random.Random(3)
        self.accounts: list[Account] = []
        self.applied: list[bool] = []
        self.update = 0

    def run(self, until: int) -> Data:
        while len(self.applied) < until:
            at = len(self.applied)
            limits = [said[1] for said in self.hands.said if said[0] == "limit"]
            applied = not limits or limits[-1] > 0
            back = any(said[0] == "roll_back" for said in self.hands.said)
            level = self.bad(at)
            level = level if level is not None else 2.0 if back or at < BROKEN[0] else 9.0
            loss = level + self.noise.gauss(0, 0.1)
            self.applied.append(applied)
            self.update += applied
            now = Now(
                self.update, applied, loss, {"gradient_norm": 1.0}, frozenset(["gradient_norm"])
            )
            self.accounts += self.regime.after(now, self.hands)
        return self

    def told(self, kind: str) -> list[Account]:
        return [a for a in self.accounts if a.done and a.done["kind"] == kind and not a.outcome]


def guarded(care: Care = CARE, *controllers: Controller) -> Regime:
    return Regime([*controllers], care=care)


def test_good_data_is_learnt_from_after_three_looks() -> None:
    run = Data(guarded(), lambda at: None).run(320)
    (back,) = run.told("roll_back")
    on, off = run.told("wait")
    assert (on.at, off.at) == (back.at, back.at + 3)
    assert run.applied.count(False) == 3
    assert "as it was: they learn again" in off.reason
    # Nobody knows why it broke: smaller steps for a while.
    (returns,) = run.told("ease")
    assert returns.at == off.at + CARE.hold
    assert math.isclose(run.hands.factor(), 1.0)


def test_bad_data_is_waited_for_and_the_rate_returns_at_once() -> None:
    run = Data(guarded(), lambda at: 5.0 if BROKEN[0] <= at < 180 else None).run(260)
    (back,) = run.told("roll_back")
    off = run.told("wait")[1]
    assert 180 + 2 <= off.at <= 180 + 4, "two of three losses are good again"
    assert "it was the data" in off.reason
    assert run.applied.count(False) == off.at - back.at
    (returns,) = run.told("ease")
    assert returns.at == off.at


@pytest.mark.parametrize("level", [5.0, math.nan])
def test_data_that_stays_so_is_learnt_in_the_end(level: float) -> None:
    run = Data(guarded(), lambda at: level if at >= BROKEN[0] else None).run(230)
    back, off = run.told("roll_back")[0], run.told("wait")[1]
    assert off.at == back.at + CARE.wait
    assert ("the data has changed" if level == 5.0 else "were not finite") in off.reason
    assert run.applied[off.at]


def test_without_a_wait_it_learns_at_once() -> None:
    run = Data(guarded(Care(every=20, survive=10, wait=0)), lambda at: None).run(230)
    assert run.told("roll_back")
    assert all(run.applied)
    assert not run.told("wait")


def test_a_limit_that_was_set_holds_again_afterwards() -> None:
    script: Script = {100: Limit(norm=5.0, reason="r"), 163: Limit(norm=4.0, reason="r")}
    run = Data(guarded(CARE, scripted("c", script)), lambda at: None).run(200)
    back, off = run.told("roll_back")[0], run.told("wait")[1]
    assert back.at < 163 < off.at, "the second is asked for while updates are left out"
    limits = [said[1] for said in run.hands.said if said[0] == "limit"]
    assert limits == [5.0, 5.0, 0.0, 0.0, 4.0]


def test_a_loop_that_cannot_leave_updates_out_goes_on() -> None:
    class Foreign(Paper):
        def limit(self, norm: float) -> None:
            Unable().limit(norm)

    run = Data(guarded(), lambda at: None, Foreign(lr=0.1)).run(230)
    assert run.told("roll_back")
    assert all(run.applied)
    assert not run.told("wait")
    (refused,) = [a for a in run.accounts if a.verdict == "refused"]
    assert "cannot skip updates by their norm: it learns from the next batch on" in refused.reason
    with pytest.raises(InputError, match="cannot skip updates by their norm"):
        run.hands.limit(0.0)


def test_a_new_beginning_learns_at_once() -> None:
    script: Script = {164: RollBack(start=True, reason="r")}
    again = replace(scripted("c", script), keeps_start=True)
    run = Data(guarded(CARE, again), lambda at: 5.0 if at >= BROKEN[0] else None).run(185)
    assert [a.who for a in run.told("roll_back")] == ["safeguard", "c"]
    on, off = run.told("wait")
    assert on.at < off.at == 164
    assert off.reason == "it went back once more"
    assert all(run.applied[164:])
    assert [a.at for a in run.told("scale")] == [on.at, off.at], "smaller steps, and no longer"
    assert run.hands.factor() == 1.0


@pytest.mark.parametrize("cut", [161, 170, 185])
def test_interrupted_in_its_wait_it_goes_on_the_same(cut: int) -> None:
    def bad(at: int) -> float | None:
        return 5.0 if BROKEN[0] <= at < 180 else None

    whole = Data(guarded(), bad).run(260)
    half = Data(guarded(), bad).run(cut)
    rest = Data(guarded(), bad, half.hands)
    rest.noise, rest.applied, rest.update = half.noise, half.applied, half.update
    rest.regime.load_state_dict(json.loads(json.dumps(half.regime.state_dict())))
    rest.run(260)
    assert rest.applied == whole.applied
    accounts = [*half.accounts, *rest.accounts]
    assert [*map(str, accounts)] == [*map(str, whole.accounts)], "NaN, too"


def test_what_is_left_out_is_made_up_for_where_schedules_end_on_time() -> None:
    def run(on_time: bool) -> tuple[Data, list[int]]:
        care = replace(CARE, on_time=on_time)
        run = Data(guarded(care), lambda at: 5.0 if BROKEN[0] <= at < 180 else None).run(230)
        return run, [said[1] for said in run.hands.said if said[0] == "catch_up"]

    timely, made_up = run(True)
    assert made_up == [0, timely.applied.count(False)]
    assert run(False)[1] == []


def test_what_goes_back_once_more_in_its_wait_makes_up_for_that_too() -> None:
    script: Script = {170: RollBack(reason="r")}
    care = replace(CARE, on_time=True)
    regime = guarded(care, scripted("c", script))
    run = Data(regime, lambda at: 5.0 if BROKEN[0] <= at < 180 else None).run(230)
    made_up = [said[1] for said in run.hands.said if said[0] == "catch_up"]
    assert made_up[0] == made_up[1] == 0
    assert sum(made_up) == run.applied.count(False)


def test_a_dry_run_does_not_judge_data_by_weights_that_did_not_go_back() -> None:
    regime = Regime([], care=CARE, dry_run=True)
    run = Data(regime, lambda at: None).run(230)
    assert run.told("roll_back")
    assert not run.told("wait")


def test_a_run_that_may_not_go_back_any_more_says_that_it_should_end() -> None:
    regime = Regime([], Terms(rollbacks=1), replace(CARE, wait=0))
    run = Data(regime, lambda at: math.nan if at >= BROKEN[0] else None).run(230)
    assert len(run.told("roll_back")) == 1
    assert "and roll backs (1) are used up" in run.told("stop")[0].reason


def test_a_replay_leaves_out_the_same_updates() -> None:
    def bad(at: int) -> float | None:
        return 5.0 if BROKEN[0] <= at < 180 else None

    run = Data(guarded(), bad).run(260)
    written = json.loads(json.dumps([a.written() for a in run.accounts], allow_nan=False))
    again = Data(Replay(map(Account.read, written)), bad).run(260)
    assert again.applied == run.applied
    assert again.applied.count(False) > 10
