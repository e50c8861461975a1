"""Signals of shifts: they see them, mostly see nothing else, and the test is SciPy's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.signal import Reading, Signal
from rheostat.signals.shift import distance, p_value


def _make(name: str, **arguments: Any) -> Signal:
    return rs.component(name, "signal").factory(**arguments)


def _of(signal: Signal, values: Iterable[float]) -> list[float]:
    memory = json.loads(json.dumps(dict(signal.memory)))
    return [signal.measure(Reading(k + 1, loss=x), memory) for k, x in enumerate(values)]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_p_value_is_the_share_of_all_orders(n: int) -> None:
    orders = list(combinations(range(2 * n), n))
    found = [distance(order, sorted({*range(2 * n)} - {*order})) for order in orders]
    for h in range(n + 1):
        assert p_value(h, n) == pytest.approx(sum(d >= h for d in found) / len(orders), rel=1e-12)


@pytest.mark.parametrize("n", [12, 25])
def test_the_p_value_is_scipys_exact_one(n: int) -> None:
    generator = np.random.default_rng(n)
    for _ in range(40):
        # Where samples hardly overlap, SciPy gives up the exact way.
        a, b = generator.normal(size=n), generator.normal(generator.choice([0, 0.5, 1]), 1, size=n)
        expected = stats.ks_2samp(a, b, method="exact")
        h = distance(a.tolist(), b.tolist())
        assert h / n == pytest.approx(expected.statistic)
        assert p_value(h, n) == pytest.approx(expected.pvalue, rel=1e-9)


def test_with_ties_the_distance_is_scipys() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        a, b = generator.integers(0, 4, 20), generator.integers(0, 5, 20)
        expected = stats.ks_2samp(a, b, method="exact").statistic
        assert distance(a.tolist(), b.tolist()) / 20 == pytest.approx(expected)


def test_p_values_of_one_distribution_are_not_too_often_small() -> None:
    generator = np.random.default_rng(1)
    signal = _make("kolmogorov_smirnov", window=20, stride=40)
    found = np.array(_of(signal, generator.normal(size=12_000))[40::40])
    assert 0.02 < (found < 0.05).mean() <= 0.07


def test_the_windows_see_a_shift_in_shape_that_no_mean_shows() -> None:
    generator = np.random.default_rng(2)
    values = np.concatenate([generator.normal(0, 1, 120), generator.normal(0, 6, 60)])
    found = _of(_make("kolmogorov_smirnov"), values)
    assert all(map(math.isnan, found[:99]))
    assert min(found[100:120]) > 1e-2
    assert min(found[150:]) < 1e-3
    shifted = _of(_make("kolmogorov_smirnov"), 3 * values + 7)
    assert shifted[-1] == found[-1], "it sees ranks alone"
    assert len(set(found[100:110])) <= 2, "one test for each stride"


def test_page_hinkley_sees_a_moved_level_soon_and_little_else() -> None:
    generator = np.random.default_rng(3)
    clean = _of(_make("page_hinkley"), generator.normal(size=10_000))
    assert all(map(math.isnan, clean[:30]))
    assert max(clean[30:]) < 20
    values = generator.normal(size=400)
    values[200:] += 2.0
    found = _of(_make("page_hinkley"), values)
    assert next(k for k, s in enumerate(found) if s > 20) < 225
    values[200:] = generator.normal(size=200)
    values[210] = 1e6
    assert max(_of(_make("page_hinkley"), values)[30:]) < 20, "a spike is no shift"


def test_it_looks_where_it_is_told_to() -> None:
    generator = np.random.default_rng(4)
    values = generator.normal(size=300)
    values[200:] -= 3.0
    last = {
        way: max(_of(_make("page_hinkley", direction=way), values)[200:])
        for way in ("up", "down", "both")
    }
    assert last["up"] < 10 < 20 < last["down"] == last["both"]
    assert _of(_make("page_hinkley", direction="down"), 4 * values - 9)[-1] == pytest.approx(
        _of(_make("page_hinkley", direction="down"), values)[-1], rel=1e-6
    )


@pytest.mark.parametrize("name", ["page_hinkley", "kolmogorov_smirnov"])
def test_what_is_not_finite_is_left_out(name: str) -> None:
    values = np.random.default_rng(5).normal(size=130).tolist()
    signal = _make(name)
    found = _of(signal, [*values[:70], math.nan, math.inf, *values[70:]])
    assert all(map(math.isnan, found[70:72]))
    assert found[72:] == _of(signal, values)[70:]


def test_a_level_value_is_no_shift_until_it_moves() -> None:
    found = _of(_make("page_hinkley"), [1.0] * 50 + [2.0] * 3)
    assert found[49] == 0.0
    assert found[50] == 3.5


@pytest.mark.parametrize("name", ["page_hinkley", "kolmogorov_smirnov"])
def test_it_may_look_at_a_signal_or_a_report(name: str) -> None:
    assert _make(name).needs == ()
    assert _make(name, of="gradient_norm").needs == ("gradient_norm",)
    of_report = _make(name, of="reported.input_mean")
    assert (of_report.needs, of_report.reported) == ((), ("input_mean",))
    memory = dict(of_report.memory)
    reading = Reading(1, reported={"input_mean": 3.0})
    assert math.isnan(of_report.measure(reading, memory))
    assert memory["seen"] == 1
    with pytest.raises(InputError, match="should be 'loss', the name of a signal"):
        _make(name, of="reported.")
