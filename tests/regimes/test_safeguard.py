"""Safeguards in a real loop: broken training goes back, backs off, and finds the batch at fault."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from typing import Literal

import pytest
import torch
from tests.references.hands import Loop, Paper
from tests.references.problems import same_bits, weights
from tests.references.scripts import Script, drive, scale, scripted

from rheostat.core.controller import Controller, Grow, Limit, Move, Now, RollBack, Scale
from rheostat.core.errors import InputError
from rheostat.regimes.account import Account
from rheostat.regimes.course import Course
from rheostat.regimes.grants import Terms
from rheostat.regimes.regime import Regime
from rheostat.regimes.replay import Replay
from rheostat.regimes.safeguard import Care

CARE = Care(every=40, survive=20, hold=60)


def guarded(care: Care = CARE) -> Regime:
    return Regime([], care=care)


def rollbacks(accounts: list[Account]) -> list[Account]:
    return [a for a in accounts if a.done and a.done["kind"] == "roll_back" and a.outcome is None]


def recent(run: Loop) -> float:
    """The mean loss of the last pass through the batches."""
    return sum(run.losses[-64:]) / 64


def test_a_clean_run_is_left_alone() -> None:
    watched, plain = Loop(guarded()).run(300), Loop(Regime([])).run(300)
    assert watched.accounts == []
    assert same_bits(weights(watched.model), weights(plain.model))
    assert set(watched.slots) <= {0, 1, 2}


def test_spoilt_weights_are_put_back_and_training_goes_on() -> None:
    run = Loop(guarded(), faults={150: "nan"}).run(400)
    (back,) = rollbacks(run.accounts)
    assert back.who == "safeguard"
    assert "not finite" in back.reason
    assert back.at == 151 + CARE.streak
    assert math.isnan(run.losses[152])
    assert recent(run) < recent(Loop(Regime([])).run(250)), "it cost more than 150 steps"
    # The position in the data went on; the updates did not.
    assert run.at == 400
    assert run.updates < 400
    assert next(a.segment for a in run.accounts if a.number == back.number) == 0
    assert {a.segment for a in run.accounts if a.number > back.number} == {1}


def test_after_it_the_learning_rate_backs_off_and_returns_gradually() -> None:
    run = Loop(guarded(), faults={150: "nan"})
    seen = []
    for _ in range(400):
        run.step()
        seen.append(run.factors.get("lr", 1.0))
    assert seen[150] == 1.0
    assert min(seen) == 1 / 8
    at = seen.index(1 / 8)
    assert seen[at + 10] == 1 / 8
    rising = seen[at + 20 :]
    assert rising == sorted(rising)
    assert max(b / a for a, b in pairwise(rising)) < 1.05
    assert seen[-1] == 1.0


def test_the_return_tells_where_it_leads_and_leaves_what_others_changed() -> None:
    hands = Paper(lr=0.1)
    script: Script = {30: scale(1.5), 60: RollBack(reason="r")}
    care = Care(every=10, survive=5, wait=0)
    accounts = drive(Regime([scripted("c", script)], care=care), hands, 200)
    eased = next(a for a in accounts if a.done is not None and a.done["kind"] == "ease")
    assert (eased.who, eased.hyperparameter) == ("safeguard", "lr")
    assert eased.before == pytest.approx(0.1 * 1.5 / 8)
    assert eased.after == pytest.approx(0.15)
    assert hands.factor() == pytest.approx(1.5)


@pytest.mark.parametrize("spent_by", ["nobody", "a controller"])
def test_smaller_steps_are_neither_paid_from_the_budget_nor_end_with_it(spent_by: str) -> None:
    hands = Paper(lr=0.1)
    script: Script = {60: RollBack(reason="r")}
    if spent_by == "a controller":
        script[30] = scale(0.5)
    terms = Terms(budget=1.0 if spent_by == "a controller" else 2.0)
    regime = Regime([scripted("c", script, priority=100)], terms, Care(every=10, survive=5, wait=0))
    accounts = drive(regime, hands, 59)
    assert regime.arbiter.stood_down is (spent_by == "a controller")
    accounts = drive(regime, hands, 20)
    smaller = next(a for a in accounts if a.who == "safeguard" and a.asked is not None)
    assert (smaller.verdict, (smaller.done or {})["factor"]) == ("accepted", 1 / 8)
    assert regime.actuator.knobs.part("safeguard", "lr") == -3.0, "it stands while it is to hold"
    assert regime.arbiter.spent == (1.0 if spent_by == "a controller" else 0.0)
    drive(regime, hands, 150)
    assert hands.factor() == 1.0


def test_the_safeguard_keeps_its_part_when_controllers_stand_down() -> None:
    hands = Paper(lr=0.1)
    script: Script = {60: RollBack(reason="r"), 65: scale(0.5, "momentum")}
    hands.plan["momentum"] = {0: 0.9}
    care = Care(every=10, survive=5, wait=0, hold=40)
    regime = Regime([scripted("c", script, priority=100)], Terms(budget=1.0), care)
    drive(regime, hands, 80)
    assert regime.arbiter.stood_down
    assert hands.factor() == 1 / 8
    assert regime.actuator.knobs.part("c", "momentum") > -1.0


def test_divergence_is_seen_by_the_trend() -> None:
    faults: dict[int, str | float] = dict.fromkeys(range(200, 206), 100.0)
    run = Loop(guarded(), faults=faults).run(500)
    (back,) = rollbacks(run.accounts)
    assert "above its trend" in back.reason
    assert 206 <= back.at < 240
    assert recent(run) < recent(Loop(Regime([])).run(340)), "it cost more than 160 steps"


def test_a_state_that_fails_twice_is_given_up_for_an_older_one() -> None:
    hands = Paper(lr=0.1)
    regime = guarded(Care(every=20, survive=10, streak=3, keep=3, wait=0))

    def step(loss: float) -> None:
        regime.after(Now(1, True, loss), hands)

    for _ in range(100):
        step(1.0)
    for _ in range(3):
        for _ in range(3):
            step(math.nan)
        step(1.0)
    slots = [what[1] for what in hands.said if what[0] == "roll_back"]
    assert len(slots) == 3
    assert slots[0] == slots[1] != slots[2]


def test_the_start_is_a_good_state() -> None:
    run = Loop(guarded(), faults={3: "nan"}).run(30)
    assert [back.at - int((back.done or {})["before"]) for back in rollbacks(run.accounts)] == [1]
    assert math.isfinite(run.losses[-1])


def test_without_a_good_state_it_says_so_and_goes_on() -> None:
    run = Loop(guarded(), faults={0: "nan"}).run(30)
    told = [a for a in run.accounts if a.verdict == "refused"]
    assert told
    assert "no good state" in told[0].reason
    assert not rollbacks(run.accounts)


def test_rollbacks_have_a_cap() -> None:
    regime = Regime([], Terms(rollbacks=2), Care(every=10, survive=5, streak=2))
    hands = Paper(lr=0.1)
    for k in range(300):
        regime.after(Now(k, True, math.nan if k % 40 > 35 else 1.0), hands)
    assert sum(what[0] == "roll_back" for what in hands.said) == 2


def test_gradients_that_are_never_finite_again_end_training() -> None:
    hands, regime = Paper(lr=0.1), guarded(Care(every=20, survive=10, wait=0))

    def go(steps: int, *, usable: bool) -> list[str]:
        norm = 1.0 if usable else math.nan
        now = Now(1, usable, 1.0, {"gradient_norm": norm})
        return [a.reason for _ in range(steps) for a in regime.after(now, hands)]

    assert go(100, usable=True) == []
    assert go(19, usable=False) == [], "a few of them were left out, and harmed nothing"
    assert go(1, usable=True) == []
    assert go(20, usable=False)[0] == "20 gradients in a row are not finite"
    assert [what[0] for what in hands.said].count("roll_back") == 1
    go(1, usable=True)
    go(20, usable=False)
    said = "20 gradients in a row are not finite, and so they are with the good weights"
    assert said in go(20, usable=False)
    assert [what[0] for what in hands.said].count("roll_back") == 2
    assert ("stop", said) in hands.said


@pytest.mark.parametrize("policy", ["skip", "keep"])
def test_batches_at_fault_are_looked_at_again_data_is_told_from_luck(policy: str) -> None:
    # Batch 10 of every 64 is spoilt. At 205 the weights are, which is no batch's fault.
    action: Literal["skip", "keep"] = "skip" if policy == "skip" else "keep"
    care = Care(every=40, survive=20, suspects=5, bad_batches=action, wait=0)

    def go_back(now: Now, memory: dict[str, int]) -> RollBack | None:
        memory["seen"] = memory.get("seen", 0) + 1
        return RollBack(reason="told to") if memory["seen"] == 210 else None

    regime = Regime([Controller(go_back, name="c")], care=care)
    run = Loop(regime, faults={205: 300.0}, spoilt=frozenset({10})).run(240)
    assert len(rollbacks(run.accounts)) == 1
    told = [a for a in run.accounts if "with the good weights" in a.reason and a.outcome is None]
    found = {a.evidence["position"]: a.reason for a in told}
    assert "the data" in found[202.0]  # 202 % 64 == 10
    lucky = [position for position, said in found.items() if "luck" in said]
    assert all(position > 204 for position in lucky)
    assert lucky
    assert run.left_out == ({202} if policy == "skip" else set())


def test_a_trial_that_does_harm_is_rolled_back() -> None:
    def raise_it(now: Now, memory: dict[str, int]) -> Scale | None:
        memory["seen"] = memory.get("seen", 0) + 1
        if memory["seen"] != 250:
            return None
        return Scale(hyperparameter="lr", factor=64.0, reason="told to")

    harmful = Controller(raise_it, acts_on=("lr",), name="c")
    care = Care(every=40, survive=20, persist=10**6)  # of itself it sees no divergence
    run = Loop(Regime([harmful], care=care)).run(420)
    (back,) = rollbacks(run.accounts)
    assert "a trial did harm" in back.reason
    # Back before the trial: a state taken in it is none.
    assert back.done is not None
    assert back.at - back.done["before"] < 250
    assert run.factors["lr"] <= 1.0


# -- interruption and replay ---------------------------------------------------------------------

FAULTS: dict[int, str | float] = {150: "nan", **dict.fromkeys(range(300, 306), 100.0)}


@pytest.mark.parametrize("cut", [153, 157, 310])
def test_interrupted_anywhere_it_resumes_to_the_same_bits(cut: int) -> None:
    whole = Loop(guarded(), faults=FAULTS).run(380)
    assert len(rollbacks(whole.accounts)) == 2
    first = Loop(guarded(), faults=FAULTS).run(cut)
    state = json.loads(json.dumps(first.regime.state_dict()))
    second = Loop(guarded(), faults=FAULTS)
    second.restore(first.saved())
    second.regime.load_state_dict(state)
    second.run(380 - cut)
    assert same_bits(weights(second.model), weights(whole.model))
    told = [a.written() for a in first.accounts + second.accounts]
    assert told == [a.written() for a in whole.accounts]


def test_a_replay_does_the_same_to_the_same_bits() -> None:
    whole = Loop(guarded(), faults=FAULTS, spoilt=frozenset({10})).run(380)
    written = json.loads(json.dumps([a.written() for a in whole.accounts], allow_nan=False))
    replay = Replay(map(Account.read, written))
    again = Loop(replay, faults=FAULTS, spoilt=frozenset({10})).run(380)
    assert same_bits(weights(again.model), weights(whole.model))
    assert again.losses[-50:] == whole.losses[-50:]
    assert again.left_out == whole.left_out
    assert again.factors == whole.factors
    # It can be interrupted as well.
    half = Loop(Replay(map(Account.read, written)), faults=FAULTS, spoilt=frozenset({10})).run(155)
    rest = Loop(Replay(map(Account.read, written)), faults=FAULTS, spoilt=frozenset({10}))
    rest.restore(half.saved())
    rest.regime.load_state_dict(json.loads(json.dumps(half.regime.state_dict())))
    assert same_bits(weights(rest.run(225).model), weights(whole.model))


def test_a_dry_run_is_the_run_without_a_regime() -> None:
    dry = Loop(Regime([], care=CARE, dry_run=True), faults={150: 50.0}).run(250)
    plain = Loop(Regime([]), faults={150: 50.0}).run(250)
    assert same_bits(weights(dry.model), weights(plain.model))
    assert all(torch.isfinite(w).all() for w in weights(dry.model))
    assert not dry.slots


def test_what_the_regime_has_changed_stands_after_a_roll_back() -> None:
    class Forgetful(Paper):
        """A slot holds the param groups as they were: without the factors of since then."""

        def roll_back(self, slot: int) -> None:
            super().roll_back(slot)
            self.factors.clear()
            self.plan["blend"][0] = 0.0
            self.said.clear()

    hands = Forgetful(lr=0.1, blend=0.0)
    script: Script = {
        30: [
            Move(hyperparameter="blend", to=0.3, over=10, reason="r"),
            scale(0.6),
            Limit(norm=5.0, reason="r"),
            Grow(factor=2.0, reason="r"),
        ],
        60: RollBack(reason="r"),
    }
    regime = Regime([scripted("c", script)], care=Care(every=10, survive=5, backoff=1.0))
    drive(regime, hands, 60)
    assert hands.factor() == pytest.approx(0.6)
    assert hands.plan["blend"] == {0: pytest.approx(0.3)}
    assert {("limit", 5.0), ("grow", 2.0)} <= set(hands.said)


def test_a_slow_decline_bends_its_trend_and_is_seen_by_what_is_lost() -> None:
    hands = Paper(lr=0.1)
    regime = guarded(Care(every=20, survive=10))
    accounts: list[Account] = []
    noise = random.Random(1)
    for update in range(1, 400):
        # It falls for 150 steps, and climbs back to its start in 250 more.
        loss = 2.3 - 2.2 * (min(update, 150) / 150 - max(0, update - 150) / 250)
        loss += noise.gauss(0, 0.1)
        now = Now(update, True, loss, {"gradient_norm": 1.0}, frozenset({"gradient_norm"}))
        accounts += regime.after(now, hands)
    back = rollbacks(accounts)
    assert back
    assert "of the progress is lost" in back[0].reason
    assert 150 + 125 < back[0].at < 150 + 125 + 25
    taken = int(back[0].done["before"])
    assert back[0].at - taken < 150 + 30, "what was kept on the way up is not gone back to"


def test_a_good_state_that_comes_to_harm_at_once_is_put_back_again() -> None:
    # What broke the run still lasts when it is back. New data looks otherwise: it is strange to the
    # good state from its first loss on.
    def run(after: list[float]) -> list[Account]:
        noise, accounts, hands = random.Random(2), list[Account](), Paper(lr=0.1)
        regime = guarded(Care(every=20, survive=10, wait=0))
        coming = iter(after)
        for update in range(1, 190):
            broken = 9.0 if update > 150 else 2.0
            loss = (next(coming) if rollbacks(accounts) else broken) + noise.gauss(0, 0.1)
            now = Now(update, True, loss, {"gradient_norm": 1.0}, frozenset({"gradient_norm"}))
            accounts += regime.after(now, hands)
        return rollbacks(accounts)

    harmed = run([2.0] + [2.7] * 40)
    assert len(harmed) == 2
    assert harmed[0].at + 10 < harmed[1].at < harmed[0].at + 20
    assert "above its trend" in harmed[1].reason
    assert len(run([5.0] + [4.0] * 40)) == 1
    assert len(run([2.0] * 41)) == 1


def test_what_is_lost_is_a_share_of_the_progress() -> None:
    course = Course(96)
    for loss in [4.0] * 8 + [2.0] * 60 + [3.0] * 8:
        course.add(True, loss)
    assert course.lost == 0.5
    course.forget()
    for loss in [4.0] * 8 + [3.5] * 8 + [4.0] * 8:
        course.add(True, loss)
    assert course.lost == 0, "too little was regained to lose"
    for loss in [2.5] * 60 + [4.0] * 8:
        course.add(True, loss)
    assert course.lost == 0.75
    for seed in range(20):
        noise, flat = random.Random(seed), Course(96)
        for _ in range(300):
            flat.add(True, noise.gauss(2.3, 0.1))
            assert flat.lost == 0, "noise is no progress"
    again = Course(96)
    again.load_state_dict(json.loads(json.dumps(course.state_dict())))
    assert again.lost == course.lost


@pytest.mark.parametrize(("finite", "patience"), [(True, 20), (False, 5)])
def test_losses_without_updates_harm_nothing_while_the_weights_are_finite(
    finite: bool, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands, regime = Paper(lr=0.1), guarded(Care(every=20, survive=10, wait=0))
    monkeypatch.setattr(hands, "weights_are_finite", lambda: finite)

    def go(steps: int, loss: float) -> list[str]:
        now = Now(1, math.isfinite(loss), loss, {"gradient_norm": loss})
        return [a.reason for _ in range(steps) for a in regime.after(now, hands)]

    assert go(100, 1.0) == []
    assert go(patience - 1, math.nan) == []
    assert go(1, math.nan)[0] == f"{patience} losses in a row are not finite"
    assert [what[0] for what in hands.said].count("roll_back") == 1


@pytest.mark.parametrize("fall", ["straight", "exponential"])
def test_a_loss_that_reaches_its_floor_is_no_alarm(fall: str) -> None:
    """A falling line leads below the floor; and harm is seen there all the same."""
    noise = random.Random(0)
    hands, regime = Paper(lr=0.1), guarded(Care(every=20, survive=10, wait=0))

    def level(step: int) -> float:
        down = 1 - step / 230 if fall == "straight" else math.exp(-step / 60)
        return 0.08 + 5 * max(down, 0.0)

    for step in range(1000):
        loss = level(step) + 0.004 * noise.gauss(0, 1)
        assert regime.after(Now(step, True, loss, {"gradient_norm": 1.0}), hands) == []
    for step in range(1000, 1030):
        regime.after(Now(step, True, 0.08 + 0.1 * (step - 999), {"gradient_norm": 1.0}), hands)
    assert "roll_back" in [what[0] for what in hands.said]


def test_a_replay_goes_on_where_a_hand_is_missing() -> None:
    limit = Limit(norm=3.0, reason="spikes")
    told = drive(Regime([scripted("c", {3: limit, 5: scale(0.8)})]), Paper(lr=0.1), 10)

    class Other(Paper):
        def limit(self, norm: float) -> None:
            raise InputError("this loop cannot skip updates by their norm")

    hands, replay = Other(lr=0.1), Replay(told)
    again = [a for k in range(10) for a in replay.after(Now(k, True, 1.0), hands)]
    assert [(a.verdict, a.done is None) for a in again] == [("refused", True), ("accepted", False)]
    assert again[0].reason == (
        "spikes; not done again: this loop cannot skip updates by their norm"
    )
    assert hands.factor() == pytest.approx(0.8)
