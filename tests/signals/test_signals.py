"""Each family of signals: the property that defines it, and what is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.references.signals import significance
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.signal import Reading, Signal
from rheostat.signals import noise, spike
from rheostat.signals.hessian import rayleigh
from rheostat.signals.monitor import Monitor

NAMES = [c.name for c in rs.components("signal")]


def _make(name: str, **arguments: Any) -> Signal:
    return rs.component(name, "signal").factory(**arguments)


def _of_losses(signal: Signal, losses: Sequence[float], every: int = 1) -> list[float]:
    memory = json.loads(json.dumps(dict(signal.memory)))
    return [
        signal.measure(Reading(every * (k + 1), loss=loss), memory) for k, loss in enumerate(losses)
    ]


def _of_norms(signal: Signal, norms: Sequence[float]) -> list[float]:
    memory = json.loads(json.dumps(dict(signal.memory)))
    return [
        signal.measure(Reading(k + 1, products={("gradient", "gradient"): norm**2}), memory)
        for k, norm in enumerate(norms)
    ]


def _of_reports(signal: Signal, reports: Sequence[dict[str, float]]) -> list[float]:
    memory = json.loads(json.dumps(dict(signal.memory)))
    return [
        signal.measure(Reading(k + 1, reported=report), memory) for k, report in enumerate(reports)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_each_says_its_unit_and_cost_and_remembers_what_json_can_hold(name: str) -> None:
    signal = _make(name)
    assert signal.name == f"{name}@1"
    assert signal.unit
    assert signal.cost
    assert json.loads(json.dumps(dict(signal.memory))) == signal.memory
    card = rs.component(name).card
    assert "Unit: " in f"{card.summary} {card.computes}"


# -- loss ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("rate", [-0.01, 0.0, 2.5])
def test_the_slope_of_a_line_is_exact_from_the_second_loss_on(every: int, rate: float) -> None:
    losses = [3.0 + rate * every * k for k in range(300)]
    slopes = _of_losses(_make("loss_slope", every=every), losses, every)
    assert math.isnan(slopes[0])
    assert slopes[1:] == pytest.approx([rate] * 299, rel=1e-9, abs=1e-12)


def test_the_significance_of_noise_is_about_standard_normal() -> None:
    generator = np.random.default_rng(0)
    found: list[float] = []
    for _ in range(40):
        values = _of_losses(_make("loss_significance"), generator.normal(2.0, 0.3, 600))
        found += values[199::200]
    assert abs(np.mean(found)) < 0.2
    assert 0.8 < np.std(found) < 1.3


def test_a_slope_in_noise_is_significant_and_has_its_sign() -> None:
    generator = np.random.default_rng(0)
    falling = 2.0 - 0.002 * np.arange(400) + generator.normal(0, 0.1, 400)
    assert _of_losses(_make("loss_significance"), falling)[-1] < -4
    assert _of_losses(_make("loss_significance"), -falling)[-1] > 4


@pytest.mark.parametrize("window", [20, 75, 200])
def test_the_significance_is_that_of_the_line_through_the_blocks(window: int) -> None:
    losses = np.random.default_rng(3).normal(2.0, 0.3, 450) - 0.001 * np.arange(450)
    found = _of_losses(_make("loss_significance", window=window), losses)
    for k in (9, 10, 98, 99, 100, 207, 208, 209, 450):
        expected = significance(losses[:k].tolist(), window)
        assert found[k - 1] == pytest.approx(expected, rel=1e-9, nan_ok=True), k


def test_a_loss_that_is_level_now_does_not_fall_however_it_fell_before() -> None:
    k = np.arange(1500)
    late: list[float] = []
    for seed in range(30):
        noise = 0.05 * np.random.default_rng(seed).standard_normal(1500)
        late += _of_losses(_make("loss_significance"), 8 * np.exp(-k / 20) + 0.3 + noise)[320::20]
    assert np.mean(np.abs(late) > 3) < 0.02
    assert np.mean(np.abs(late) > 5) < 0.002
    assert abs(np.mean(late)) < 0.2


def test_a_loss_that_falls_slowly_is_seen_to_fall() -> None:
    # By a tenth of what it scatters in ten losses, and twice that in the window.
    k = np.arange(400)
    for seed in range(20):
        noise = 0.05 * np.random.default_rng(seed).standard_normal(400)
        assert _of_losses(_make("loss_significance"), 1 - 0.0005 * k + noise)[-1] < -4


def test_a_line_without_noise_and_a_constant_have_a_plain_significance() -> None:
    assert -1e7 < _of_losses(_make("loss_significance"), 3 - 0.01 * np.arange(300))[-1] < -1e3
    assert math.isnan(_of_losses(_make("loss_significance"), [3.0] * 300)[-1])


@pytest.mark.parametrize("name", ["loss_fast", "loss_slow", "loss_slope", "loss_significance"])
def test_a_loss_that_is_not_finite_is_left_out(name: str) -> None:
    losses = np.random.default_rng(1).normal(size=130).tolist()
    clean = _of_losses(_make(name), losses)[-1]
    spoilt = [*losses[:10], math.nan, *losses[10:], math.inf]
    values = _of_losses(_make(name), spoilt)
    assert math.isnan(values[10])
    assert math.isnan(values[-1])
    # The one that was left out still took an update, so that the others are a little older.
    assert values[-2] == pytest.approx(clean, rel=0.2)


def test_averages_follow_units_and_offsets() -> None:
    losses = np.random.default_rng(2).normal(size=150)
    for name, power in (("loss_fast", 1), ("loss_slope", 1), ("loss_significance", 0)):
        plain = _of_losses(_make(name), losses)[-1]
        scaled = _of_losses(_make(name), 8 * losses)[-1]
        assert scaled == pytest.approx(8**power * plain, rel=1e-9)
    assert _of_losses(_make("loss_slope"), losses + 5)[-1] == pytest.approx(
        _of_losses(_make("loss_slope"), losses)[-1], rel=1e-9
    )


def test_a_fast_average_is_faster() -> None:
    with pytest.raises(InputError, match=r"slow=10\.0: should be more than fast=20\.0"):
        _make("loss_slope", slow=10)


# -- gradients -------------------------------------------------------------------------------------


@given(st.lists(st.floats(-5, 5) | st.integers(-2, 2), min_size=1, max_size=41))
def test_the_median_absolute_deviation_is_numpys(values: list[float]) -> None:
    ranked = sorted(values)
    assert spike.median(ranked) == pytest.approx(float(np.median(values)), abs=1e-12)
    expected = float(np.median(np.abs(np.array(values) - np.median(values))))
    assert spike.deviation(ranked) == pytest.approx(expected, abs=1e-12)


def test_a_spike_is_seen_at_any_scale_and_even_among_spikes() -> None:
    generator = np.random.default_rng(3)
    norms = np.exp(generator.normal(0, 0.2, 150))
    norms[60:100:3] *= 50
    norms[149] = 30
    signal = _make("gradient_spike")
    scores = _of_norms(signal, norms)
    assert math.isnan(scores[19])
    assert scores[-1] > 8
    assert np.median(np.abs(scores[100:149])) < 1.5
    assert _of_norms(signal, 1e6 * norms)[-1] == pytest.approx(scores[-1], rel=1e-9)


def test_what_is_not_a_norm_is_left_out_of_the_window() -> None:
    norms = [1.0, 1.1] * 15
    signal = _make("gradient_spike")
    scores = _of_norms(signal, [*norms, math.inf, math.nan, 0.0, 1.2])
    assert scores[30] == math.inf
    assert math.isnan(scores[31])
    assert math.isnan(scores[32])
    assert scores[33] == _of_norms(signal, [*norms, 1.2])[-1]


def test_a_level_norm_has_a_floor() -> None:
    scores = _of_norms(_make("gradient_spike"), [1.0] * 30 + [1.01])
    assert scores[-1] == pytest.approx(math.log(1.01) / (1.4826 * 0.01))


def test_variance_leaves_out_what_is_not_finite() -> None:
    signal = _make("gradient_variance")
    values = _of_norms(signal, [1.0, 3.0, math.inf, 2.0])
    assert math.isnan(values[2])
    assert values[3] == pytest.approx(_of_norms(signal, [1.0, 3.0, 2.0])[-1])
    assert values[0] == 0.0


# -- noise -----------------------------------------------------------------------------------------


def _gradients(batches: int, size: int, scale: float = 1.0) -> list[list[torch.Tensor]]:
    """Mean gradients of batches of samples from N(G, Σ): tr Σ = 30 · 4 and ‖G‖² = 30 · 0.25."""
    generator = torch.Generator().manual_seed(0)
    noise_of = torch.randn(batches, size, 30, generator=generator).mean(1)
    return [[scale * (0.5 + 2.0 * row[:20]), scale * (0.5 + 2.0 * row[20:])] for row in noise_of]


def test_the_noise_scale_is_that_of_the_distribution() -> None:
    parts = _gradients(1200, 4)
    reports: list[dict[str, float]] = []
    for k in range(0, 1200, 4):
        found = noise.two_sizes(parts[k : k + 4], 4)
        reports.append({name: float(value) for name, value in found.items()})
    assert reports[0]["large_size"] == 16
    scale = _of_reports(_make("gradient_noise_scale", span=300.0), reports)[-1]
    variance = _of_reports(_make("gradient_sample_variance", span=300.0), reports)[-1]
    assert variance == pytest.approx(120, rel=0.05)
    assert scale == pytest.approx(16, rel=0.1)


def test_two_sizes_are_what_they_are_called() -> None:
    parts = _gradients(3, 5)
    found = noise.two_sizes(parts, 5)
    flat = torch.stack([torch.cat(part) for part in parts]).double()
    assert float(found["small_square"]) == pytest.approx(float(flat.square().sum(1).mean()))
    assert float(found["large_square"]) == pytest.approx(float(flat.mean(0).square().sum()))
    assert (found["small_size"], found["large_size"]) == (5.0, 15.0)
    with pytest.raises(InputError, match="got 1 part"):
        noise.two_sizes(parts[:1], 5)


def test_the_noise_scale_has_no_unit_of_the_loss_and_the_variance_has_its_square() -> None:
    for name, power in (("gradient_noise_scale", 0), ("gradient_sample_variance", 2)):
        found: list[float] = []
        for scale in (1.0, 4.0):
            report = noise.two_sizes(_gradients(4, 64, scale), 64)
            reports = [{key: float(value) for key, value in report.items()}]
            found.append(_of_reports(_make(name), reports)[-1])
        assert found[1] == pytest.approx(4.0**power * found[0], rel=1e-5)


def test_noise_that_cannot_be_known_is_nan() -> None:
    sizes = {"small_size": 8.0, "large_size": 8.0, "small_square": 2.0, "large_square": 1.0}
    drowned = {**sizes, "large_size": 16.0, "small_square": 9.0, "large_square": 1.0}
    scale = _make("gradient_noise_scale")
    assert all(map(math.isnan, _of_reports(scale, [sizes, drowned])))
    bad = {**drowned, "small_square": math.inf}
    good = {**drowned, "small_square": 1.5}
    assert math.isnan(_of_reports(scale, [bad])[0])
    assert _of_reports(scale, [bad, good])[1] == _of_reports(scale, [good])[0]


# -- rates and validation --------------------------------------------------------------------------


def test_the_clip_rate_is_the_same_before_and_after_torchs_clip() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitors = [Monitor([_make("clip_rate", max_norm=1.0)], model, optimizer) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    clipped: list[float] = []
    for _ in range(30):
        for param in model.parameters():
            param.grad = 0.25 * torch.randn(param.shape, generator=generator)
        monitors[0].before_step()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        clipped.append(float(norm > 1.0))
        monitors[1].before_step()
        values = [monitor.after_step()["clip_rate"] for monitor in monitors]
        weights = np.exp(-np.arange(len(clipped))[::-1] / 100)
        expected = float(weights @ np.array(clipped) / weights.sum())
        assert values == pytest.approx([expected, expected], rel=1e-9)
    assert 0.2 < expected < 0.8
    reports = [{"clipped": value} for value in clipped]
    assert _of_reports(_make("clip_rate"), reports)[-1] == pytest.approx(expected)


def test_a_plateau_counts_updates_since_the_best() -> None:
    metric = [1.0, 0.8, 0.7999, 0.9, math.nan, 0.7, 0.75]
    reports = [{"validation": value} for value in metric]
    assert _of_reports(_make("validation_plateau"), reports) == [0, 0, 1, 2, 3, 0, 1]
    upside = [{"validation": -value} for value in metric]
    assert _of_reports(_make("validation_plateau", mode="max"), upside) == [0, 0, 1, 2, 3, 0, 1]


def test_improvement_is_relative_to_the_best() -> None:
    reports = [{"validation": value} for value in (2.0, 1.0, 1.5, math.nan, 0.5)]
    values = _of_reports(_make("validation_improvement"), reports)
    assert values == pytest.approx([math.nan, 0.5, -0.5, math.nan, 0.5], nan_ok=True)


# -- curvature -------------------------------------------------------------------------------------


def _quadratic() -> tuple[nn.Linear, torch.Tensor, Callable[[], torch.Tensor]]:
    """A loss whose Hessian is known: ½ wᵀAw − bᵀw."""
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    hessian = root @ root.t() + torch.eye(6, dtype=torch.float64)
    model = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    slope = torch.randn(6, dtype=torch.float64)

    def loss() -> torch.Tensor:
        w = model.weight[0]
        return 0.5 * w @ hessian @ w - slope @ w

    return model, hessian, loss


def test_the_secant_is_exact_for_a_quadratic() -> None:
    model, hessian, loss = _quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    monitor = Monitor(["curvature"], model, optimizer)
    last = None
    for _ in range(12):
        optimizer.zero_grad()
        loss().backward()
        before = model.weight.detach().clone()
        monitor.before_step()
        optimizer.step()
        found = monitor.after_step()["curvature"]
        if last is not None:
            assert found == pytest.approx(float(last @ hessian @ last / (last @ last)), rel=1e-9)
        last = (before - model.weight.detach())[0]


def test_hessian_products_find_the_curvature_along_the_gradient_and_the_largest_one() -> None:
    model, hessian, loss = _quadratic()
    g = torch.autograd.grad(loss(), model.weight)[0][0]
    before = model.weight.detach().clone()
    found = rayleigh(loss, list(model.parameters()))
    assert float(found) == pytest.approx(float(g @ hessian @ g / (g @ g)), rel=1e-12)
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    assert float(rayleigh(loss, list(model.parameters()), 200)) == pytest.approx(largest, rel=1e-6)
    assert float(rayleigh(model.weight.sum, [model.weight])) == 0.0
    assert float(rayleigh(model.weight.sum, [model.weight], 3)) == 0.0
    assert model.weight.grad is None
    assert torch.equal(model.weight, before)
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    idle = nn.Parameter(torch.ones(3, dtype=torch.float64))
    with torch.no_grad():  # as the loop may call it
        assert float(rayleigh(loss, [frozen, model.weight, idle])) == float(found)


def test_the_monitor_asks_for_a_hessian_product_when_it_is_due() -> None:
    monitor = Monitor([_make("curvature_hvp", every=3)])
    asked: list[int] = []
    for k in range(1, 8):
        reported = None
        if monitor.due("curvature_hvp"):
            asked.append(k)
            reported = {"curvature_hvp": torch.tensor(float(k))}
        monitor.before_step()
        monitor.after_step(reported=reported)
    assert asked == [3, 6]
    assert monitor.values["curvature_hvp"] == 6.0
