"""The verdict of a study: scores in, one outcome and one finished sentence per comparison out.

The rule is `RULE`; reports print it beside what it gave. Every dataclass here turns into
strict JSON through `dataclasses.asdict` (numbers are finite, what is undefined is None),
and none of it depends on the order in which runs finished.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

from rheostat.core.errors import InputError, nearest
from rheostat.lab.statistics import (
    ROUNDING,
    Interval,
    effective_seeds,
    holm,
    is_constant,
    mean_interval,
    paired_correlation,
    sign_flip_p,
    tost,
)

Goal = Literal["maximize", "minimize"]
Outcome = Literal["better", "worse", "equivalent", "inconclusive"]

RULE = (
    "Each arm is compared with the baseline by its differences seed by seed. Better or worse: "
    "the two-sided sign-flip test (exact up to 20 pairs, Monte Carlo beyond), Holm-corrected "
    "over the comparisons of the study, gives p < alpha and the mean difference exceeds the "
    "margin. Equivalent: two one-sided t tests within the margin (TOST), Holm-corrected over "
    "the same comparisons, give p < alpha, and no seed failed on both sides; where all n "
    "differences are equal the t tests have no spread to go by, and 1/2^n, the p of a sign "
    "test, stands in. Inconclusive: everything else. A failed run (diverged, or a metric that "
    "is not finite) is never dropped: it scores the worst value of the plan, or that of the "
    "worst finished run where that is worse still."
)


@dataclass(frozen=True)
class Score:
    """The primary metric of one run; `value` may be NaN or infinite, which is a failure."""

    arm: str
    seed: int
    value: float
    failed: bool = False


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds: scores in seed order (failures as scored), mean, sd (n - 1).

    `interval` is that of the mean at level 1 - alpha, None in a void study.
    """

    name: str
    scores: tuple[Score, ...]
    mean: float
    sd: float
    interval: Interval | None
    failures: int


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline, over the same seeds; differences are arm minus baseline.

    `interval` belongs to `mean` and to this comparison alone (level 1 - alpha, not corrected
    for the others); `p` and `tost_p` are as tested, `p_holm` and `tost_holm` corrected, and
    the outcome follows from the corrected ones. Wins are seeds on which the arm did better.
    """

    arm: str
    baseline: str
    differences: tuple[float, ...]
    mean: float
    interval: Interval
    p: float
    p_method: str
    p_holm: float
    tost_p: float
    tost_holm: float
    correlation: float | None
    effective_seeds: float | None
    wins: int
    losses: int
    ties: int
    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """What a study found. `void` is the reason why nothing may be concluded, else None."""

    metric: str
    unit: str
    goal: Goal
    margin: float
    alpha: float
    worst: float
    baseline: str
    hypothesis: str
    seeds: tuple[int, ...]
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    rule: str
    void: str | None


def judge(
    scores: Sequence[Score],
    *,
    arms: Sequence[str],
    baseline: str,
    metric: str,
    goal: Goal,
    margin: float,
    worst: float,
    alpha: float = 0.05,
    unit: str = "",
    hypothesis: str = "",
    void: str | None = None,
) -> Verdict:
    """Judge a study by `RULE`. `arms` in plan order; `margin` and `worst` in the metric's unit.

    With `void` (why the comparison is not like with like) nothing is compared: the arms keep
    plain means and standard deviations, without intervals.

    Why TOST is corrected too: "equivalent" is a claim, like "better", and among k arms that
    are truly a margin away some one would pass uncorrected with a chance near k alpha. It is
    a family of its own, since no arm can be both truly equal and truly a margin away: so the
    chance of any false difference is at most alpha, and of any false equivalence likewise.
    The price is that an interval may lie within the margin and the outcome be inconclusive.

    `InputError`: arms without the same seeds (naming the missing runs), fewer than two seeds,
    a run scored twice, an unknown or repeated arm, a number that makes no sense.
    """
    _check(arms, baseline, goal, margin, worst, alpha)
    table = _table(scores, arms)
    seeds = tuple(sorted(table[baseline]))
    _score_failures(table, goal, worst)
    rows = {name: tuple(table[name][seed] for seed in seeds) for name in arms}
    level = None if void is not None else 1 - alpha
    summaries = {name: _summary(name, rows[name], level) for name in arms}
    verdict = Verdict(
        metric=metric,
        unit=unit,
        goal=goal,
        margin=float(margin),
        alpha=float(alpha),
        worst=float(worst),
        baseline=baseline,
        hypothesis=hypothesis,
        seeds=seeds,
        arms=tuple(summaries.values()),
        comparisons=(),
        rule=RULE,
        void=void,
    )
    return verdict if void is not None else replace(verdict, comparisons=_compare(verdict))


def _check(
    arms: Sequence[str], baseline: str, goal: str, margin: float, worst: float, alpha: float
) -> None:
    if len(set(arms)) != len(arms):
        raise InputError(f"an arm is named twice: {', '.join(arms)}")
    if baseline not in arms:
        raise InputError(f"baseline {baseline!r} is not an arm: {nearest(baseline, arms)}")
    if len(arms) < 2:
        raise InputError("a verdict compares arms: give one beside the baseline")
    if goal not in ("maximize", "minimize"):
        raise InputError(f"goal {goal!r} is neither 'maximize' nor 'minimize'")
    if not 0 <= margin < math.inf:
        raise InputError(f"margin {margin!r} is not a finite number of at least 0")
    if not math.isfinite(worst):
        raise InputError(f"worst {worst!r} is not finite: name the score of a failed run")
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha!r} is not between 0 and 1, such as 0.05")


def _table(scores: Sequence[Score], arms: Sequence[str]) -> dict[str, dict[int, Score]]:
    table: dict[str, dict[int, Score]] = {name: {} for name in arms}
    for score in scores:
        if score.arm not in table:
            raise InputError(f"unknown arm {score.arm!r}: {nearest(score.arm, arms)}")
        if score.seed in table[score.arm]:
            raise InputError(f"arm {score.arm}, seed {score.seed} is scored twice")
        table[score.arm][score.seed] = score
    seeds = sorted({score.seed for score in scores})
    missing = [f"({name}, {seed})" for name in arms for seed in seeds if seed not in table[name]]
    if missing:
        raise InputError(
            f"every arm needs the same seeds; missing (arm, seed): {', '.join(missing)}"
        )
    if len(seeds) < 2:
        raise InputError(f"a verdict needs at least 2 seeds, 6 for p < 0.05, not {len(seeds)}")
    return table


def _score_failures(table: dict[str, dict[int, Score]], goal: Goal, worst: float) -> None:
    finished = [
        score.value
        for row in table.values()
        for score in row.values()
        if not score.failed and math.isfinite(score.value)
    ]
    # A loss has no upper end: a failure must not beat a run that finished badly.
    floor = float(min([worst, *finished]) if goal == "maximize" else max([worst, *finished]))
    for row in table.values():
        for seed, score in row.items():
            failed = score.failed or not math.isfinite(score.value)
            row[seed] = replace(score, value=floor if failed else float(score.value), failed=failed)


def _summary(name: str, scores: tuple[Score, ...], level: float | None) -> ArmSummary:
    values = [score.value for score in scores]
    return ArmSummary(
        name=name,
        scores=scores,
        mean=fmean(values),
        sd=stdev(values),
        interval=None if level is None else mean_interval(values, level),
        failures=sum(score.failed for score in scores),
    )


def _compare(verdict: Verdict) -> tuple[Comparison, ...]:
    base = next(arm for arm in verdict.arms if arm.name == verdict.baseline)
    others = [arm for arm in verdict.arms if arm.name != verdict.baseline]
    reference = [score.value for score in base.scores]
    values = [[score.value for score in arm.scores] for arm in others]
    differences = [[x - y for x, y in zip(row, reference, strict=True)] for row in values]
    flips = [sign_flip_p(row) for row in differences]
    tosts = [_tost(row, verdict.margin) for row in differences]
    corrected = holm([flip.p for flip in flips])
    tosts_corrected = holm(tosts)
    found: list[Comparison] = []
    for index, arm in enumerate(others):
        row = differences[index]
        above, below = sum(d > 0 for d in row), sum(d < 0 for d in row)
        comparison = Comparison(
            arm=arm.name,
            baseline=base.name,
            differences=tuple(row),
            mean=fmean(row),
            interval=mean_interval(row, 1 - verdict.alpha),
            p=flips[index].p,
            p_method=f"{flips[index].method} sign-flip",
            p_holm=corrected[index],
            tost_p=tosts[index],
            tost_holm=tosts_corrected[index],
            correlation=paired_correlation(values[index], reference),
            effective_seeds=effective_seeds(values[index], reference),
            wins=above if verdict.goal == "maximize" else below,
            losses=below if verdict.goal == "maximize" else above,
            ties=len(row) - above - below,
            outcome="inconclusive",
            sentence="",
        )
        found.append(replace(comparison, outcome=_outcome(comparison, verdict, arm, base)))
    notes = _reach(found, verdict.alpha)
    return tuple(
        replace(c, sentence=_sentence(c, verdict, arm, base, note))
        for c, arm, note in zip(found, others, notes, strict=True)
    )


def _tost(differences: list[float], margin: float) -> float:
    p = tost(differences, margin)
    # Metrics counted on few samples tie: two equal differences must not prove equivalence.
    return max(p, 0.5 ** len(differences)) if is_constant(differences) else p


def _outcome(c: Comparison, verdict: Verdict, arm: ArmSummary, base: ArmSummary) -> Outcome:
    if c.p_holm < verdict.alpha and abs(c.mean) > verdict.margin * (1 + ROUNDING):
        return "better" if (c.mean > 0) == (verdict.goal == "maximize") else "worse"
    # Where both failed the difference is zero by decree, which is no measurement.
    if c.tost_holm < verdict.alpha and not _both_failed(arm, base):
        return "equivalent"
    return "inconclusive"


def _both_failed(arm: ArmSummary, base: ArmSummary) -> int:
    return sum(a.failed and b.failed for a, b in zip(arm.scores, base.scores, strict=True))


def _sentence(
    c: Comparison, verdict: Verdict, arm: ArmSummary, base: ArmSummary, reach: str
) -> str:
    """The comparison in words: the outcome with its evidence, then what a reader must know."""
    places = _places(c, verdict.margin)
    margin = f"±{_number(verdict.margin, places)}"
    unit = f" {verdict.unit}" if verdict.unit else ""
    low, high = (_number(end, places, sign="+") for end in (c.interval.low, c.interval.high))
    level = f"{100 * c.interval.level:.4g}"
    measured = f"{_number(c.mean, places, sign='+')}{unit} ({level} % CI {low} to {high})"
    p, tost_p = f"{_p(c.p_holm)} after Holm", f"{_p(c.tost_holm)} after Holm"
    real = c.p_holm < verdict.alpha
    head = f"{c.arm} is {c.outcome} {'to' if c.outcome == 'equivalent' else 'than'} {c.baseline}"
    notes: list[str] = []
    if c.outcome == "equivalent":
        claim = f"{head}: {measured} within {margin}."
        if real:
            notes.append(f"It is a real but negligible difference ({p}).")
    elif c.outcome != "inconclusive":
        lower = " (lower is better)" if verdict.goal == "minimize" else ""
        claim = f"{head}{lower}: {measured}, beyond {margin}, {p}."
    else:
        if c.tost_holm < verdict.alpha:
            both = _both_failed(arm, base)
            why = f"within {margin} only by counting as equal what failed on both sides"
            why += f" ({'1 seed' if both == 1 else f'{both} seeds'})"
        elif real:
            why = f"a real difference ({p}), not shown to lie within {margin} and not beyond it"
        else:
            why = f"neither a difference ({p}) nor equivalence within {margin} ({tost_p}) is shown"
        claim = f"{c.arm} against {c.baseline} is inconclusive: {measured}; {why}."
    for side in (arm, base):
        if side.failures:
            scored = next(score.value for score in side.scores if score.failed)
            notes.append(
                f"{side.failures} of {len(side.scores)} runs of {side.name} failed "
                f"and count as {_number(scored)}."
            )
    return " ".join([claim, *filter(None, [*notes, reach])])


def _reach(rows: Sequence[Comparison], alpha: float) -> list[str]:
    """For each comparison a warning where even the clearest difference could not be shown.

    A tie has no sign to flip, so n pairs of which k are tied give no p below 2^(1 - (n - k)).
    Holm never lowers a p where another rises: if these least ones do not pass, none does.
    """
    leasts = [min(1.0, 2.0 ** (1 - (len(row.differences) - row.ties))) for row in rows]
    found: list[str] = []
    for row, least, corrected in zip(rows, leasts, holm(leasts), strict=True):
        pairs = f"{len(row.differences)} pairs"
        tied = f", {row.ties} of them tied," if row.ties else ""
        after = f", {corrected:.3g} after Holm" if len(rows) > 1 else ""
        warning = (
            f"With {pairs}{tied} p cannot be below {least:.3g}{after}, "
            f"so better or worse at {alpha:g} is out of reach."
        )
        found.append("" if corrected < alpha else warning)
    return found


def _p(p: float) -> str:
    return f"p = {p:.3g}" if p >= 1e-4 else "p < 0.0001"


def _places(c: Comparison, margin: float) -> int:
    """Decimals that show two digits of the margin or the half-width, whichever is finer."""
    scales = [s for s in (margin, (c.interval.high - c.interval.low) / 2) if s > 0]
    places = _two_digits(min(scales or [abs(c.mean) or 1.0]))
    if margin > 0:
        places = min(places, _two_digits(margin) + 2)
    # "+0.50, beyond ±0.50" would read as a contradiction.
    while (
        places < 12
        and f"{abs(c.mean):.{places}f}" == f"{margin:.{places}f}"
        and not math.isclose(abs(c.mean), margin, rel_tol=ROUNDING)
    ):
        places += 1
    return places


def _two_digits(scale: float) -> int:
    return max(0, 1 - math.floor(math.log10(scale)))


def _number(value: float, places: int | None = None, sign: Literal["+", "-"] = "-") -> str:
    """A number for people: a true minus, no signed zero, short where it is huge or unscaled."""
    if places is None or abs(value) >= 1e7:
        text = f"{value:{sign}.6g}"
    else:
        text = f"{value:{sign}.{places}f}"
        if float(text) == 0:
            text = text.lstrip("+-")
    return text.replace("-", "−")
