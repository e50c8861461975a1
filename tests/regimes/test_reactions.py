"""The other controllers alone: each reacts where it should, as it should, and takes it back."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.references.rig import Rig, make, noisy, scales

from rheostat.core.controller import Anchor, Restart, Scale
from rheostat.core.errors import InputError
from rheostat.regimes.grants import TRIAL_FROM

# -- loss trend ----------------------------------------------------------------------------------


def test_loss_trend_follows_the_slope_within_its_bounds() -> None:
    rig = Rig(make("loss_trend", every=10, most=4.0))
    rig.run({"loss_significance": -8.0} for _ in range(200))
    assert rig.share() == pytest.approx(4.0)
    assert [f for _, f in scales(rig)][:6] == [1.25] * 6
    rig.run({"loss_significance": 2.0} for _ in range(200))
    assert rig.share() == pytest.approx(4.0)
    rig.run({"loss_significance": 8.0} for _ in range(200))
    assert rig.share() == pytest.approx(1 / 4)


def test_loss_trend_finds_a_stable_rate_on_a_noisy_quadratic() -> None:
    # x ← x − lr (λ x + noise) diverges above lr = 2/λ = 0.2: too small a plan, too large a one.
    for plan, most in ((1e-3, 64.0), (0.205, 64.0)):
        noise = random.Random(1)
        signal = _significance()
        rig = Rig(make("loss_trend", every=20, most=most, up=1.5), lr=plan)
        x, losses = 3.0, []
        for _ in range(1500):
            x -= plan * rig.share() * (10 * x + noise.gauss(0, 0.5))
            losses.append(5 * x * x)
            rig.feed(losses[-1], loss_significance=signal(losses[-1]))
        assert plan * rig.share() < 0.2
        assert sum(losses[-100:]) / 100 < 0.5


def _significance() -> Any:
    """The slope of the last 20 losses, by least squares, in standard errors."""
    last: list[float] = []

    def measure(loss: float) -> float:
        last.append(loss)
        del last[:-20]
        n = len(last)
        if n < 20:
            return 0.0
        xs = [i - (n - 1) / 2 for i in range(n)]
        mean = sum(last) / n
        slope = sum(x * (y - mean) for x, y in zip(xs, last, strict=True)) / sum(x * x for x in xs)
        rest = sum((y - mean - slope * x) ** 2 for x, y in zip(xs, last, strict=True)) / (n - 2)
        error = math.sqrt(rest / sum(x * x for x in xs))
        return slope / error if error else 0.0

    return measure


# -- momentum damping ----------------------------------------------------------------------------


def test_momentum_damping_hears_gradients_that_turn_back() -> None:
    rig = Rig(make("momentum_damping", window=50))
    for k in range(500):
        rig.feed(noisy(1.0, k), momentum_cosine=noisy(-0.4, k, 0.1))
    assert rig.share("momentum") == 8.0
    for k in range(500, 1800):
        rig.feed(noisy(1.0, k), momentum_cosine=noisy(0.1, k, 0.1))
    assert rig.share("momentum") == 1.0


def test_momentum_damping_hears_a_loss_that_alternates_and_no_noise() -> None:
    rig = Rig(make("momentum_damping", window=50))
    for k in range(5000):
        rig.feed(noisy(1.0, k), momentum_cosine=0.0)
    assert rig.decisions == []
    for k in range(50):
        rig.feed(1.0 + 0.1 * (-1) ** k, momentum_cosine=0.0)
    assert scales(rig, "momentum") == [(5050, 1.5)]


def test_momentum_damping_settles_a_heavy_ball() -> None:
    # f = x²/2 with β = 0.99 rings for hundreds of steps; less momentum ends that sooner.
    def last(damped: bool) -> float:
        rig = Rig(make("momentum_damping", window=20), momentum=0.99)
        x, mean, tail = 1.0, 0.0, 0.0
        for k in range(600):
            cosine = math.copysign(1.0, x * mean) if mean else 0.0
            if damped:
                rig.feed(x * x / 2, momentum_cosine=cosine)
            beta = 1 - (1 - 0.99) * rig.share("momentum")
            mean = beta * mean + (1 - beta) * x
            x -= 1.0 * mean
            tail = max(tail, abs(x)) if k > 550 else 0.0
        return tail

    assert last(damped=True) < last(damped=False) / 2


# -- decay balance -------------------------------------------------------------------------------


def test_decay_balance_keeps_the_timescale_when_the_rate_changes() -> None:
    # 1 / (0.1 · 0.1 · 10) = 10 epochs, as planned; then lr falls to a quarter.
    controller = make("decay_balance", target=10.0, updates_per_epoch=10, every=5)
    rig = Rig(controller)
    rig.run({"loss": 1.0} for _ in range(50))
    assert rig.decisions == []
    rig.planned["lr"] = 0.025
    rig.run({"loss": 1.0} for _ in range(50))
    assert rig.share("weight_decay") == pytest.approx(4.0)
    factors = [factor for _, factor in scales(rig, "weight_decay")]
    assert len(factors) == 3
    assert max(factors) < 2.0**TRIAL_FROM
    with pytest.raises(InputError, match="updates_per_epoch"):
        make("decay_balance")


def test_decay_balance_brings_the_ratio_to_its_target_without_overshoot() -> None:
    rig = Rig(make("decay_balance", by="ratio", target=2e-3, every=20, most=64.0))
    seen = []
    for k in range(2000):  # ratio ∝ √decay, as in a rotational equilibrium
        ratio = 1e-3 * math.sqrt(rig.share("weight_decay")) * math.exp(noisy(0, k))
        rig.feed(update_ratio=ratio)
        seen.append(ratio)
    assert sum(seen[-200:]) / 200 == pytest.approx(2e-3, rel=0.2)
    assert max(seen) < 2.6e-3


# -- adaptive clipping ---------------------------------------------------------------------------


def test_adaptive_clipping_finds_the_threshold() -> None:
    norms = [math.exp(random.Random(k).gauss(0, 0.3)) for k in range(4000)]
    for arguments, wanted in (
        ({"by": "zscore"}, torch.tensor(norms).mean() + 2.5 * torch.tensor(norms).std()),
        ({"by": "percentile"}, torch.tensor(norms).quantile(0.9)),
    ):
        rig = Rig(make("adaptive_clipping", **arguments), max_norm=100.0)
        rig.run({"gradient_norm": norm} for norm in norms)
        found = 100.0 * rig.share("max_norm")
        assert found == pytest.approx(float(wanted), rel=0.3)


def test_adaptive_clipping_is_not_moved_by_spikes() -> None:
    rig = Rig(make("adaptive_clipping"), max_norm=1.7)
    plain = Rig(make("adaptive_clipping"), max_norm=1.7)
    for k in range(3000):
        norm = math.exp(random.Random(k).gauss(0, 0.2))
        rig.feed(gradient_norm=1000.0 if k % 100 == 99 else norm)
        plain.feed(gradient_norm=norm)
    assert rig.share("max_norm") == pytest.approx(plain.share("max_norm"), rel=0.3)


# -- batch growth --------------------------------------------------------------------------------


def test_batch_growth_doubles_up_to_the_noise_scale() -> None:
    rig = Rig(make("batch_growth", batch=32, window=10, patience=2))
    rig.run({"gradient_noise_scale": 600 * math.exp(noisy(0, k, 0.5))} for k in range(500))
    assert 32 * rig.batch == 512  # 256 is still below half of it
    assert rig.kinds() == ["grow"] * 4
    capped = Rig(make("batch_growth", batch=32, window=10, patience=2, largest=100))
    capped.run({"gradient_noise_scale": 600.0} for _ in range(500))
    assert 32 * capped.batch == 64


# -- shift ---------------------------------------------------------------------------------------


def _shifts(*at: int) -> list[Mapping[str, Any]]:
    return [
        {"page_hinkley": 50.0 if any(a <= k < a + 20 for a in at) else 0.0} for k in range(1500)
    ]


def test_shift_responder_answers_for_a_while() -> None:
    rig = Rig(make("shift_responder", hold=100, rest=200, pull=4.0), pull=0.01)
    rig.run(_shifts(50)[:60])
    assert rig.kinds() == ["anchor", "scale", "scale", "scale"]
    rig.run(_shifts(50)[60:140])
    assert rig.shares == pytest.approx({"lr": 1.5, "weight_decay": 1.5, "pull": 4.0})
    rig.run(_shifts(50)[140:])
    assert rig.shares == pytest.approx({"lr": 1.0, "weight_decay": 1.0, "pull": 1.0})
    assert rig.decisions[-1][0] == 151 + 2 * 25  # in as many steps as the largest took


def test_shift_responder_hears_a_probability_that_falls() -> None:
    rig = Rig(make("shift_responder", watch="kolmogorov_smirnov", hold=50))
    rig.run({"kolmogorov_smirnov": 1e-6 if 50 <= k < 60 else 0.3} for k in range(90))
    assert rig.kinds() == ["anchor", "scale", "scale"]


def test_a_shift_while_the_answer_is_taken_back_is_answered_in_its_own_words() -> None:
    rig = Rig(make("shift_responder", hold=100, rest=200, pull=8.0), pull=0.01)
    rig.run(_shifts(50, 170)[:175])
    told = [d for step, d in rig.decisions if step > 151 and isinstance(d, Scale)]
    assert [d.reason for d in told][-1] == "page_hinkley is 50, above 20"
    assert sum(isinstance(d, Anchor) for _, d in rig.decisions) == 1
    rig.run(_shifts(50, 170)[175:260])
    assert rig.shares["pull"] == pytest.approx(8.0)


def test_shift_responder_rests_and_adds_nothing_while_it_answers() -> None:
    rig = Rig(make("shift_responder", hold=100, rest=200)).run(_shifts(50, 100, 350, 700))
    assert [step for step, d in rig.decisions if d.kind == "anchor"] == [51, 701]
    assert max(f for _, f in scales(rig)) == 1.5
    # The second shift came while the answer stood: the time began anew.
    assert [step for step, f in scales(rig) if f < 1] == [201, 801]


# -- restarts ------------------------------------------------------------------------------------


def _after_progress(rig: Rig, to: float = 1.0) -> None:
    for k in range(400):
        rig.feed(noisy(to + 1 - 0.0025 * k, k), gradient_norm=noisy(1, k, 0.1))


def test_restart_trigger_restarts_on_a_plateau_with_spacing_and_hysteresis() -> None:
    controller = make("restart_trigger", window=50, patience=3, spacing=1000, most=2)
    rig = Rig(controller)
    _after_progress(rig)
    for k in range(5000):
        rig.feed(noisy(1.0, k), gradient_norm=noisy(1, k, 0.1))
    assert rig.kinds() == ["restart"]  # without progress after it, no second one
    for level in (0.7, 0.4, 0.1):
        _after_progress(rig, level)
        for k in range(2000):
            rig.feed(noisy(level, k), gradient_norm=noisy(1, k, 0.1))
    found = [step for step, _ in rig.decisions]
    assert len(found) == 2
    assert found[1] - found[0] >= 1000
    assert isinstance(rig.decisions[0][1], Restart)


def test_restart_trigger_hears_rising_gradients() -> None:
    rig = Rig(make("restart_trigger", window=60, patience=100, spacing=100))
    _after_progress(rig)
    for k in range(200):
        rig.feed(noisy(1.0, k), gradient_norm=1 + 0.02 * k + noisy(0, k, 0.1))
    (found,) = rig.decisions
    assert "gradients rise" in found[1].reason


# -- hand over, early stop -----------------------------------------------------------------------


def test_hand_over_moves_once_and_again_if_it_did_not_happen() -> None:
    rig = Rig(make("hand_over", at=10, over=5), blend=0.0)
    rig.run({"loss": 1.0} for _ in range(200))
    assert [(s, d.kind) for s, d in rig.decisions] == [(10, "move")]
    rig = Rig(make("hand_over", at=10, over=5), blend=0.0)
    for _ in range(200):
        rig.feed()
        rig.planned["blend"] = 0.0  # nobody obeys
    assert [s for s, _ in rig.decisions] == [10, 65, 120, 175]


def test_early_stop_says_so_once() -> None:
    rig = Rig(make("early_stop", patience=100, evaluations=3))
    values = {50: 0.0, 100: 50.0, 150: 100.0, 200: 150.0, 250: 200.0}
    for k in range(300):
        rig.feed(1.0, **({"validation_plateau": values[k]} if k in values else {}))
    assert [(s, d.kind) for s, d in rig.decisions] == [(201, "stop")]
    assert "150 updates" in rig.decisions[0][1].reason
