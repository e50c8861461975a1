"""The rule of the verdict: each outcome, failures, void studies, its error rates, its words."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.core.errors import InputError
from rheostat.lab.statistics import holm, mean_interval, sign_flip_p, tost
from rheostat.lab.verdict import RULE, Comparison, Goal, Score, Verdict, judge

NOISE = (0.1, -0.2, 0.15, -0.05, 0.2, -0.1, 0.05, -0.15)  # sums to zero
LEVEL = (97.1, 96.4, 96.9, 97.6, 96.2, 97.3, 96.6, 97.0)


def scored(**arms: Sequence[float]) -> list[Score]:
    return [
        Score(arm, seed, value, failed=False)
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]


def study(
    *,
    margin: float = 0.5,
    goal: Goal = "maximize",
    worst: float = 0.0,
    unit: str = "points",
    void: str | None = None,
    **arms: Sequence[float],
) -> Verdict:
    return judge(
        scored(**arms),
        arms=tuple(arms),
        baseline=next(iter(arms)),
        metric="accuracy",
        goal=goal,
        margin=margin,
        worst=worst,
        unit=unit,
        void=void,
    )


def against(differences: Sequence[float], **options: object) -> Comparison:
    """The comparison of `restarts` with `cosine` where these are the paired differences."""
    base = LEVEL[: len(differences)]
    arm = [b + d for b, d in zip(base, differences, strict=True)]
    (comparison,) = study(cosine=base, restarts=arm, **options).comparisons
    return comparison


def shifted(by: float) -> list[float]:
    return [by + noise for noise in NOISE]


# --- outcomes


def test_better_and_worse_follow_the_goal() -> None:
    up, down = against(shifted(1.2)), against(shifted(-1.2))
    assert (up.outcome, down.outcome) == ("better", "worse")
    assert against(shifted(1.2), goal="minimize").outcome == "worse"
    assert against(shifted(-1.2), goal="minimize").outcome == "better"
    assert (up.wins, up.losses, up.ties) == (8, 0, 0)
    assert (down.wins, down.losses, down.ties) == (0, 8, 0)
    assert against(shifted(-1.2), goal="minimize").wins == 8


def test_the_numbers_are_those_of_the_statistics() -> None:
    arms = {
        "cosine": LEVEL,
        "step": [x + d for x, d in zip(LEVEL, shifted(0.7), strict=True)],
        "constant": [x + d for x, d in zip(LEVEL, shifted(-0.05), strict=True)],
    }
    verdict = study(**arms)
    rows = [c.differences for c in verdict.comparisons]
    assert [c.arm for c in verdict.comparisons] == ["step", "constant"]
    assert [c.p for c in verdict.comparisons] == [sign_flip_p(row).p for row in rows]
    assert tuple(c.p_holm for c in verdict.comparisons) == holm([sign_flip_p(r).p for r in rows])
    assert [c.tost_p for c in verdict.comparisons] == [tost(row, 0.5) for row in rows]
    assert tuple(c.tost_holm for c in verdict.comparisons) == holm([tost(r, 0.5) for r in rows])
    assert [c.interval for c in verdict.comparisons] == [mean_interval(row) for row in rows]
    assert verdict.comparisons[0].p_method == "exact sign-flip"
    base = verdict.arms[0]
    assert base.mean == pytest.approx(np.mean(LEVEL))
    assert base.sd == pytest.approx(np.std(LEVEL, ddof=1))
    assert base.interval == mean_interval(LEVEL)
    assert verdict.seeds == tuple(range(8))


def test_equivalent_even_where_the_difference_is_real() -> None:
    assert against(shifted(0.0)).outcome == "equivalent"
    real = against(shifted(0.25))
    assert real.p_holm < 0.05
    assert real.outcome == "equivalent"
    assert real.sentence.endswith(
        "It is a real but negligible difference (p = 0.00781 after Holm)."
    )


def test_inconclusive_is_everything_else() -> None:
    noisy = against([4 * noise for noise in NOISE], margin=0.2)
    assert noisy.outcome == "inconclusive"
    assert "neither a difference" in noisy.sentence
    significant = against(shifted(0.4), margin=0.45)
    assert significant.p_holm < 0.05
    assert significant.tost_holm > 0.05
    assert significant.outcome == "inconclusive"
    assert "a real difference (p = 0.00781 after Holm), not shown to lie" in significant.sentence
    large = against([9.0, -7.0, 8.0, -6.0, 9.0, -1.0, 4.0, 2.0])
    assert abs(large.mean) > 0.5
    assert large.outcome == "inconclusive"


def test_a_difference_of_the_margin_does_not_exceed_it() -> None:
    # (x + 0.2) - x averages just above 0.2 over these levels: rounding must not decide.
    for by in (0.2, -0.2):
        comparison = against([by] * 8, margin=0.2)
        assert abs(comparison.mean) > 0.2
        assert comparison.outcome == "inconclusive"
        assert against([by] * 8, margin=0.19).outcome in {"better", "worse"}


def test_holm_over_the_comparisons_of_the_study() -> None:
    # Alone p = 2 / 64 shows it; as one of three no p of six pairs can be below 0.05.
    base = LEVEL[:6]
    clear = [b + 2 + n for b, n in zip(base, NOISE[:6], strict=True)]
    flat = [b + 3 * n for b, n in zip(base, NOISE[:6], strict=True)]
    assert study(cosine=base, a=clear).comparisons[0].outcome == "better"
    three = study(cosine=base, a=clear, b=flat, c=flat)
    assert three.comparisons[0].p == 2 / 64
    assert three.comparisons[0].p_holm == 6 / 64
    assert three.comparisons[0].outcome == "inconclusive"
    assert (
        "With 6 pairs p cannot be below 0.0312, 0.0938 after Holm, "
        "so better or worse at 0.05 is out of reach." in three.comparisons[0].sentence
    )


def test_few_pairs_say_what_they_cannot_show() -> None:
    five = against(shifted(9.0)[:5])
    assert five.outcome == "inconclusive"
    assert five.sentence.endswith(
        "With 5 pairs p cannot be below 0.0625, so better or worse at 0.05 is out of reach."
    )
    assert "out of reach" not in against(shifted(9.0)[:6]).sentence


def test_ties_take_pairs_away() -> None:
    # Eight pairs could show it; three ties leave five, and no p below 2 / 32.
    tied = against([9.0, 8.0, 9.5, 8.5, 9.2, 0.0, 0.0, 0.0])
    assert tied.p == 0.0625
    assert tied.outcome == "inconclusive"
    assert tied.sentence.endswith(
        "With 8 pairs, 3 of them tied, p cannot be below 0.0625, "
        "so better or worse at 0.05 is out of reach."
    )
    assert "p cannot be below 1," in against([0.0] * 8).sentence
    assert "out of reach" not in against([9.0, 8.0, 9.5, 8.5, 9.2, 8.1, 0.0, 0.0]).sentence


def test_ties_of_one_arm_leave_the_others_their_reach() -> None:
    base = LEVEL
    clear = [b + 2 + n for b, n in zip(base, NOISE, strict=True)]
    tied = [*base[:6], *(b + 2 for b in base[6:])]
    shown, hidden = study(cosine=base, a=clear, b=tied).comparisons
    assert shown.outcome == "better"
    assert "out of reach" not in shown.sentence
    assert "With 8 pairs, 6 of them tied, p cannot be below 0.5, 0.5 after Holm" in hidden.sentence


def test_equal_differences_do_not_prove_equivalence_by_lack_of_spread() -> None:
    # Accuracies on few images tie; the t test alone would give p = 0 from two seeds.
    assert against([0.0, 0.0]).outcome == "inconclusive"
    assert against([0.0, 0.0]).tost_p == 0.25
    assert against([0.0] * 5).outcome == "equivalent"
    assert against([0.0] * 8).tost_p == 0.5**8
    assert against([0.0] * 8).ties == 8


# --- failures


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 99.9])
def test_a_failed_run_scores_the_worst_and_is_never_dropped(value: float) -> None:
    scores = scored(cosine=LEVEL, restarts=[x + 2 for x in LEVEL])
    scores[11] = Score("restarts", 3, value, failed=True)
    verdict = judge(
        scores,
        arms=("cosine", "restarts"),
        baseline="cosine",
        metric="accuracy",
        goal="maximize",
        margin=0.5,
        worst=10.0,
    )
    arm, (comparison,) = verdict.arms[1], verdict.comparisons
    assert arm.scores[3] == Score("restarts", 3, 10.0, failed=True)
    assert len(arm.scores) == len(comparison.differences) == 8
    assert comparison.differences[3] == 10.0 - LEVEL[3]
    assert (arm.failures, comparison.losses, comparison.wins) == (1, 1, 7)
    assert comparison.outcome != "better"
    assert comparison.sentence.endswith("1 of 8 runs of restarts failed and count as 10.")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_a_failure_without_being_flagged(value: float) -> None:
    verdict = study(cosine=[*LEVEL[:7], value], restarts=LEVEL)
    assert verdict.arms[0].failures == 1
    assert verdict.arms[0].scores[7].value == 0.0
    assert "1 of 8 runs of cosine failed" in verdict.comparisons[0].sentence


def test_a_failure_never_beats_a_finished_run() -> None:
    # The plan's worst loss is 2.3, and one run finished at 40.
    finished = [40.0, 0.5, 0.6, 0.5, 0.4, 0.5, 0.6, 0.5]
    failing = [math.nan, 0.5, 0.6, 0.5, 0.4, 0.5, 0.6, 0.5]
    verdict = study(cosine=finished, restarts=failing, goal="minimize", worst=2.3)
    assert verdict.arms[1].scores[0].value == 40.0
    assert verdict.worst == 2.3
    assert verdict.comparisons[0].wins == 0


def test_arms_that_fail_together_are_not_equivalent() -> None:
    failing = [math.nan] * 8
    (comparison,) = study(cosine=failing, restarts=failing).comparisons
    assert comparison.differences == (0.0,) * 8
    assert comparison.outcome == "inconclusive"
    assert "counting as equal what failed on both sides (8 seeds)" in comparison.sentence
    once = against([math.nan if seed == 2 else noise for seed, noise in enumerate(NOISE)])
    assert once.outcome == "inconclusive"


# --- void studies


def test_a_void_study_concludes_nothing() -> None:
    reason = "comparison void: seed 3: arms cosine and step see different batches from step 17"
    verdict = study(cosine=LEVEL, step=[x + 5 for x in LEVEL], void=reason)
    assert verdict.void == reason
    assert verdict.comparisons == ()
    assert [arm.name for arm in verdict.arms] == ["cosine", "step"]
    assert verdict.arms[1].mean == pytest.approx(verdict.arms[0].mean + 5)
    assert all(arm.interval is None for arm in verdict.arms)
    assert study(cosine=LEVEL, step=LEVEL).void is None


# --- refusals


def refused(match: str, scores: Sequence[Score] | None = None, **changes: object) -> None:
    options = {
        "arms": ("cosine", "step"),
        "baseline": "cosine",
        "metric": "accuracy",
        "goal": "maximize",
        "margin": 0.5,
        "worst": 0.0,
    }
    given_scores = scored(cosine=LEVEL, step=LEVEL) if scores is None else scores
    with pytest.raises(InputError, match=match):
        judge(given_scores, **{**options, **changes})


def test_what_cannot_be_judged_is_refused() -> None:
    every = scored(cosine=LEVEL, step=LEVEL)
    refused(r"missing \(arm, seed\): \(step, 6\), \(step, 7\)$", every[:-2])
    refused(r"missing \(arm, seed\): \(cosine, 0\)", every[1:])
    refused("at least 2 seeds", scored(cosine=[1.0], step=[2.0]))
    refused("at least 2 seeds", [])
    refused("arm step, seed 7 is scored twice", [*every, every[-1]])
    refused("unknown arm 'stepp': did you mean 'step'", [*every, Score("stepp", 0, 1.0)])
    refused("baseline 'cosin' is not an arm: did you mean 'cosine'", baseline="cosin")
    refused("named twice", arms=("cosine", "step", "step"))
    refused("one beside the baseline", scored(cosine=LEVEL), arms=("cosine",))
    refused("goal 'max'", goal="max")
    refused("margin -1", margin=-1)
    refused("margin nan", margin=math.nan)
    refused("worst nan", worst=math.nan)
    refused("alpha 5", alpha=5)


# --- determinism and the record


VALUES = st.one_of(st.integers(-400, 400).map(lambda k: k / 8), st.just(math.nan))
ROW = st.lists(VALUES, min_size=6, max_size=6)


@settings(max_examples=60)
@given(ROW, ROW, ROW, st.randoms(use_true_random=False))
def test_the_order_of_runs_does_not_matter_and_json_is_strict(
    a: list[float], b: list[float], c: list[float], shuffler: random.Random
) -> None:
    scores = scored(a=a, b=b, c=c)

    def record() -> str:
        verdict = judge(
            scores,
            arms=("c", "a", "b"),
            baseline="a",
            metric="accuracy",
            goal="maximize",
            margin=0.5,
            worst=-60.0,
        )
        return json.dumps(asdict(verdict), allow_nan=False)

    before = record()
    shuffler.shuffle(scores)
    assert record() == before


@settings(max_examples=60)
@given(ROW, ROW)
def test_the_mirror_image_has_the_mirror_verdict(a: list[float], b: list[float]) -> None:
    mirror = {"better": "worse", "worse": "better"}
    up = study(a=a, b=b, worst=-60.0).comparisons[0]
    swapped = study(b=b, a=a, worst=-60.0).comparisons[0]
    down = study(a=[-x for x in a], b=[-x for x in b], goal="minimize", worst=60.0).comparisons[0]
    assert swapped.outcome == mirror.get(up.outcome, up.outcome)
    assert (swapped.wins, swapped.losses) == (up.losses, up.wins)
    assert down.outcome == up.outcome
    assert (down.wins, down.losses, down.p) == (up.wins, up.losses, up.p)


# --- error rates of the whole rule


def families(*, arms: int, shift: float, studies: int, seed: int) -> list[Verdict]:
    """Studies whose arms all truly differ from the baseline by `shift`, noise of sd 1."""
    generator = np.random.default_rng(seed)
    found: list[Verdict] = []
    for _ in range(studies):
        level = generator.normal(0.0, 1.0, 8)
        rows = {f"arm{k}": level + generator.normal(shift, 0.4, 8) for k in range(arms)}
        base = level + generator.normal(0.0, 0.4, 8)
        arrays = {"baseline": base, **rows}
        found.append(study(margin=shift, **{k: list(map(float, v)) for k, v in arrays.items()}))
    return found


def share(verdicts: list[Verdict], *outcomes: str) -> float:
    hit = [any(c.outcome in outcomes for c in v.comparisons) for v in verdicts]
    return sum(hit) / len(hit)


SAMPLE_AND_PROOF = pytest.mark.parametrize(
    "studies", [250, pytest.param(4000, marks=pytest.mark.slow)]
)


@SAMPLE_AND_PROOF
def test_false_differences_stay_under_alpha_in_the_family(studies: int) -> None:
    # Margin 0, so that only the test holds the claim back; without Holm this is about 0.12.
    verdicts = families(arms=3, shift=0.0, studies=studies, seed=21)
    assert 0.01 < share(verdicts, "better", "worse") <= 0.05
    raw = [any(c.p < 0.05 for c in v.comparisons) for v in verdicts]
    assert sum(raw) / len(raw) > 0.08


@SAMPLE_AND_PROOF
def test_false_equivalences_stay_under_alpha_in_the_family(studies: int) -> None:
    # Every arm is exactly a margin away; this is why TOST is Holm-corrected too.
    verdicts = families(arms=3, shift=1.0, studies=studies, seed=22)
    assert 0.01 < share(verdicts, "equivalent") <= 0.05
    raw = [any(c.tost_p < 0.05 for c in v.comparisons) for v in verdicts]
    assert sum(raw) / len(raw) > 0.08


# --- words


def test_the_rule_goes_with_the_verdict() -> None:
    verdict = study(cosine=LEVEL, step=LEVEL)
    assert verdict.rule == RULE
    assert "Holm" in RULE


def test_sentences_are_finished() -> None:
    assert against([d + 0.02 for d in NOISE]).sentence == (
        "restarts is equivalent to cosine: +0.02 points (95 % CI −0.10 to +0.14) within ±0.50."
    )
    assert against(shifted(-1.2)).sentence == (
        "restarts is worse than cosine: −1.20 points (95 % CI −1.32 to −1.08), "
        "beyond ±0.50, p = 0.00781 after Holm."
    )
    assert against(shifted(-1.2), goal="minimize", unit="").sentence == (
        "restarts is better than cosine (lower is better): −1.20 (95 % CI −1.32 to −1.08), "
        "beyond ±0.50, p = 0.00781 after Holm."
    )
    assert against([4 * d for d in NOISE], margin=0.2).sentence == (
        "restarts against cosine is inconclusive: 0.00 points (95 % CI −0.49 to +0.49); "
        "neither a difference (p = 1 after Holm) nor equivalence within ±0.20 "
        "(p = 0.183 after Holm) is shown."
    )


def test_numbers_have_the_digits_that_matter() -> None:
    tiny = against([1e-5 * d for d in shifted(3.0)], margin=1e-5)
    assert (
        ": +0.0000300 points (95 % CI +0.0000288 to +0.0000312), beyond ±0.0000100" in tiny.sentence
    )
    large = against([1e4 * d for d in shifted(3.0)], margin=500.0)
    assert ": +30000 points (95 % CI +28" in large.sentence
    assert "beyond ±500," in large.sentence
    # Rounded to two decimals this would read "+0.50, beyond ±0.50".
    close = against([0.5004 + 0.0001 * d for d in NOISE])
    assert ": +0.5004 points" in close.sentence
    assert "beyond ±0.5000," in close.sentence
    near = against([0.504 + 1.5 * d for d in NOISE])
    assert ": +0.504 points" in near.sentence
    assert "beyond ±0.500," in near.sentence
