"""The arbiter, whatever it is asked: bounds, pace, budget, accounts, dry runs, interruptions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.references.hands import Paper
from tests.references.scripts import Script, drive, scripted, verdicts

from rheostat.core.controller import Grow, Limit, Restart, Scale
from rheostat.regimes.account import Account
from rheostat.regimes.grants import Terms
from rheostat.regimes.knobs import Bounds
from rheostat.regimes.regime import Regime

_NAMES = st.sampled_from(["lr", "momentum", "weight_decay", "nothing"])
_FACTORS = st.one_of(
    st.floats(1e-3, 1e3), st.sampled_from([0.0, -1.0, math.inf, math.nan, 1e-300, 1e300, 0.5, 2.0])
)
_SCALES = st.builds(
    Scale,
    reason=st.just("at random"),
    hyperparameter=_NAMES,
    factor=_FACTORS,
    group=st.sampled_from([None, 0, 1, 7]),
    trial=st.booleans(),
)
_OTHERS = st.one_of(
    st.builds(Limit, reason=st.just("r"), norm=_FACTORS),
    st.builds(Grow, reason=st.just("r"), factor=_FACTORS),
    st.just(Restart(reason="r")),
)
_SCRIPTS = st.dictionaries(
    st.integers(1, 220),
    st.lists(st.one_of(_SCALES, _SCALES, _OTHERS), min_size=1, max_size=3),
    max_size=40,
)
_TERMS = st.builds(
    Terms,
    bounds=st.builds(
        Bounds,
        floor=st.floats(1 / 64, 1),
        ceiling=st.floats(1, 64),
        rate=st.floats(0.05, 1),
        smoothing=st.floats(0.1, 1),
        ease=st.floats(0.01, 0.5),
    ),
    cooldown=st.integers(1, 30),
    trial_from=st.floats(0, 3),
    history=st.integers(48, 96),
    window=st.integers(8, 24),
    budget=st.floats(0, 20),
    deaf=st.integers(5, 50),
)


def _acting(scripts: Sequence[Script], terms: Terms, dry_run: bool = False) -> tuple[Regime, Paper]:
    controllers = [
        scripted(f"c{i}", script, priority=10 if i else 100, needs=("s",) if i == 2 else ())
        for i, script in enumerate(scripts)
    ]
    plan = {0: 0.1, 1: 0.2}
    return Regime(controllers, terms, dry_run=dry_run), Paper(
        lr=plan, momentum={0: 0.9, 1: 0.9}, weight_decay=plan
    )


def _sometimes(step: int) -> dict[str, float]:
    return {"s": 1.0} if step % 90 < 30 else {}


@settings(max_examples=15)
@given(st.lists(_SCRIPTS, min_size=3, max_size=3), _TERMS)
def test_factors_keep_their_bounds_their_pace_and_the_budget(
    scripts: Sequence[Script], terms: Terms
) -> None:
    regime, hands = _acting(scripts, terms)
    bounds, before = terms.bounds, dict[Any, float]()
    for _ in range(240):
        accounts = drive(regime, hands, 1, signals=_sometimes)
        for key, factor in hands.factors.items():
            assert bounds.floor * (1 - 1e-9) <= factor <= bounds.ceiling * (1 + 1e-9)
            step = math.log2(factor) - math.log2(before.get(key, 1.0))
            assert abs(step) <= bounds.rate + 1e-9
        before = dict(hands.factors)
        assert 0 <= regime.arbiter.spent <= terms.budget + 1e-9  # a sum of logarithms
        assert 1 <= regime.actuator.growth <= terms.growth
        for account in accounts:
            assert (
                Account.read(json.loads(json.dumps(account.written(), allow_nan=False))) == account
            )
    assert all(math.isfinite(f) for f in hands.factors.values())


@settings(max_examples=6)
@given(st.lists(_SCRIPTS, min_size=3, max_size=3), _TERMS)
def test_a_dry_run_touches_nothing_and_says_the_same_at_first(
    scripts: Sequence[Script], terms: Terms
) -> None:
    regime, hands = _acting(scripts, terms, dry_run=True)
    accounts = drive(regime, hands, 120, signals=_sometimes)
    assert hands.factors == {}
    assert [said for said in hands.said if said[0] != "position"] == []
    assert all(account.dry for account in accounts)
    wet = drive(*_acting(scripts, terms), 120, signals=_sometimes)
    # The losses here do not depend on factors: so what would be is what is.
    assert verdicts(accounts) == verdicts(wet)


@settings(max_examples=8)
@given(st.lists(_SCRIPTS, min_size=3, max_size=3), _TERMS, st.integers(1, 230))
def test_interrupted_anywhere_it_goes_on_as_if_it_was_not(
    scripts: Sequence[Script], terms: Terms, cut: int
) -> None:
    whole, hands = _acting(scripts, terms)
    expected = drive(whole, hands, 240, signals=_sometimes)
    first, other = _acting(scripts, terms)
    accounts = drive(first, other, cut, signals=_sometimes)
    saved = json.loads(json.dumps(first.state_dict()))
    second, _ = _acting(scripts, terms)
    second.load_state_dict(saved)
    accounts += drive(second, other, 240 - cut, signals=_sometimes)
    assert [a.written() for a in accounts] == [a.written() for a in expected]
    assert other.factors == hands.factors
    assert other.said == hands.said
    assert second.state_dict() == whole.state_dict() or _has_nan(whole.state_dict())


def _has_nan(state: Any) -> bool:
    return "NaN" in json.dumps(state)
