"""What a study may say of its numbers: intervals, sign-flip tests, Holm, TOST, pairing.

Pure functions of finite numbers; every one refuses fewer than two values, because a spread
that was not observed cannot be invented. Nothing here draws from a global generator: what
is drawn at all comes from one fixed, stated seed, and no result depends on the order of its
values, except (in the last digits) the bootstrap, which resamples by position.

Quantiles and bootstraps are SciPy's (`pip install "rheostat[study]"`), imported when used.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from rheostat.core.errors import InputError, MachineError

SEED = 20_260_101
"""Seed of every draw in this file: the same numbers give the same answer everywhere."""

RESAMPLES = 9_999
"""Bootstrap resamples behind a BCa interval."""

FLIPS = 99_999
"""Random sign patterns of the Monte-Carlo sign-flip test: its p resolves to 1e-5."""

EXACT_PAIRS = 20
"""Most non-zero differences whose 2**n sign patterns are enumerated."""

BOOTSTRAP_FROM = 30
"""Values from which BCa replaces Student's t; at 8 it covers 88 % where it says 95 %."""

ROUNDING = 1e-10
"""Relative size under which a gap is float rounding, not a difference.

Differences of metrics lose digits by cancellation (97.5 - 97.2 is not 0.3); at this size
rounding cannot break a tie while the metric is under some 1e5 times the differences.
"""


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval of a mean, a share or a rate, in the unit of the values."""

    low: float
    high: float
    level: float
    method: Literal["t", "BCa", "constant", "Wilson", "Garwood"]


@dataclass(frozen=True)
class SignFlip:
    """A two-sided sign-flip p-value and how it was found."""

    p: float
    method: Literal["exact", "Monte Carlo"]


def is_constant(values: Sequence[float]) -> bool:
    """Whether the values differ by no more than float rounding (`ROUNDING`)."""
    largest = max(abs(value) for value in values)
    # Halved, so that the spread of two huge values of opposite sign is still a number.
    return max(values) / 2 - min(values) / 2 <= ROUNDING / 2 * largest


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The confidence interval of the mean: Student's t below 30 values, BCa from there.

    Constant values give an interval of width zero, method "constant". The bootstrap is
    SciPy's with `RESAMPLES` resamples from a PCG64 generator seeded with `SEED`.
    `InputError` for fewer than two values, a value that is not finite, or a level outside (0, 1).

    Sources: Student, "The probable error of a mean" (Biometrika 1908); Efron, "Better
    bootstrap confidence intervals" (JASA 1987).
    """
    sample = _sample(values)
    if not 0 < level < 1:
        raise InputError(f"confidence level {level!r} is not between 0 and 1, such as 0.95")
    mean = fmean(sample)
    if is_constant(sample):
        return Interval(mean, mean, level, "constant")
    spread = stdev(sample)
    if len(sample) < BOOTSTRAP_FROM:
        quantile = float(_scipy("special").stdtrit(len(sample) - 1, (1 + level) / 2))
        half = quantile * spread / math.sqrt(len(sample))
        return Interval(mean - half, mean + half, level, "t")
    # BCa moves with its data, so bootstrapping standardised values loses nothing and keeps
    # the cubes inside its acceleration from overflowing on a huge worst score.
    standard = np.array([value / spread - mean / spread for value in sample])
    found = (
        _scipy("stats")
        .bootstrap(
            (standard,),
            np.mean,
            confidence_level=level,
            n_resamples=RESAMPLES,
            batch=1_000,
            method="BCa",
            rng=np.random.default_rng(SEED),
        )
        .confidence_interval
    )
    return Interval(
        mean + spread * float(found.low), mean + spread * float(found.high), level, "BCa"
    )


def share_interval(hits: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's interval of a share, from `hits` of `trials`: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) /
    (1 + z²/n). Unlike p ± z √(p(1−p)/n) it has a width where all succeed.

    `InputError` for no trials, or more hits than trials.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if not 0 <= hits <= trials or trials < 1:
        raise InputError(f"{hits} of {trials} is no share")
    z = float(_scipy("special").ndtri((1 + level) / 2))
    share, weight = hits / trials, z * z / trials
    half = z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    low, high = ((share + weight / 2 + sign * half) / (1 + weight) for sign in (-1, 1))
    # Rounding would leave the least bit beyond the ends, where none or all are hits.
    ends = (0.0 if hits == 0 else low, 1.0 if hits == trials else high)
    return Interval(*ends, level, "Wilson")


def rate_interval(events: int, exposure: float, level: float = 0.95) -> Interval:
    """Garwood's exact interval of a Poisson rate, from `events` in `exposure` units.

    `InputError` for fewer events than none, or no exposure.

    Source: Garwood, "Fiducial limits for the Poisson distribution" (1936).
    """
    if events < 0 or not exposure > 0:
        raise InputError(f"{events} events in {exposure} are no rate")
    inverse, tail = _scipy("special").gammaincinv, (1 - level) / 2
    low = float(inverse(events, tail)) if events else 0.0
    return Interval(
        low / exposure, float(inverse(events + 1, 1 - tail)) / exposure, level, "Garwood"
    )


def sign_flip_p(differences: Sequence[float]) -> SignFlip:
    """Two-sided sign-flip test of paired differences: is their mean zero?

    Under the null each difference is as likely to have come with the other sign. p is the
    share of sign patterns whose absolute mean reaches the observed one; sums that differ by
    less than `ROUNDING` times the sum of magnitudes are ties and count as reaching it. Up to
    `EXACT_PAIRS` non-zero differences all patterns are enumerated; beyond, `FLIPS` random
    ones are drawn from `SEED` and the observed pattern is counted among them, which keeps
    the test valid. Zeros flip to themselves and leave p as it is; all zero gives p = 1.
    With n pairs p cannot be below 2**(1 - n): 0.05 takes six.

    Sources: Fisher, The Design of Experiments (1935), §21; Phipson and Smyth, "Permutation
    p-values should never be zero" (2010) for the +1.
    """
    sample = _sample(differences)
    magnitudes = np.sort(np.abs([value for value in sample if value != 0]))
    if magnitudes.size == 0:
        return SignFlip(1.0, "exact")
    largest = float(magnitudes[-1])
    units = magnitudes / largest
    reach = abs(math.fsum(value / largest for value in sample)) - ROUNDING * float(units.sum())
    if units.size <= EXACT_PAIRS:
        # A pattern and its mirror image have the same absolute sum, so the sign of one
        # difference is held and half of the patterns stand for all.
        sums = units[-1:]
        for unit in units[:-1]:
            sums = np.concatenate((sums + unit, sums - unit))
        return SignFlip(int(np.count_nonzero(np.abs(sums) >= reach)) / sums.size, "exact")
    generator = np.random.default_rng(SEED)
    reached = 0
    for first in range(0, FLIPS, 1_000):
        rows = min(1_000, FLIPS - first)
        signs = 1.0 - 2.0 * generator.integers(0, 2, size=(rows, units.size))
        reached += int(np.count_nonzero(np.abs(signs @ units) >= reach))
    return SignFlip((1 + reached) / (1 + FLIPS), "Monte Carlo")


def holm(pvalues: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values, in the order given: compare each with alpha.

    The family-wise error is held whatever the dependence between the tests, such as that
    of comparisons which share a baseline. `InputError` for a p outside [0, 1].

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    for p in pvalues:
        if not 0 <= p <= 1:
            raise InputError(f"p-value {p!r} is not between 0 and 1")
    adjusted = [0.0] * len(pvalues)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(pvalues)), key=lambda i: pvalues[i])):
        floor = max(floor, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = floor
    return tuple(adjusted)


def tost(differences: Sequence[float], margin: float) -> float:
    """p of the two one-sided t tests: small where |mean difference| < margin is shown.

    The larger of the two p-values, for "mean <= -margin" and "mean >= margin". Without
    spread it is the limit of the t test: 0 if |mean| < margin, else 1. `InputError` for
    fewer than two differences or a margin that is negative or not finite.

    Source: Schuirmann, "A comparison of the two one-sided tests procedure" (1987).
    """
    sample = _sample(differences)
    if not 0 <= margin < math.inf:
        raise InputError(f"margin {margin!r} is not a finite number of at least 0")
    mean = fmean(sample)
    if is_constant(sample):
        return 0.0 if abs(mean) < margin * (1 - ROUNDING) else 1.0
    error = stdev(sample) / math.sqrt(len(sample))
    # By symmetry of t the larger p belongs to the bound that the mean is nearer to.
    return float(_scipy("special").stdtr(len(sample) - 1, (abs(mean) - margin) / error))


def paired_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's correlation of two paired samples; None where either is constant.

    Source: Pearson, "Regression, heredity, and panmixia" (1896).
    """
    first, second = _pair(a, b)
    if is_constant(first) or is_constant(second):
        return None
    x, y = _standardised(first), _standardised(second)
    product = math.fsum(u * v for u, v in zip(x, y, strict=True)) / (len(x) - 1)
    return max(-1.0, min(1.0, product))


def effective_seeds(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Seeds per arm that an unpaired comparison needs for the precision of this paired one.

    n (var a + var b) / var(a - b): above n where pairing helped, below where it hurt. None
    where the differences are constant, since no number of unpaired seeds is as precise.

    Source: the variance of a difference, as in Glasserman and Yao, "Some guidelines and
    guarantees for common random numbers" (1992).
    """
    first, second = _pair(a, b)
    differences = [x - y for x, y in zip(first, second, strict=True)]
    if is_constant(differences):
        return None
    paired = stdev(differences)
    ratios = (stdev(first) / paired, stdev(second) / paired)
    return len(first) * math.fsum(ratio * ratio for ratio in ratios)


def _sample(values: Sequence[float]) -> list[float]:
    sample = [float(value) for value in values]
    if len(sample) < 2:
        raise InputError(f"statistics need at least 2 values, not {len(sample)}: run more seeds")
    for index, value in enumerate(sample):
        if not math.isfinite(value):
            raise InputError(f"value {index} is {value}: score a failed run before its statistics")
    return sample


def _pair(a: Sequence[float], b: Sequence[float]) -> tuple[list[float], list[float]]:
    if len(a) != len(b):
        raise InputError(f"paired samples differ in length: {len(a)} and {len(b)}")
    return _sample(a), _sample(b)


def _standardised(sample: list[float]) -> list[float]:
    mean, spread = fmean(sample), stdev(sample)
    return [value / spread - mean / spread for value in sample]


def _scipy(module: str) -> Any:
    """A module of SciPy, which ships no types; `MachineError` where it is not installed."""
    try:
        return importlib.import_module(f"scipy.{module}")
    except ImportError as missing:
        raise MachineError(
            'statistics need SciPy, which is not installed: pip install "rheostat[study]"'
        ) from missing
