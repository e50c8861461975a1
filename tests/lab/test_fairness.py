"""Planted partings are found, at the exact place, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.lab.fairness import Parting, Witness, parting

ARMS = ("constant", "step", "cosine")
STEPS = 40


def batch(seed: int, step: int) -> str:
    return f"{seed:04x}{step:04x}" + "0" * 8


def fair(seeds: int = 4) -> list[Witness]:
    return [
        Witness(
            arm=arm,
            seed=seed,
            weights=f"{seed:016x}",
            batches=tuple(batch(seed, step) for step in range(STEPS)),
            data="d" * 16,
        )
        for arm in ARMS
        for seed in range(seeds)
    ]


def plant(witnesses: list[Witness], arm: str, seed: int, **changes: object) -> list[Witness]:
    return [replace(w, **changes) if (w.arm, w.seed) == (arm, seed) else w for w in witnesses]


def plant_batch(witnesses: list[Witness], arm: str, seed: int, step: int) -> list[Witness]:
    (run,) = (w for w in witnesses if (w.arm, w.seed) == (arm, seed))
    batches = (*run.batches[:step], "cd34" + "f" * 12, *run.batches[step + 1 :])
    return plant(witnesses, arm, seed, batches=batches)


def test_like_with_like_does_not_part() -> None:
    assert parting(fair()) is None
    assert parting(fair()[:1]) is None
    assert parting([]) is None


@given(st.sampled_from(ARMS), st.integers(0, 3), st.integers(0, STEPS - 1))
def test_one_planted_batch_is_named(arm: str, seed: int, step: int) -> None:
    found = parting(plant_batch(fair(), arm, seed, step))
    assert found is not None
    assert (found.kind, found.seed, found.step) == ("batch", seed, step)
    assert found.arms == (("constant", "step") if arm == "constant" else ("constant", arm))
    odd = "cd34" + "f" * 12
    expected = (odd, batch(seed, step)) if arm == "constant" else (batch(seed, step), odd)
    assert found.fingerprints == expected


def test_the_sentence_says_where() -> None:
    found = parting(plant_batch(fair(), "cosine", 3, 17))
    assert found is not None
    assert found.sentence == (
        "comparison void: seed 3: arms constant and cosine see different batches "
        "from step 17 (0003… against cd34…)"
    )


def test_fingerprints_are_shown_as_far_as_they_differ() -> None:
    parted = Parting("batch", 0, ("a", "b"), 2, ("abcdef0123", "abcdee0123"))
    assert parted.sentence.endswith("(abcdef… against abcdee…)")
    short = Parting("data", 0, ("a", "b"), None, ("ab", "cd"))
    assert short.sentence == (
        "comparison void: seed 0: arms a and b are given different data (ab against cd)"
    )


def test_weights_and_data_part_before_the_first_step() -> None:
    both = plant_batch(plant(fair(), "step", 1, weights="e" * 16), "step", 1, 0)
    found = parting(both)
    assert found is not None
    assert (found.kind, found.seed, found.step) == ("initial weights", 1, None)
    assert found.arms == ("constant", "step")
    assert found.fingerprints == (f"{1:016x}", "e" * 16)
    assert found.sentence == (
        "comparison void: seed 1: arms constant and step start from different initial weights "
        "(0000… against eeee…)"
    )
    found = parting(plant(fair(), "cosine", 2, data="e" * 16))
    assert found is not None
    assert (found.kind, found.arms, found.step) == ("data", ("constant", "cosine"), None)


def test_lowest_seed_then_earliest_step_then_plan_order() -> None:
    late = plant_batch(fair(), "step", 1, 30)
    assert parting(plant_batch(late, "cosine", 2, 0)) == parting(late)
    found = parting(plant_batch(late, "cosine", 1, 20))
    assert found is not None
    assert (found.step, found.arms) == (20, ("constant", "cosine"))
    found = parting(plant_batch(late, "cosine", 1, 30))
    assert found is not None
    assert (found.step, found.arms) == (30, ("constant", "step"))


@given(st.permutations(range(4)))
def test_the_order_of_seeds_does_not_matter(order: list[int]) -> None:
    planted = plant_batch(plant_batch(fair(), "cosine", 1, 9), "step", 3, 2)
    shuffled = [w for seed in order for w in planted if w.seed == seed]
    assert parting(shuffled) == parting(planted)


@pytest.mark.parametrize("arm", ARMS)
def test_a_diverged_run_may_be_short_and_no_other(arm: str) -> None:
    prefix = tuple(batch(2, step) for step in range(5))
    assert parting(plant(fair(), arm, 2, batches=prefix, diverged=True)) is None
    found = parting(plant(fair(), arm, 2, batches=prefix))
    assert found is not None
    assert (found.kind, found.seed, found.step) == ("length", 2, 5)
    other = "step" if arm == "constant" else "constant"
    assert found.sentence == (
        f"comparison void: seed 2: arm {arm} ends before step 5 without having diverged, "
        f"while arm {other} goes on"
    )


def test_others_are_still_compared_after_one_diverged() -> None:
    short = plant(fair(), "constant", 0, batches=(batch(0, 0),), diverged=True)
    found = parting(plant_batch(short, "cosine", 0, 12))
    assert found is not None
    assert (found.kind, found.step, found.arms) == ("batch", 12, ("step", "cosine"))


def test_a_diverged_run_must_agree_while_it_lasted() -> None:
    odd = (batch(0, 0), batch(0, 1), "f" * 16)
    found = parting(plant(fair(), "step", 0, batches=odd, diverged=True))
    assert found is not None
    assert (found.kind, found.step) == ("batch", 2)


def test_all_may_diverge_at_different_steps() -> None:
    runs = fair(seeds=1)
    cut = [replace(w, batches=w.batches[: 3 + k], diverged=True) for k, w in enumerate(runs)]
    assert parting(cut) is None


def test_a_diverged_run_that_outlasts_a_finished_one_parts() -> None:
    longer = tuple(batch(0, step) for step in range(STEPS + 1))
    found = parting(plant(fair(), "cosine", 0, batches=longer, diverged=True))
    assert found is not None
    assert (found.kind, found.step, found.arms) == ("length", STEPS, ("constant", "cosine"))
