"""Thinning of series: against slow oracles, and that nothing that matters is thinned away."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.lab.results import Results, Run
from rheostat.report.curves import POINTS, band, block_length, block_means, corners

VALUES = st.lists(
    st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=40
)


@given(VALUES, st.integers(1, 7))
def test_block_means_are_the_means_of_what_is_finite(values: list[float], length: int) -> None:
    found = block_means(np.array(values), length)
    blocks = [values[at : at + length] for at in range(0, len(values), length)]
    assert len(found) == len(blocks)
    for mean, block in zip(found, blocks, strict=True):
        finite = [value for value in block if math.isfinite(value)]
        if finite:
            assert mean == pytest.approx(sum(finite) / len(finite), rel=1e-9, abs=1e-6)
        else:
            assert math.isnan(mean)


def test_block_means_of_huge_values_do_not_overflow() -> None:
    assert block_means(np.array([1.5e308, 1.7e308]), 2)[0] == pytest.approx(1.6e308)


def test_a_band_is_mean_lowest_and_highest_over_the_seeds(results: Results) -> None:
    runs = results.of_arm("cosine")
    found = band(runs, "loss", 7)
    assert found is not None
    for block in (0, 20, 42):  # the last has six steps
        means = [run.record.series["loss"][7 * block : 7 * block + 7].mean() for run in runs]
        assert found.mean[block] == pytest.approx(np.mean(means))
        assert found.low[block] == pytest.approx(min(means))
        assert found.high[block] == pytest.approx(max(means))
    assert found.steps[0] == 3.0
    assert found.steps[-1] == 296.5
    assert band(runs, "no such series", 7) is None


def test_a_band_goes_on_where_a_run_has_ended(results: Results) -> None:
    runs = results.of_arm("step")
    found = band(runs, "loss", 1)
    assert found is not None
    assert found.mean.size == 300
    rest = [run.record.series["loss"][200] for run in runs if run.record.steps.size == 300]
    assert len(rest) == 7
    assert found.mean[200] == pytest.approx(np.mean(rest))


def test_blocks_are_as_short_as_the_limit_allows(results: Results) -> None:
    assert block_length(results.runs) == 1
    assert block_length([]) == 1


@pytest.fixture
def turns() -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    def make(size: int) -> tuple[np.ndarray, np.ndarray]:
        steps = np.arange(size)
        return steps, 0.5 + 0.5 * np.cos(np.pi * (steps % 1000) / 1000)

    return make


def test_corners_keep_both_sides_of_every_jump(
    turns: Callable[[int], tuple[np.ndarray, np.ndarray]],
) -> None:
    steps, values = turns(30_000)
    kept = corners(steps, values)
    assert kept.size <= POINTS
    assert {0, 29_999} <= set(kept.tolist())
    for jump in range(1000, 30_000, 1000):
        assert {jump - 1, jump} <= set(kept.tolist())
    drawn = np.interp(steps, steps[kept], values[kept])
    assert np.abs(drawn - values).max() < 0.01


def test_corners_of_a_short_curve_are_all_of_it(results: Results) -> None:
    run: Run = results.runs[0]
    assert corners(run.record.steps, run.record.series["lr"]).tolist() == list(range(300))


def test_corners_survive_gaps() -> None:
    values = np.ones(5000)
    values[3000] = np.nan
    kept = corners(np.arange(5000), values)
    assert {2999, 3000, 3001} <= set(kept.tolist())
