"""Statistics against SciPy, slow oracles, textbook numbers and properties."""

from __future__ import annotations

import importlib
import itertools
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rheostat.core.errors import InputError, MachineError
from rheostat.lab.statistics import (
    FLIPS,
    effective_seeds,
    holm,
    is_constant,
    mean_interval,
    paired_correlation,
    rate_interval,
    share_interval,
    sign_flip_p,
    tost,
)

# Multiples of 1/64: sums and differences are exact, so that ties are real ties.
SIXTYFOURTHS = st.integers(-640, 640).map(lambda k: k / 64)
DIFFERENCES = st.lists(SIXTYFOURTHS, min_size=2, max_size=9)


def normal(n: int, *, seed: int, mean: float = 0.0) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).normal(mean, 1.0, n)]


def flip_by_hand(differences: list[float]) -> float:
    """Every sign pattern, one after the other; exact for dyadic differences."""
    observed = abs(sum(differences))
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(p, differences, strict=True))) for p in patterns]
    return sum(value >= observed for value in sums) / len(sums)


# --- intervals


@pytest.mark.parametrize("n", [2, 5, 8, 29])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_t_interval_is_scipys(n: int, level: float) -> None:
    values = normal(n, seed=n, mean=3.0)
    interval = mean_interval(values, level)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    assert interval.method == "t"
    assert interval.level == level
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_t_interval_by_hand() -> None:
    # mean 3, sd sqrt(2.5), t(4; 0.975) = 2.776445: 3 ± 2.776445 * sqrt(0.5)
    interval = mean_interval([1, 2, 3, 4, 5])
    assert (interval.low, interval.high) == pytest.approx((1.0367568, 4.9632432), abs=1e-6)


def test_t_interval_covers_what_it_says() -> None:
    rows = np.random.default_rng(8).normal(0.0, 1.0, (2_000, 8))
    intervals = [mean_interval(list(row)) for row in rows]
    covered = sum(i.low <= 0 <= i.high for i in intervals) / len(intervals)
    assert abs(covered - 0.95) < 0.0125  # 2.5 standard errors; BCa's 0.88 is far outside


def bca_by_hand(values: list[float], level: float, seed: int) -> tuple[float, float]:
    """Efron's formulas (1987, eq. 6.6), written out, with other resamples than ours."""
    x = np.array(values)
    generator = np.random.default_rng(seed)
    means = np.sort(generator.choice(x, (40_000, len(x))).mean(axis=1))
    z0 = stats.norm.ppf(np.mean(means < x.mean()))
    left_out = (x.sum() - x) / (len(x) - 1)
    gap = left_out.mean() - left_out
    a = (gap**3).sum() / (6 * (gap**2).sum() ** 1.5)
    ends: list[float] = []
    for z in (stats.norm.ppf((1 - level) / 2), stats.norm.ppf((1 + level) / 2)):
        share = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
        ends.append(float(np.quantile(means, share)))
    return ends[0], ends[1]


def test_bca_interval_from_thirty_values_on() -> None:
    skewed = [math.exp(x) for x in normal(30, seed=1)]
    interval = mean_interval(skewed)
    assert interval.method == "BCa"
    assert mean_interval(skewed[:29]).method == "t"
    low, high = bca_by_hand(skewed, 0.95, seed=99)
    width = high - low
    assert abs(interval.low - low) < 0.03 * width
    assert abs(interval.high - high) < 0.03 * width
    # Skew to the right moves both ends up: neither t nor the plain percentile interval.
    mean = float(np.mean(skewed))
    assert interval.high - mean > 1.2 * (mean - interval.low)


def test_bca_interval_is_scipys_and_repeats_bit_for_bit() -> None:
    values = normal(45, seed=2, mean=10.0)
    first, again = mean_interval(values), mean_interval(values)
    assert first == again
    theirs = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(5)).confidence_interval
    assert (first.low, first.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


@pytest.mark.parametrize("n", [4, 40])
def test_intervals_move_with_unit_and_origin(n: int) -> None:
    values = normal(n, seed=3)
    plain = mean_interval(values)
    moved = mean_interval([1e120 * value + 4e120 for value in values])
    assert moved.low == pytest.approx(1e120 * plain.low + 4e120, rel=1e-9)
    assert moved.high == pytest.approx(1e120 * plain.high + 4e120, rel=1e-9)


@pytest.mark.parametrize("n", [2, 8, 30])
def test_constant_values_have_an_interval_of_no_width(n: int) -> None:
    interval = mean_interval([0.3] * n)
    assert interval.low == interval.high == 0.3
    assert interval.method == "constant"


def test_rounding_is_not_spread() -> None:
    assert is_constant([97.5 - 97.2, 98.5 - 98.2, 0.3])
    assert is_constant([0.0, 0.0])
    assert not is_constant([0.3, 0.3000001])
    assert not is_constant([-1e308, 1e308])


# --- sign flips


@given(DIFFERENCES)
def test_sign_flip_is_the_full_enumeration(differences: list[float]) -> None:
    result = sign_flip_p(differences)
    assert result.method == "exact"
    assert result.p == flip_by_hand(differences)


@pytest.mark.parametrize("n", [6, 8, 11])
def test_sign_flip_is_scipys_permutation_test(n: int) -> None:
    differences = normal(n, seed=n, mean=0.6)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(differences).p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_sign_flip_by_hand() -> None:
    assert sign_flip_p([1.0] * 6).p == 2 / 64  # why p < .05 takes six pairs
    assert sign_flip_p([1.0] * 5).p == 2 / 32
    assert sign_flip_p([1.0, 2.0, -1.0]).p == 0.75  # |sums| 4, 2, 2, 0, each twice; observed 2
    assert sign_flip_p([3.0, -3.0]).p == 1.0
    assert sign_flip_p([0.0, 0.0, 0.0]).p == 1.0


def test_rounding_never_breaks_a_tie() -> None:
    # 0.1 + 0.2 - 0.3 is 5.6e-17 in floats: all of these sums are 0 or 0.6 or 0.4 or 0.2.
    noisy = sign_flip_p([0.1, 0.2, -0.3, 97.5 - 97.2])
    assert noisy.p == flip_by_hand([1.0, 2.0, -3.0, 3.0])


@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_sign_flip_ignores_order_sign_and_zeros(
    differences: list[float], shuffler: random.Random
) -> None:
    p = sign_flip_p(differences).p
    shuffled = list(differences)
    shuffler.shuffle(shuffled)
    assert sign_flip_p(shuffled).p == p
    assert sign_flip_p([-value for value in differences]).p == p
    assert sign_flip_p([*differences, 0.0, 0.0]).p == p


@given(DIFFERENCES, st.floats(1e-150, 1e150))
def test_sign_flip_ignores_the_unit(differences: list[float], unit: float) -> None:
    assert sign_flip_p([unit * value for value in differences]).p == sign_flip_p(differences).p


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_sign_flip_is_a_multiple_of_its_smallest(differences: list[float]) -> None:
    p = sign_flip_p(differences).p
    assert 2.0 ** (1 - len(differences)) <= p <= 1
    assert (p * 2 ** (len(differences) - 1)).is_integer()


def test_twenty_pairs_are_exact_and_more_are_drawn() -> None:
    assert sign_flip_p([1.0] * 20) == sign_flip_p([2.0] * 20)
    assert sign_flip_p([1.0] * 20).p == 2 / 2**20
    assert sign_flip_p([1.0] * 20 + [0.0]).method == "exact"
    drawn = sign_flip_p([1.0] * 40)
    assert drawn.method == "Monte Carlo"
    assert drawn.p == 1 / (FLIPS + 1)  # never zero
    assert type(drawn.p) is float  # a NumPy scalar would print as one
    assert type(sign_flip_p([1.0, 2.0]).p) is float


def test_monte_carlo_agrees_with_the_exact_distribution() -> None:
    # Equal magnitudes make the sum binomial: 26 of 40 positive.
    drawn = sign_flip_p([1.0] * 26 + [-1.0] * 14)
    exact = stats.binomtest(26, 40).pvalue
    assert drawn.method == "Monte Carlo"
    assert drawn.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / FLIPS))
    assert sign_flip_p([-1.0] * 26 + [1.0] * 14) == drawn
    assert sign_flip_p([-1.0] * 14 + [1.0] * 26) == drawn


def test_monte_carlo_ignores_the_order() -> None:
    differences = normal(25, seed=9, mean=0.3)
    assert sign_flip_p(differences).method == "Monte Carlo"
    assert sign_flip_p(sorted(differences)) == sign_flip_p(differences)


# --- Holm


def test_holm_textbook() -> None:
    # Holm's procedure on 0.01, 0.04, 0.03, 0.005: times 3, 1, 2, 4, then made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([0.04]) == (0.04,)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_bounds_order_and_family(pvalues: list[float]) -> None:
    adjusted = holm(pvalues)
    for p, q in zip(pvalues, adjusted, strict=True):
        assert p <= q <= min(1.0, len(pvalues) * p)
    for (p, q), (r, s) in itertools.combinations(zip(pvalues, adjusted, strict=True), 2):
        assert q <= s if p <= r else s <= q
    if pvalues:
        assert min(adjusted) == min(1.0, len(pvalues) * min(pvalues))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1))
def test_holm_grows_with_its_family(pvalues: list[float], further: float) -> None:
    alone, among = holm(pvalues), holm([*pvalues, further])
    assert all(q >= p for p, q in zip(alone, among[:-1], strict=True))


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.5, p])


# --- TOST


@pytest.mark.parametrize("mean", [-1.5, -0.4, 0.0, 0.3, 2.0])
def test_tost_is_two_t_tests(mean: float) -> None:
    differences = normal(8, seed=11, mean=mean)
    above = stats.ttest_1samp(differences, -1.0, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 1.0, alternative="less").pvalue
    assert tost(differences, 1.0) == pytest.approx(max(above, below), rel=1e-10)


def test_tost_by_hand() -> None:
    # mean 0, sd 1, n 4, margin 1: t = 2 on 3 degrees of freedom, one-sided p 0.069663.
    differences = [math.sqrt(0.75) * sign for sign in (1, 1, -1, -1)]
    assert tost(differences, 1.0) == pytest.approx(0.0696629, abs=1e-6)


def test_tost_is_the_ninety_percent_interval() -> None:
    differences = normal(9, seed=4)
    interval = mean_interval(differences, 0.9)
    reach = max(abs(interval.low), abs(interval.high))
    assert tost(differences, reach) == pytest.approx(0.05, abs=1e-9)


def test_tost_without_spread_is_its_limit() -> None:
    assert tost([0.25] * 4, 0.5) == 0.0
    assert tost([-0.5] * 4, 0.5) == 1.0
    assert tost([97.5 - 97.2, 98.5 - 98.2], 0.3) == 1.0  # at the margin, but for rounding
    assert tost([0.75] * 4, 0.5) == 1.0
    assert tost([0.0, 0.0], 0.0) == 1.0


@settings(max_examples=50)
@given(DIFFERENCES, st.floats(0, 20), st.floats(0, 20))
def test_tost_falls_as_the_margin_grows(differences: list[float], a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert tost(differences, high) <= tost(differences, low)


@pytest.mark.parametrize("margin", [-0.1, math.nan, math.inf])
def test_tost_refuses_a_margin_that_is_none(margin: float) -> None:
    with pytest.raises(InputError, match="margin"):
        tost([1.0, 2.0], margin)


# --- pairing


def test_correlation_is_pearsons() -> None:
    a, b = normal(12, seed=5), normal(12, seed=6)
    mixed = [x + 0.5 * y for x, y in zip(a, b, strict=True)]
    assert paired_correlation(a, mixed) == pytest.approx(stats.pearsonr(a, mixed).statistic)
    assert paired_correlation(a, a) == pytest.approx(1.0)
    assert paired_correlation(a, [1.0] * 12) is None
    assert paired_correlation([1.0] * 12, a) is None


def test_effective_seeds_by_hand() -> None:
    # variances 1 and 4, difference -1, -2, -3 of variance 1: five seeds do the work of one.
    assert effective_seeds([1, 2, 3], [2, 4, 6]) == pytest.approx(15.0)
    assert effective_seeds([1, 2, 3], [3, 2, 1]) == pytest.approx(1.5)  # pairing hurt
    assert effective_seeds([1, 2, 3], [2, 3, 4]) is None


def test_effective_seeds_follow_from_the_correlation() -> None:
    generator = np.random.default_rng(7)
    a = generator.normal(size=4_000)
    b = 0.8 * a + 0.6 * generator.normal(size=4_000)
    # equal variances and correlation r: n / (1 - r)
    assert effective_seeds(list(a), list(b)) == pytest.approx(4_000 / 0.2, rel=0.1)


# --- refusals


TAKES_A_SAMPLE: list[Callable[[list[float]], object]] = [
    mean_interval,
    sign_flip_p,
    lambda values: tost(values, 1.0),
    lambda values: paired_correlation(values, values),
    lambda values: effective_seeds(values, values),
]


@pytest.mark.parametrize("function", TAKES_A_SAMPLE)
@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_are_refused(
    function: Callable[[list[float]], object], values: list[float]
) -> None:
    with pytest.raises(InputError, match="at least 2 values"):
        function(values)


@pytest.mark.parametrize("function", TAKES_A_SAMPLE)
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(
    function: Callable[[list[float]], object], odd: float
) -> None:
    with pytest.raises(InputError, match="value 1 is"):
        function([1.0, odd, 2.0])


def test_unequal_pairs_and_levels_are_refused() -> None:
    with pytest.raises(InputError, match="3 and 2"):
        paired_correlation([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match=r"level 95 .* 0\.95"):
        mean_interval([1, 2, 3], 95)


def test_missing_scipy_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MachineError, match=r'pip install "rheostat\[study\]"'):
        mean_interval([1.0, 2.0])
    assert sign_flip_p([1.0, 2.0]).p == 0.5  # needs none


def test_shares_have_wilsons_interval() -> None:
    """Against SciPy's own, and covering as it says: exactly, over all outcomes of 20 trials."""
    from scipy import stats

    for hits, trials in ((0, 8), (3, 8), (8, 8), (19, 20), (200, 211)):
        theirs = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
        found = share_interval(hits, trials)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    covered = sum(
        stats.binom.pmf(hits, 20, 0.9)
        for hits in range(21)
        if share_interval(hits, 20).low <= 0.9 <= share_interval(hits, 20).high
    )
    assert covered == pytest.approx(0.95, abs=0.02)
    for hits, trials in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(InputError, match="no share"):
            share_interval(hits, trials)


def test_rates_have_garwoods_interval() -> None:
    """By its definition: at either end the observed count is as rare as the tail says."""
    from scipy import stats

    for events, exposure in ((0, 3.0), (1, 3.78), (12, 3.0)):
        found = rate_interval(events, exposure)
        assert stats.poisson.cdf(events, found.high * exposure) == pytest.approx(0.025)
        if events:
            assert stats.poisson.sf(events - 1, found.low * exposure) == pytest.approx(0.025)
        else:
            assert found.low == 0
    with pytest.raises(InputError, match="no rate"):
        rate_interval(1, 0.0)
