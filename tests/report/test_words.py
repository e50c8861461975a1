"""Numbers and states in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rheostat.lab.results import Results
from rheostat.report import words


@pytest.mark.parametrize(
    ("value", "places", "sign", "text"),
    [
        (97.256, 2, False, "97.26"),
        (-0.5, 1, False, "−0.5"),
        (0.5, 1, True, "+0.5"),
        (-0.001, 2, True, "0.00"),
        (1.25e9, 2, False, "1.25e+09"),
        (math.nan, 2, False, "nan"),
    ],
)
def test_numbers(value: float, places: int, sign: bool, text: str) -> None:
    assert words.number(value, places, sign=sign) == text


@pytest.mark.parametrize(
    ("p", "text"), [(1.0, "1"), (0.0078125, "0.00781"), (0.00009, "<0.0001"), (0.0, "<0.0001")]
)
def test_p_values(p: float, text: str) -> None:
    assert words.p_value(p) == text


def test_the_decimals_follow_the_margin_or_the_finest_spread(results: Results) -> None:
    verdict = results.verdict
    assert verdict is not None
    assert words.places(verdict) == 2
    assert words.places(replace(verdict, margin=0.005)) == 4
    flat = tuple(replace(arm, sd=0.0) for arm in verdict.arms)
    assert words.places(replace(verdict, margin=0.0, arms=flat)) == 4


def test_the_answer_names_every_arm_under_its_outcome(results: Results) -> None:
    assert words.answer(results) == (
        "Better than constant: cosine; equivalent to constant: cosine_restarts; "
        "inconclusive against constant: step."
    )


def test_missing_runs_are_named_up_to_a_limit(results: Results) -> None:
    gaps = tuple(("step", seed) for seed in range(11))
    text = words.missing(replace(results, runs=results.runs[:21], missing=gaps))
    assert text.startswith("11 of 32 runs are missing (step seed 0, ")
    assert text.endswith("step seed 7 and 3 more)")
    one = replace(results, runs=results.runs[:31], missing=gaps[:1])
    assert words.missing(one) == "1 of 32 runs is missing (step seed 0)"


def test_steps_without_a_fingerprint_are_not_called_compared(results: Results) -> None:
    first, *rest = results.runs
    bare = replace(first, record=replace(first.record, batches=("",) * 300))
    text = words.fairness(replace(results, runs=(bare, *rest)))
    assert "9,121 batches, all equal" in text
    assert "300 steps have no fingerprint" in text


def test_nothing_is_called_compared_that_stands_alone(results: Results) -> None:
    nothing = "Nothing to compare yet: no seed has finished runs of two arms."
    assert words.fairness(replace(results, runs=())) == nothing
    of_one = results.of_arm("cosine")
    assert words.fairness(replace(results, runs=of_one)) == nothing
    text = words.fairness(replace(results, runs=(*of_one, results.of_arm("constant")[2])))
    assert text.startswith("Yes: 2 runs were compared")
    assert "(600 batches, all equal)" in text
    assert "7 runs have no run of another arm to be compared with yet." in text
