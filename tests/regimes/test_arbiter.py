"""The arbiter: what is granted, what is refused and why, what is tried and taken back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.references.hands import Paper
from tests.references.scripts import Script, drive, flat, scale, scripted

from rheostat.core.controller import (
    Controller,
    Decision,
    Grow,
    Limit,
    Move,
    Now,
    Restart,
    RollBack,
)
from rheostat.core.errors import InputError
from rheostat.regimes.account import Account
from rheostat.regimes.grants import Terms
from rheostat.regimes.knobs import Bounds, Knobs
from rheostat.regimes.regime import Regime
from rheostat.regimes.robust import Line
from rheostat.regimes.safeguard import Care
from rheostat.regimes.trial import Trial
from rheostat.signals.monitor import Monitor


def test_a_small_change_is_smoothed_and_arrives() -> None:
    hands = Paper(lr=0.1)
    regime = Regime([scripted("c", {3: scale(0.6)})])
    seen = []
    for _ in range(20):
        drive(regime, hands, 1)
        seen.append(hands.factor())
    assert seen[:2] == [1.0, 1.0]
    assert seen == sorted(seen, reverse=True)
    assert seen[2] > 0.6
    assert seen[-1] == pytest.approx(0.6)
    assert len(set(seen)) > 4


def test_a_factor_on_a_momentum_is_told_in_its_value() -> None:
    hands = Paper(momentum=0.9)
    accounts = drive(Regime([scripted("c", {3: scale(1.5, "momentum")})]), hands, 40)
    told = accounts[0]
    assert (told.before, told.after) == (pytest.approx(0.9), pytest.approx(0.85))
    assert told.hyperparameter == "momentum"
    outcome = accounts[-1].outcome
    assert accounts[-1].number == told.number
    assert outcome is not None
    assert outcome.before == pytest.approx(1.0, abs=0.02)
    assert outcome.after == pytest.approx(1.0, abs=0.02)


def test_what_is_granted_whole_is_not_said_to_be_bounded() -> None:
    script: Script = {3 + 30 * k: scale(1.25) for k in range(9)}
    accounts = drive(Regime([scripted("c", script)]), Paper(lr=0.1), 250)
    asked = [a for a in accounts if a.outcome is None]
    assert [a.verdict for a in asked] == ["accepted"] * 9
    assert all(a.done is not None and a.done["factor"] == 1.25 for a in asked)


def test_the_schedule_is_multiplied_never_overwritten() -> None:
    hands = Paper(lr=0.1)
    regime = Regime([scripted("c", {3: scale(0.6)})])
    drive(regime, hands, 20)
    hands.plan["lr"][0] = 0.05
    drive(regime, hands, 20)
    assert hands.plan["lr"][0] == 0.05
    assert hands.factor() == pytest.approx(0.6)


def test_conflicts_go_by_priority_then_size() -> None:
    hands = Paper(lr=0.1)
    low, high = scripted("low", {3: scale(1.8)}), scripted("high", {3: scale(0.7)}, priority=50)
    accounts = drive(Regime([low, high]), hands, 3)
    assert [(a.who, a.verdict) for a in accounts] == [("high", "accepted"), ("low", "refused")]
    assert "high was heard first" in accounts[1].reason


def test_one_controller_may_turn_several_groups_in_one_step() -> None:
    hands = Paper(lr={0: 0.1, 1: 0.1})
    script: Script = {3: [scale(0.7, group=0), scale(1.3, group=1), scale(0.9, group=1)]}
    accounts = drive(Regime([scripted("c", script)]), hands, 30)
    assert [a.verdict for a in accounts if a.outcome is None] == ["accepted", "accepted", "refused"]
    assert hands.factor(group=0) == pytest.approx(0.7)
    assert hands.factor(group=1) == pytest.approx(1.3)


def test_the_cooldown_gives_way_to_a_higher_priority_alone() -> None:
    script: Script = {3: scale(0.7), 8: scale(0.7)}
    low, high = scripted("low", script), scripted("high", {10: scale(0.7)}, priority=50)
    accounts = drive(Regime([low, high]), Paper(lr=0.1), 12)
    assert [(a.at, a.who, a.verdict) for a in accounts] == [
        (3, "low", "accepted"),
        (8, "low", "refused"),
        (10, "high", "accepted"),
    ]


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (scale(math.nan), "means nothing"),
        (scale(0.0), "means nothing"),
        (scale(1.01), "deadband"),
        (scale(2.0, "weight_decay"), "nothing here is called weight_decay"),
        (scale(2.0, group=3), "param group 3 has no lr"),
        (scale(4.0), "too few losses"),
        (Limit(norm=math.nan, reason="r"), "would skip every update"),
        (Grow(factor=0.5, reason="r"), "a bound is reached"),
        (Move(hyperparameter="lr", to=0.5, reason="r"), "lr is no share"),
        (Move(hyperparameter="blend", to=2.0, reason="r"), "blend is no share between 0 and 1"),
    ],
)
def test_what_is_refused_says_why(decision: Decision, why: str) -> None:
    hands = Paper(lr=0.1, blend=0.0)
    (account,) = drive(Regime([scripted("c", {3: decision})]), hands, 3)
    assert account.verdict == "refused"
    assert why in account.reason
    assert account.done is None
    assert not hands.factors
    assert not hands.said


def test_what_the_hands_cannot_do_is_refused_in_their_words() -> None:
    class Unscheduled(Paper):
        def restart(self, state: str | None) -> None:
            raise InputError("plan: no group has a schedule of 'lr'")

    (account,) = drive(Regime([scripted("c", {3: Restart(reason="r")})]), Unscheduled(lr=0.1), 3)
    assert account.verdict == "refused"
    assert "no group has a schedule" in account.reason


def test_the_same_refusal_again_and_again_is_told_once_and_counted() -> None:
    script: Script = {step: scale(1.01) for step in range(3, 252)}
    script[260] = scale(1.5)
    accounts = drive(Regime([scripted("c", script)]), Paper(lr=0.1), 260)
    refused = [a for a in accounts if a.verdict == "refused"]
    assert [(a.at, a.times) for a in refused] == [(3, 1), (3, 100), (3, 200), (3, 249)]
    assert len({a.number for a in refused}) == 1


def test_a_share_moves_in_equal_steps_no_faster_than_allowed() -> None:
    hands = Paper(blend=0.0)
    move = Move(hyperparameter="blend", to=1.0, over=2, reason="r")
    accounts = drive(Regime([scripted("c", {3: move})]), hands, 20)
    shares = [value for _, value in hands.said]
    assert accounts[0].verdict == "bounded"
    assert shares == pytest.approx([i / 10 for i in range(1, 11)])
    assert shares[-1] == 1.0


# -- trials --------------------------------------------------------------------------------------


def _tried(loss: Callable[[int], float]) -> tuple[list[Account], Paper]:
    hands = Paper(lr=0.1)
    regime = Regime([scripted("c", {100: scale(0.25)})])
    return drive(regime, hands, 200, loss), hands


def test_a_trial_that_helps_is_kept() -> None:
    accounts, hands = _tried(lambda step: flat(step) - (0.1 if step > 104 else 0))
    assert [a.verdict for a in accounts if a.outcome is None] == ["trial", "kept"]
    kept = next(a for a in accounts if a.verdict == "kept")
    assert kept.about == accounts[0].number
    assert kept.evidence["z"] > 5
    assert kept.evidence["found"] == pytest.approx(0.9, abs=0.02)
    assert hands.factor() == 0.25


def test_a_trial_that_does_not_help_is_undone_gradually_and_waits_longer() -> None:
    hands = Paper(lr=0.1)
    script: Script = {step: scale(0.25) for step in range(100, 400)}
    accounts = drive(Regime([scripted("c", script)]), hands, 400)
    told = [(a.at, a.verdict) for a in accounts if a.verdict in ("trial", "undone")]
    starts = [at for at, verdict in dict.fromkeys(told) if verdict == "trial"]
    assert starts[0] == 100
    undone = next(a for a in accounts if a.verdict == "undone")
    assert undone.done is not None
    assert undone.done["factor"] == pytest.approx(4.0)
    assert starts[1] - undone.at >= 40  # twice the cooldown
    assert len(starts) <= 4


def test_a_trial_is_judged_against_the_trend_not_against_the_level() -> None:
    # The loss falls on as before: lower than it was, and no better than the forecast.
    accounts, hands = _tried(lambda step: flat(step) + 3 - 0.01 * step)
    assert [a.verdict for a in accounts if a.outcome is None] == ["trial", "undone"]
    undone = next(a for a in accounts if a.verdict == "undone")
    assert abs(undone.evidence["z"]) < 1
    assert hands.factor() == 1.0


def test_training_that_slows_down_as_it_does_is_no_harm_of_a_trial() -> None:
    # An exponential: the straight line through what it was falls below zero.
    noise = random.Random(2)
    losses = [4 * math.exp(-i / 40 + noise.gauss(0, 0.02)) for i in range(120)]
    line = replace(Line.through(losses[:96]), width=0.01)
    logs = Line.through([math.log(loss) for loss in losses[:96]])
    trial = Trial(0, 96, "c", "lr", None, -2.0, -2.0, line, 96, logs)
    for loss in losses[96:]:
        trial.add(loss, still=True)
    expected, found, z = trial.forecast()
    assert expected == pytest.approx(found, rel=0.1), "what decides is the line through logarithms"
    assert abs(z) < 3
    assert abs(trial.harm) < 3
    straight = replace(trial, logarithms=None)
    assert straight.forecast()[0] < 0
    assert straight.harm == -straight.forecast()[2] > Terms().harm
    doubled = replace(trial, after=[2 * loss for loss in trial.after])
    assert doubled.harm > Terms().harm, "what is worse by both is harm"


def test_a_trial_that_helps_is_kept_where_training_slows_down() -> None:
    def slowing(step: int) -> float:
        return 4 * math.exp(-step / 40) * flat(step) * (0.8 if step > 104 else 1)

    accounts, hands = _tried(slowing)
    kept = next(a for a in accounts if a.verdict in ("kept", "undone"))
    assert kept.verdict == "kept"
    assert 0 < kept.evidence["found"] < kept.evidence["forecast"]
    assert f"{kept.evidence['forecast']:.4g} was forecast" in kept.reason
    assert hands.factor() == 0.25
    accounts, _ = _tried(lambda step: slowing(step) / (0.8 if step > 104 else 1))
    assert abs(next(a for a in accounts if a.verdict == "undone").evidence["z"]) < 1


def test_a_forecast_below_zero_decides_nothing_where_losses_are_positive() -> None:
    # A straight line down to 0.04, and from there on it creeps: 0 is as far as it could go.
    noise = random.Random(3)
    losses = [1 - 0.01 * i + noise.gauss(0, 0.001) for i in range(96)]
    line, logs = Line.through(losses), Line.through([math.log(loss) for loss in losses])
    assert line.width < logs.width * math.exp(logs.level), "it lies nearer"
    trial = Trial(0, 96, "c", "lr", None, -2.0, -2.0, line, 96, logs)
    for _ in range(24):
        trial.add(0.03 + noise.gauss(0, 0.001), still=True)
    expected, _, z = trial.forecast()
    assert expected > 0
    assert z > 0


def test_few_trials_without_effect_are_kept() -> None:
    kept = 0
    for seed in range(60):
        noise = random.Random(seed)
        losses = [noise.gauss(1, 0.1) for _ in range(170)]
        accounts, _ = _tried(lambda step, of=losses: of[step - 1] if step <= 170 else 1.0)
        kept += any(a.verdict == "kept" for a in accounts)
    assert kept / 60 < 0.25  # one standard error is passed by chance in 16 %


# -- budget, missing signals ---------------------------------------------------------------------


def test_a_spent_budget_takes_everything_back_gradually_and_says_so() -> None:
    script: Script = {step: scale(0.6 if step % 60 else 1.5) for step in range(30, 400, 30)}
    hands = Paper(lr=0.1)
    regime = Regime([scripted("c", script)], Terms(budget=2.0))
    accounts = drive(regime, hands, 200)
    down = next(a for a in accounts if a.verdict == "undone")
    assert down.who == "arbiter"
    assert "the budget of 2 octaves is spent" in down.reason
    assert any("stood down" in a.reason for a in accounts if a.verdict == "refused")
    drive(regime, hands, 300)
    assert hands.factor() == 1.0


def test_a_controller_without_its_signals_loses_its_parts_alone() -> None:
    deaf = scripted("deaf", {30: scale(0.6)}, needs=("s",))
    other = scripted("other", {60: scale(0.8)})
    hands = Paper(lr=0.1)
    regime = Regime([deaf, other], Terms(deaf=50))
    accounts = drive(regime, hands, 250, signals=lambda step: {"s": 1.0} if step <= 40 else {})
    told = next(a for a in accounts if a.verdict == "undone")
    assert told.at == 90
    assert "deaf has missed its signals (s) for 50 steps" in told.reason
    assert hands.factor() == pytest.approx(0.8)


def test_a_limit_that_skips_too_much_is_lifted() -> None:
    hands = Paper(lr=0.1)
    regime = Regime([scripted("c", {1: Limit(norm=1e-9, reason="r")})])
    accounts: list[Account] = []
    for step in range(30):
        accounts += regime.after(Now(step, False, 1.0, reason="above the limit"), hands)
    assert hands.said == [("limit", 1e-9), ("limit", math.inf)]
    assert "20 updates were skipped in a row" in accounts[-1].reason


def test_limits_do_not_stop_all_updates() -> None:
    limit = Limit(norm=1e-9, reason="r")
    hands = Paper(lr=0.1)
    regime = Regime([scripted("c", dict.fromkeys(range(1, 301), limit))])
    skipped = 0
    accounts: list[Account] = []
    for step in range(300):
        bound = next((said[1] for said in reversed(hands.said) if said[0] == "limit"), math.inf)
        skipped += bound < 1.0
        accounts += regime.after(Now(step, bound > 1.0, 1.0, reason="above the limit"), hands)
    assert skipped <= 3 * 20 + 1
    lifted = [a.at for a in accounts if a.who == "arbiter" and a.outcome is None]
    again = [a.at for a in accounts if a.verdict == "accepted" and a.at > lifted[0]]
    assert again[0] - lifted[0] == 2 * Terms().cooldown
    told = [a.reason for a in accounts if a.verdict == "refused"]
    assert "limits skipped too much, 1 in a row; 40 steps of wait" in told[0]


def test_a_limit_that_is_taken_back_by_who_asked_for_it_counts_no_more() -> None:
    limit, lift = Limit(norm=1e-9, reason="r"), Limit(norm=math.inf, reason="r")
    regime = Regime([scripted("c", {1: limit, 70: limit, 75: lift, 76: limit})])
    hands = Paper(lr=0.1)
    for step in range(76):
        regime.after(Now(step, step > 25, 1.0), hands)
    assert [norm for _, norm in hands.said] == [1e-9, math.inf, 1e-9, math.inf, 1e-9]


def test_settings_that_mean_nothing_are_refused() -> None:
    for make in (
        lambda: Bounds(floor=2.0),
        lambda: Bounds(own={"lr": (0.5, 0.9)}),
        lambda: Bounds(rate=0.0),
        lambda: Terms(history=10),
        lambda: Terms(budget=-1),
        lambda: Regime([scripted("safeguard", {})]),
    ):
        with pytest.raises(InputError):
            make()
    regime = Regime([scripted("a", {})])
    with pytest.raises(InputError, match="saved with the controllers b"):
        regime.load_state_dict(Regime([scripted("b", {})]).state_dict())


def test_a_trial_that_takes_a_change_back_is_undone_too() -> None:
    """The part is then 1, and what is undone is the trial, not what is left of the part."""
    regime = Regime([scripted("me", {100: scale(0.5), 250: scale(2.0)})])
    hands = Paper(lr=0.1)

    def loss(step: int) -> float:
        return flat(step) - (0.5 if step > 101 else 0.0) + (1.0 if step > 251 else 0.0)

    told = [a for a in drive(regime, hands, 400, loss) if a.outcome is None]
    assert [a.verdict for a in told] == ["trial", "kept", "trial", "undone"]
    assert told[-1].after == pytest.approx(0.05)
    assert hands.factor() == pytest.approx(0.5)


def test_a_part_in_one_group_is_seen_and_taken_back_where_signals_are_missing() -> None:
    shares: list[tuple[float, float]] = []

    def decide(now: Now, memory: dict[str, int]) -> Decision | None:
        shares.append((now.share("lr"), now.share("lr", 1)))
        return scale(0.6, group=1) if now.step == 5 else None

    one = Controller(decide, ("heard",), ("lr",), name="c")
    hands, regime = Paper(lr={0: 0.1, 1: 0.2}), Regime([one], Terms(deaf=20))
    drive(regime, hands, 30, signals=lambda _: {"heard": 1.0})
    assert shares[-1] == (1.0, pytest.approx(0.6))
    assert hands.factor("lr", 1) == pytest.approx(0.6)
    assert hands.factor("lr", 0) == 1.0
    told = drive(regime, hands, 100)
    assert "has missed its signals" in told[0].reason
    assert hands.factor("lr", 1) == 1.0


def _any(kind: Any, **fields: Any) -> Decision:
    """A decision with whatever a user may have written."""
    return kind(**fields, reason="r")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (_any(Move, hyperparameter="blend", to=0.5, over=2.5), "over=2.5 should be a whole"),
        (_any(RollBack, before=-1), "before=-1 should be a whole number from 0 on"),
        (_any(RollBack, before="3"), "before='3' should be a number"),
        (_any(Restart, evidence=None), "evidence=None should map names"),
    ],
)
def test_numbers_that_count_are_whole(wrong: Decision, said: str) -> None:
    regime = Regime([scripted("c", {3: wrong})])
    with pytest.raises(InputError, match=said):
        drive(regime, Paper(blend=0.1), 5)


def test_a_trial_is_void_where_the_schedule_begins_again() -> None:
    hands = Paper(lr=0.1)
    regime = Regime([scripted("c", {120: scale(0.25)})])
    accounts = drive(regime, hands, 125)
    hands.plan["lr"][0] = 1.0  # and the loss is another
    accounts += drive(regime, hands, 60, lambda step: 10 * flat(step))
    undone = next(a for a in accounts if a.verdict == "undone")
    assert "the schedule began again before it was measured" in undone.reason
    assert undone.evidence == {}
    assert hands.factor() == 1.0
    assert regime.arbiter.state_dict()["failed"] == {}, "it is no failure"


def test_where_a_brake_ends_a_trial_the_account_tells_where_it_leads() -> None:
    hands = Paper(lr=0.1)
    brake = scripted("b", {105: scale(0.5)}, priority=100)
    accounts = drive(Regime([scripted("a", {100: scale(0.25)}), brake]), hands, 400)
    told = next(a for a in accounts if a.who == "b")
    assert told.after == pytest.approx(0.05)
    assert hands.factor() == pytest.approx(0.5)


def test_a_way_back_that_is_refused_leaves_a_trial_alone() -> None:
    class Stuck(Paper):
        def roll_back(self, slot: int) -> None:
            raise InputError("this loop cannot go back")

    hands = Stuck(lr=0.1)
    back = scripted("b", {105: RollBack(reason="r")}, priority=100)
    regime = Regime([scripted("a", {100: scale(0.25)}), back], care=Care(every=10, survive=10))
    accounts = drive(regime, hands, 110)
    assert regime.arbiter.trial is not None
    refused = next(a for a in accounts if a.who == "b")
    assert refused.reason.startswith("this loop cannot go back")


def test_a_turn_begins_where_the_factor_can_be() -> None:
    """What two have asked for in all is beyond the bound, once a third one's part is gone."""
    knobs, hands = Knobs(Bounds(ceiling=2.0, rate=8.0, smoothing=1.0, ease=8.0)), Paper(lr=0.1)
    knobs.turn("a", "lr", None, 1.0)
    knobs.turn("c", "lr", None, -2.0)
    knobs.turn("b", "lr", None, 1.0)
    knobs.ease("c")
    knobs.advance(hands)
    assert hands.factor() == 2.0
    assert knobs.room("lr", None, -1.0) == -1.0
    knobs.turn("b", "lr", None, -1.0)
    knobs.advance(hands)
    assert hands.factor() == 1.0


def test_controllers_without_a_name_are_told_apart() -> None:
    seen: list[str] = []

    def says(what: str) -> Controller:
        return Controller(lambda now, memory: seen.append(what))

    regime = Regime([says("first"), says("second")])
    regime.after(Now(1, True, 1.0), Paper())
    assert seen == ["first", "second"]
    assert [*regime.controllers] == ["a controller", "a controller 2"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Regime(cast("Any", ["plateau"])), "'plateau' is no controller; in a recipe"),
        (lambda: Regime(cast("Any", scripted("c", {}))), "stands alone; give a list"),
        (lambda: Regime([]).load_state_dict({}), "no state of a regime: it lacks actuator, arb"),
        (lambda: Monitor([], lag=-1), "lag=-1: should be a number of steps from 0 on"),
        (lambda: _account(done={"kind": "ease", "foo": 1}).act, "this is no act of a regime"),
    ],
)
def test_mistakes_are_told_in_a_line(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


def _account(**fields: Any) -> Account:
    about: dict[str, Any] = {"number": 0, "at": 1, "step": 1, "segment": 0, "who": "c"}
    return Account(**about, verdict="accepted", reason="r", **fields)
