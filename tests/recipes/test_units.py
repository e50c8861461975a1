"""Horizons in samples, tokens and epochs: every schedule of the recipe counts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.recipes.document import ProblemsError
from rheostat.recipes.explain import explain
from rheostat.recipes.recipe import Recipe, examine
from rheostat.recipes.recipe_schema import recipe_schema
from rheostat.recipes.run import Run

COSINE = {"schedule": "cosine", "peak": 0.01, "warmup": 100}
TOKENS: dict[str, Any] = {"optimizer": "adamw", "lr": COSINE, "horizon": {"tokens": 1e3}}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 2)


def rates(run: Run, count: int, tokens: int) -> list[float]:
    found: list[float] = []
    for _ in range(count):
        for param in run.optimizer.param_groups[0]["params"]:
            param.grad = torch.ones_like(param)
        found.append(run.optimizer.param_groups[0]["lr"])
        run.step(1.0, consumed={"tokens": tokens})
    return found


def test_the_learning_rate_follows_the_tokens() -> None:
    with rs.attach(TOKENS, net()) as run:
        found = rates(run, 12, 90)
    curve = rs.schedules.cosine(0.01, steps=1000, warmup=100)
    assert found == [curve(90 * k) for k in range(12)]
    assert found[-1] < 1e-4 < found[2]


def test_the_canonical_form_says_what_is_counted_and_the_hash_covers_it() -> None:
    recipe = Recipe.load(TOKENS)
    said = recipe.canonical()
    assert said["horizon"] == {"tokens": 1000}
    assert "steps" not in said
    assert said["lr"] == {
        "schedule": "in_unit@1",
        "of": {"schedule": "cosine@1", "peak": 0.01, "steps": 1000, "warmup": 100, "floor": 0.0},
        "unit": "tokens",
        "per_update": 1.0,
    }
    again = Recipe.load(json.loads(json.dumps(said)))
    assert (again, again.hash) == (recipe, recipe.hash)
    horizons: list[dict[str, Any]] = [
        {"steps": 1000},
        {"horizon": {"samples": 1000}},
        {"horizon": {"tokens": 1001}},
    ]
    plain = {key: value for key, value in TOKENS.items() if key != "horizon"}
    others = {Recipe.load({**plain, **horizon}).hash for horizon in horizons}
    assert len(others | {recipe.hash}) == 4
    updates = Recipe.load({**plain, "horizon": {"updates": 1000}})
    assert updates.hash == Recipe.load({**plain, "steps": 1000}).hash


@pytest.mark.parametrize("unit", ["samples", "tokens", "epochs"])
def test_every_schedule_counts_the_unit_of_the_horizon(unit: str) -> None:
    flat = {"schedule": "constant", "peak": 0.1, "warmup": 4}
    own = {"schedule": "in_unit", "of": {**flat, "warmup": 8}, "unit": unit, "per_update": 64}
    twice = {"schedule": "scale", "of": {"schedule": "linear", "peak": 1}, "factor": 0.5}
    betas = [0.9, {"schedule": "constant", "peak": 0.9}]
    policy = [{"match": {"role": "bias"}, "lr": own}]
    made = Recipe.load(
        {
            "optimizer": "adamw",
            "lr": flat,
            "weight_decay": twice,
            "betas": betas,
            "policy": policy,
            "horizon": {unit: 90},
            "silence": ["RH019"],
        }
    )
    opt = made.build(net())
    for index, key in [(0, "lr"), (1, "lr"), (1, "weight_decay")]:
        assert opt.scheduled(index)[key].unit == unit, key
    assert opt.scheduled(1)["betas"][1].unit == unit
    assert opt.scheduled(1)["lr"](4) == 0.1
    assert opt.scheduled(1)["weight_decay"](45) == 0.25
    # What is written with a unit of its own is left as it is written.
    assert opt.scheduled(0)["lr"](8 * 64) == 0.1 > opt.scheduled(0)["lr"](7 * 64)


def test_the_number_of_updates_is_not_said_besides() -> None:
    with pytest.raises(ProblemsError, match=r"^horizon\.tokens: the horizon is in tokens, and the"):
        rs.attach(TOKENS, net(), steps=10)
    assert Recipe.load(TOKENS).steps is None
    for horizon in ({}, {"tokens": 1, "epochs": 1}):
        with pytest.raises(ProblemsError, match="should be one number with its unit"):
            Recipe.load({**TOKENS, "horizon": horizon})
    stated = {**TOKENS, "lr": {**COSINE, "steps": 999}}
    with pytest.raises(ProblemsError, match=r"lr\.steps: 999 differs from the 1000 tokens of"):
        Recipe.load(stated)


def test_checks_know_the_unit() -> None:
    late = {**TOKENS, "lr": {"schedule": "constant", "peak": 1e-3, "warmup": 2000}}
    with pytest.raises(ProblemsError, match=r"^lr\.warmup: warms up for 2000 of 1000 tokens"):
        Recipe.load(late)
    # A warm-up of 2000 updates in a run of 1000 tokens is not for us to compare.
    own = {"schedule": "in_unit", "of": late["lr"], "unit": "tokens", "per_update": 0.1}
    Recipe.load({**TOKENS, "lr": own})
    restarts = {"schedule": "cosine_restarts", "peak": 1e-3, "period": 990}
    [warning] = Recipe.load({**TOKENS, "lr": restarts}).warnings
    assert warning.code == "RH010"


def test_explain_draws_it_over_the_tokens() -> None:
    [preview] = explain(Recipe.load(TOKENS), net()).previews
    assert (preview.unit, preview.steps) == ("tokens", 1000)


def test_the_schema_takes_one_unit_and_not_both() -> None:
    from jsonschema import Draft202012Validator

    check = Draft202012Validator(recipe_schema())
    assert check.is_valid(TOKENS)
    assert check.is_valid(Recipe.load(TOKENS).canonical())
    for horizon in ({}, {"tokens": 1, "epochs": 1}, {"minutes": 1}, {"tokens": 0}):
        bad = {**TOKENS, "horizon": horizon}
        assert not check.is_valid(bad)
        assert examine(_document(bad))[0] is None
    both = {**TOKENS, "steps": 5}
    assert not check.is_valid(both)
    assert examine(_document(both))[0] is None


def _document(data: dict[str, Any]) -> Any:
    from rheostat.recipes.formats import open_document

    return open_document(data, "recipe")


def test_a_run_in_tokens_resumes(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with rs.attach(TOKENS, net()) as run:
        whole = rates(run, 10, 90)
    with rs.attach(TOKENS, net(), directory=directory, resume="auto") as run:
        first = rates(run, 5, 90)
        run.save(wait=True)
    with rs.attach(TOKENS, net(), directory=directory, resume="must") as run:
        assert first + rates(run, 5, 90) == whole
