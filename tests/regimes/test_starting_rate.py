"""The starting rate: orders of magnitude are corrected once, and a sound rate is left alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from tests.references.rig import Rig, make, scales

WARMUP, PEAK = 20, 0.1


def begin(
    rig: Rig, loss: Callable[[int], float], ratio: Callable[[float], float], steps: int = 300
) -> Rig:
    """A run with a warm-up and then a falling rate; it goes back to its start where it is asked to.
    `ratio` is how far an update moves the weights under a factor on the rate."""
    noise, update = random.Random(3), 0
    for _ in range(steps):
        update += 1
        rig.steps = update - 1
        rig.planned["lr"] = PEAK * min(update / WARMUP, 1) * (1 - update / 1000)
        moved = ratio(rig.share()) * min(update / WARMUP, 1) * math.exp(noise.gauss(0, 0.1))
        found = rig.feed(loss(update) + noise.gauss(0, 0.01), update_ratio=moved)
        if any(decision.kind == "roll_back" for decision in found):
            update = 0
    return rig


def falling(update: int) -> float:
    """A loss that falls."""
    return 2.3 * math.exp(-update / 60)


def risen(update: int) -> float:
    """A loss that falls in the warm-up, and then is where it was."""
    return falling(update) if update < 15 else 2.3


def test_a_sound_rate_is_never_touched() -> None:
    rig = begin(Rig(make("starting_rate")), falling, lambda share: 0.01 * share)
    assert rig.decisions == []
    assert rig.memory["sound"]
    after = begin(rig, lambda _: 50.0, lambda _: 1e-9)
    assert after.decisions == [], "it is silent for good"


@pytest.mark.parametrize("off", [3e-5, 1e-3, 2e-3])
def test_a_rate_too_small_is_raised_to_the_target_at_once(off: float) -> None:
    rig = begin(Rig(make("starting_rate")), falling, lambda share: off * share)
    ((step, factor),) = scales(rig)
    assert WARMUP < step < WARMUP + 16, "not while the plan still warms up"
    assert factor == pytest.approx(min(64.0, 0.01 / off), rel=0.2)
    assert rig.memory["sound"]


def test_a_rate_too_large_goes_back_to_the_start_and_is_lowered_until_it_is_sound() -> None:
    rig = Rig(make("starting_rate"))

    def loss(update: int) -> float:
        """Falls in the warm-up; under more than a tenth of the rate it rises again."""
        return falling(update) if rig.share() < 0.1 or update < 15 else 3.0

    begin(rig, loss, lambda share: 0.5 * share, steps=400)
    assert rig.kinds() == ["roll_back", "scale", "roll_back", "scale"]
    assert rig.share() == pytest.approx(1 / 16)
    assert rig.memory["sound"]


def test_a_few_hard_batches_at_the_verdict_are_no_verdict() -> None:
    def loss(update: int) -> float:
        """At the first look, 32 updates after the warm-up, and at the second, 64 later: high."""
        return 2.0 if 46 <= update <= 54 or 110 <= update <= 118 else falling(2 * update)

    rig = begin(Rig(make("starting_rate")), loss, lambda share: 0.01 * share)
    assert rig.decisions == []
    assert rig.memory["sound"]


@pytest.mark.parametrize("seed", range(40))
def test_a_loss_that_scatters_widely_is_no_verdict(seed: int) -> None:
    scatter = random.Random(seed)

    def loss(update: int) -> float:
        """Single losses lie a factor of 2.5 above and below a level that falls slowly."""
        return math.exp(scatter.gauss(0, 0.9) - update / 80)

    rig = begin(Rig(make("starting_rate")), loss, lambda share: 0.02 * share)
    assert rig.decisions == []
    assert rig.memory["sound"]


@pytest.mark.parametrize("seed", range(10))
def test_a_loss_of_which_little_can_be_learnt_is_no_verdict(seed: int) -> None:
    scatter = random.Random(seed)

    def offset(update: int) -> float:
        """It comes down to its floor, which lies high."""
        return 200 + scatter.gauss(0, 0.1) + 7 * math.exp(-update / 10)

    def weak(update: int) -> float:
        """What can be learnt is a third of what single losses scatter."""
        return 1 + scatter.gauss(0, 0.18) + 0.06 * math.exp(-update / 100)

    for loss in offset, weak:
        rig = begin(Rig(make("starting_rate")), loss, lambda share: 0.5 * share)
        assert rig.decisions == []
        assert rig.memory["sound"]


def test_what_rises_at_any_rate_ends_at_the_bound() -> None:
    rig = Rig(make("starting_rate", most=20.0))
    begin(rig, risen, lambda share: 0.5 * share, steps=600)
    assert rig.share() == pytest.approx(1 / 20)
    assert rig.kinds().count("roll_back") == 3
    assert rig.memory["sound"]


def test_weights_that_were_blown_up_move_little_and_are_moved_no_further() -> None:
    rig, moved = Rig(make("starting_rate")), {True: 0.5, False: 1e-3}
    begin(rig, risen, lambda _: moved[rig.steps < 60], steps=120)
    assert rig.kinds() == ["roll_back", "scale"]
    assert rig.share() == pytest.approx(1 / 4)


def test_where_it_is_stuck_a_small_ratio_means_too_small() -> None:
    rig = begin(Rig(make("starting_rate")), lambda _: 2.3, lambda share: 0.005 * share, steps=80)
    ((_, factor),) = scales(rig)
    assert factor == pytest.approx(2, rel=0.2)
    assert "roll_back" not in rig.kinds()


def test_what_was_refused_is_asked_for_again() -> None:
    rig = Rig(make("starting_rate"))
    begin(rig, lambda update: falling(update) if update < 15 else 3.0, lambda _: 0.5, steps=126)
    assert rig.kinds() == ["roll_back", "scale"]
    rig.shares.clear()  # it was not granted
    begin(rig, falling, lambda _: 0.5, steps=1)
    assert rig.kinds() == ["roll_back", "scale", "scale"]


def test_a_constant_plan_has_no_warm_up_to_wait_for() -> None:
    rig = Rig(make("starting_rate"))
    for step in range(20):
        rig.feed(falling(step), update_ratio=1e-4)
    ((step, factor),) = scales(rig)
    assert step <= 10
    assert factor == pytest.approx(64)


def test_smaller_steps_of_the_safeguard_are_not_made_up_for() -> None:
    """They end by themselves; what was made up for would stay."""
    rig = Rig(make("starting_rate"))

    def go(steps: int, ratio: float) -> None:
        for _ in range(steps):
            rig.feed(falling(rig.steps), update_ratio=ratio)

    go(12, 0.01)
    rig.backed_off = frozenset({"lr"})
    go(100, 0.01 / 8)
    assert rig.decisions == []
    rig.backed_off = frozenset()
    go(100, 0.01)
    assert rig.decisions == []
    assert rig.memory["sound"]


def test_a_rate_too_small_is_raised_once_the_smaller_steps_are_over() -> None:
    rig = Rig(make("starting_rate"))
    rig.backed_off = frozenset({"lr"})
    for k in range(200):
        if k == 100:
            rig.backed_off = frozenset()
        rig.feed(falling(k), update_ratio=1e-4 * rig.share())
    ((step, factor),) = scales(rig)
    assert 100 < step < 110
    assert factor == pytest.approx(64.0, rel=0.6)
