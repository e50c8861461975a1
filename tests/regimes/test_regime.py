"""A whole regime in a real loop: controllers, arbiter and safeguard together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.references.hands import Loop, Paper
from tests.references.problems import same_bits, weights
from tests.references.rig import make

from rheostat.core.controller import Controller, Now
from rheostat.core.errors import InputError
from rheostat.regimes.account import Account
from rheostat.regimes.regime import Regime
from rheostat.regimes.replay import Replay
from rheostat.regimes.safeguard import Care

FAULTS: dict[int, str | float] = dict.fromkeys(range(250, 270), 30.0)
STEPS = 480


def whole() -> Regime:
    controllers = (make("spike_guard", calm=40), make("plateau"), make("decay_balance", by="ratio"))
    return Regime(controllers, care=Care(every=40, survive=20))


def recent(run: Loop) -> float:
    return sum(run.losses[-64:]) / 64


def test_what_it_needs_is_what_its_parts_need() -> None:
    assert whole().needs == ("gradient_norm", "update_ratio")
    assert whole().acts_on == ("lr", "max_norm", "weight_decay")
    assert list(Regime([make("plateau"), make("plateau")]).controllers) == ["plateau", "plateau 2"]


def test_nothing_happens_in_a_clean_run() -> None:
    run = Loop(whole()).run(STEPS)
    assert run.accounts == []
    assert same_bits(weights(run.model), weights(Loop(Regime([])).run(STEPS).model))


def test_a_learning_rate_that_is_30_times_too_large_is_survived() -> None:
    run = Loop(whole(), faults=FAULTS).run(STEPS)
    who = {account.who for account in run.accounts if account.done}
    assert "spike_guard" in who
    assert 250 < min(account.at for account in run.accounts) < 270, "while it lasts"
    undisturbed, left_alone = Loop(Regime([])), Loop(Regime([]), faults=FAULTS)
    assert recent(run) < 1.5 * recent(undisturbed.run(STEPS))
    assert recent(run) < 0.8 * recent(left_alone.run(STEPS))


def test_it_resumes_and_replays_to_the_same_bits() -> None:
    straight = Loop(whole(), faults=FAULTS).run(STEPS)
    first = Loop(whole(), faults=FAULTS).run(265)
    second = Loop(whole(), faults=FAULTS)
    second.restore(first.saved())
    second.regime.load_state_dict(json.loads(json.dumps(first.regime.state_dict())))
    second.run(STEPS - 265)
    assert same_bits(weights(second.model), weights(straight.model))
    told = [a.written() for a in first.accounts + second.accounts]
    assert told == [a.written() for a in straight.accounts]
    replayed = Loop(Replay(map(Account.read, told)), faults=FAULTS).run(STEPS)
    assert same_bits(weights(replayed.model), weights(straight.model))


def _level(regime: Regime, hands: Paper, steps: int, **signals: float) -> list[Account]:
    found: list[Account] = []
    for step in range(1, steps + 1):
        now = Now(step, True, 1.0 + 0.01 * (step % 7), signals, fresh=frozenset(signals))
        found += regime.after(now, hands)
    return found


@pytest.mark.parametrize(
    ("controller", "plan", "signals", "hyperparameter", "wanted"),
    [
        # Of 1 / (0.1 · 0.01 · 100) = 10 epochs it makes 30; of lr it only reads.
        (
            make("decay_balance", target=30.0, updates_per_epoch=100),
            {"lr": 0.1, "weight_decay": 0.01},
            {},
            "weight_decay",
            1 / 3,
        ),
        (make("adaptive_clipping"), {"max_norm": 1.0}, {"gradient_norm": 5.0}, "max_norm", 5.0),
    ],
    ids=["decay_balance", "adaptive_clipping"],
)
def test_what_is_computed_arrives_though_the_loss_does_not_fall_for_it(
    controller: Controller,
    plan: dict[str, float],
    signals: dict[str, float],
    hyperparameter: str,
    wanted: float,
) -> None:
    hands = Paper(**plan)
    accounts = _level(Regime([controller]), hands, 600, **signals)
    assert hands.factor(hyperparameter) == pytest.approx(wanted, rel=0.2)
    assert {account.verdict for account in accounts} == {"accepted"}


def test_an_answer_to_a_shift_stands_as_long_as_it_should_though_the_loss_has_risen() -> None:
    controller = make("shift_responder", explore=3.0, decay=1.0, pull=4.0, hold=200, rest=100)
    hands, accounts, held = Paper(lr=0.1, pull=0.01), list[Account](), list[float]()
    regime = Regime([controller])
    for step in range(1, 700):
        signals = {"page_hinkley": 50.0 if 250 <= step < 260 else 0.0}
        loss = (1.0 if step < 245 else 9.0) + 0.01 * (step % 7)
        now = Now(step, True, loss, signals, fresh=frozenset(signals))
        accounts += regime.after(now, hands)
        held.append(min(hands.factor("lr") / 3.0, hands.factor("pull") / 4.0))
    assert {account.verdict for account in accounts} == {"accepted"}
    assert min(held[330:449]) == pytest.approx(1.0)
    assert hands.factor("lr") == hands.factor("pull") == 1.0


def test_a_controller_may_read_what_nobody_acts_on() -> None:
    seen: list[tuple[float | None, float, list[str]]] = []

    def look(now: Now, memory: dict[str, Any]) -> None:
        seen.append((now.planned.get("lr"), now.factors["lr"], [*now.planned]))
        assert "absent" not in now.planned

    controller = Controller(look, acts_on=("weight_decay",), name="look")
    _level(Regime([controller]), Paper(lr={0: 0.5, 1: 0.25}, weight_decay=0.01), 1)
    assert seen == [(0.5, 1.0, ["weight_decay"])]


def test_an_error_in_a_controller_names_it() -> None:
    def broken(now: Now, memory: dict[str, Any]) -> None:
        raise ZeroDivisionError

    regime = Regime([Controller(broken, name="broken")])
    with pytest.raises(ZeroDivisionError) as caught:
        regime.after(Now(1, True, 1.0), Paper(lr=0.1))
    assert caught.value.__notes__ == ["raised by the controller broken after update 1"]


def test_names_are_given_in_a_tuple() -> None:
    with pytest.raises(InputError, match=r"needs='gradient_norm': should be a tuple"):
        Controller(lambda now, memory: None, needs="gradient_norm")  # pyright: ignore[reportArgumentType]
    told = Controller(lambda now, memory: "lower", name="c")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"c returned 'lower', which is no decision"):
        told.asked(Now(1, True, 1.0), {})
