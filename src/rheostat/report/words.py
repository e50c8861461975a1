"""Numbers, and the state of a study, in words: the same on the terminal and on the page."""

from __future__ import annotations

import math
from collections import Counter

from rheostat.lab.fairness import Parting
from rheostat.lab.results import Results
from rheostat.lab.statistics import Interval
from rheostat.lab.verdict import Comparison, Verdict


def number(value: float, places: int, *, sign: bool = False) -> str:
    """`value` with so many decimals and a true minus; short where it is huge, no signed zero."""
    if not math.isfinite(value):
        return str(value)
    plus = "+" if sign else ""
    text = f"{value:{plus}.6g}" if abs(value) >= 1e7 else f"{value:{plus}.{places}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def places(verdict: Verdict) -> int:
    """Decimals that show two digits of the margin or of the smallest spread, whichever is finer."""
    scales = [verdict.margin, *(arm.sd for arm in verdict.arms)]
    positive = [scale for scale in scales if scale > 0]
    if not positive:
        return 4
    return min(9, max(0, 1 - math.floor(math.log10(min(positive)))))


def p_value(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.3g}"


def interval(found: Interval | None, decimals: int, *, sign: bool = False) -> str:
    if found is None:
        return "none"
    low, high = (number(end, decimals, sign=sign) for end in (found.low, found.high))
    return f"{low} to {high}"


def level(verdict: Verdict) -> str:
    """The level of every interval, such as `95 %`."""
    return f"{100 * (1 - verdict.alpha):.4g} %"


def metric(verdict: Verdict) -> str:
    """The metric with its unit and which way is better: `accuracy (%, higher is better)`."""
    way = "higher is better" if verdict.goal == "maximize" else "lower is better"
    return f"{verdict.metric} ({', '.join(filter(None, (verdict.unit, way)))})"


def margin(verdict: Verdict) -> str:
    return f"±{verdict.margin:g}{' ' + verdict.unit if verdict.unit else ''}"


def outcome(comparison: Comparison) -> str:
    """What one comparison came to, as a heading: `cosine is better than constant`."""
    if comparison.outcome == "inconclusive":
        return f"{comparison.arm} against {comparison.baseline}: inconclusive"
    link = "to" if comparison.outcome == "equivalent" else "than"
    return f"{comparison.arm} is {comparison.outcome} {link} {comparison.baseline}"


def answer(results: Results) -> str:
    """The study's answer in one sentence; why there is none where there is none."""
    verdict = results.verdict
    if verdict is None:
        return f"No verdict yet: incomplete, {missing(results)}."
    if verdict.void is not None:
        return "No verdict: the comparison is void."
    kinds = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
    kinds["inconclusive"] = "inconclusive against"
    told: list[str] = []
    for kind, phrase in kinds.items():
        arms = [row.arm for row in verdict.comparisons if row.outcome == kind]
        if arms:
            told.append(f"{phrase} {verdict.baseline}: {', '.join(arms)}")
    sentence = f"{'; '.join(told)}."
    return sentence[0].upper() + sentence[1:]


def parted(parting: Parting) -> str:
    """Where the runs part; that it makes the comparison void is said around it."""
    return parting.sentence.removeprefix("comparison void: ")


def missing(results: Results, shown: int = 8) -> str:
    """How many runs are missing, and the first of them."""
    names = [f"{arm} seed {seed}" for arm, seed in results.missing[:shown]]
    more = len(results.missing) - len(names)
    tail = f" and {more} more" if more else ""
    verb = "is" if len(results.missing) == 1 else "are"
    count = f"{len(results.missing)} of {results.planned} runs"
    return f"{count} {verb} missing ({', '.join(names)}{tail})"


def problems(results: Results) -> str:
    """Whether the record is as it was written, what that means for the answer, and what to do."""
    if not results.problems:
        return "Every row, plan and log was checked against its hash: all is as it was written."
    count = len(results.problems)
    found = "1 thing is" if count == 1 else f"{count} things are"
    return (
        f"{found} not as written; do not rely on the answer until this is explained. "
        f"What to do: {results.remedy}."
    )


def fairness(results: Results) -> str:
    """What was compared between the runs of each seed, and with which outcome."""
    if results.parting is not None:
        return f"No: {parted(results.parting)}."
    seeds = Counter(run.seed for run in results.runs)
    compared = [run for run in results.runs if seeds[run.seed] > 1]
    if not compared:
        return "Nothing to compare yet: no seed has finished runs of two arms."
    steps = sum(len(run.record.batches) for run in compared)
    proved = sum(bool(name) for run in compared for name in run.record.batches)
    told = (
        f"Yes: {len(compared)} runs were compared by the fingerprints of their contents. "
        "The runs of each seed started from the same initial weights, were given the same data "
        f"and saw the same batches in the same order ({proved:,} batches, all equal)."
    )
    if proved < steps:
        told += f" {steps - proved:,} steps have no fingerprint of their batch."
    if alone := len(results.runs) - len(compared):
        runs = "1 run has" if alone == 1 else f"{alone} runs have"
        told += f" {runs} no run of another arm to be compared with yet."
    cut = sum(run.record.status == "diverged" for run in compared)
    if cut:
        runs = "1 run diverged and was" if cut == 1 else f"{cut} runs diverged and were"
        told += f" {runs} compared as far as {'it' if cut == 1 else 'they'} went."
    return told
