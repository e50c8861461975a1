"""The published schemas: valid ones, and the same answer as the checks, accept or reject."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rheostat.core.errors import InputError
from rheostat.core.hyper import NonNegative
from rheostat.core.registry import Component
from rheostat.lab.plan import Plan
from rheostat.recipes import schema
from rheostat.recipes.document import open_document
from rheostat.recipes.recipe import Recipe
from rheostat.recipes.schema import recipe_schema, study_schema

RECIPES = Draft202012Validator(recipe_schema())
STUDIES = Draft202012Validator(study_schema())

JUNK = [None, True, False, "fast", "", "0.1", "cosine", -1, -0.5, 0, 1, 2, 2.0, 2.5, 7]
JUNK += [[], [0.5], [0.9, 0.99], [0.9, "x"], [0.9, 1.0], [1, 2, 3], {}, {"schedule": "cosine"}]
JUNK += [{"schedule": "constant", "peak": 0.5}, {"schedule": "nothing"}, {"peak": 0.1}, [None]]


def refusals(recipe: dict[str, Any]) -> list[str]:
    try:
        Recipe.load(recipe)
    except InputError as error:
        return str(error).split("\n")
    return []


def good_schedule(rng: random.Random) -> dict[str, Any]:
    # Peaks below every upper bound and floors below every peak: what holds between keys, and
    # between a schedule and its hyperparameter, is beyond a schema.
    schedule: dict[str, Any] = {"peak": rng.choice([0.2, 0.5, 0.75])}
    name = rng.choice(["constant", "step", "cosine", "cosine_restarts"])
    schedule["schedule"] = name + rng.choice(["", "@1"])
    extras: dict[str, Any] = {
        "constant": {"warmup": 3},
        "step": {"steps": 40, "drops": [0.25, 0.5], "factor": 0, "warmup": 2.0},
        "cosine": {"steps": 40, "floor": 0.125, "warmup": 0},
        "cosine_restarts": {"steps": 40, "multiplier": 1.5, "decay": 0.5, "floor": 0},
    }[name]
    schedule |= {key: value for key, value in extras.items() if rng.random() < 0.5}
    return schedule | ({"period": 8} if name == "cosine_restarts" else {})


def good_recipe(rng: random.Random) -> dict[str, Any]:
    def number() -> Any:
        return good_schedule(rng) if rng.random() < 0.3 else rng.choice([0, 0.25, 0.5, 1e-3])

    name = rng.choice(["sgd", "adamw"])
    keys = {
        "sgd": {"lr": number(), "weight_decay": number(), "momentum": number(), "nesterov": False},
        "adamw": {"lr": number(), "eps": number(), "betas": [number(), number()]},
    }[name]
    keys |= {
        "nonfinite": rng.choice(["skip", "raise", "propagate"]),
        "steps": rng.choice([40, 40.0]),
    }
    chosen = {key: value for key, value in keys.items() if rng.random() < 0.6}
    return {"optimizer": name + rng.choice(["", "@1"]), **chosen}


def spoilt(recipe: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The recipe with one value replaced, one key misspelt, added or taken away, anywhere."""
    made = copy.deepcopy(recipe)
    places = [made, *(value for value in made.values() if isinstance(value, dict))]
    place = rng.choice(places)
    key = rng.choice(list(place))
    change = rng.randrange(4)
    if change == 0:
        place[key] = rng.choice(JUNK)
    elif change == 1:
        place[f"{key}x"] = place.pop(key)
    elif change == 2:
        place[rng.choice(["clip", "peak", "lr", "steps", "betas"])] = rng.choice(JUNK)
    else:
        del place[key]
    return made


def test_schemas_are_valid_and_are_json() -> None:
    for made in (recipe_schema(), study_schema()):
        Draft202012Validator.check_schema(made)
        assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_good_recipes_are_accepted_by_both() -> None:
    rng = random.Random(1)
    for _ in range(150):
        recipe = good_recipe(rng)
        assert not refusals(recipe), recipe
        assert RECIPES.is_valid(recipe), recipe
        assert RECIPES.is_valid(Recipe.load(recipe).canonical()), recipe


def test_checks_and_schema_agree_on_spoilt_recipes() -> None:
    rng = random.Random(2)
    agreed: list[bool] = []
    between_keys = re.compile(r"gives .* at step|differs from|leaves nothing|floor=.* is above")
    for _ in range(600):
        recipe = spoilt(good_recipe(rng), rng)
        faults, theirs = refusals(recipe), RECIPES.is_valid(recipe)
        if theirs and faults:
            assert all(between_keys.search(fault) for fault in faults), (recipe, faults)
        else:
            assert theirs is not bool(faults), (recipe, faults)
            agreed.append(theirs)
    # Both answers are well represented.
    assert agreed.count(True) > 60
    assert agreed.count(False) > 300


def test_every_argument_is_described_from_its_card() -> None:
    for validator in (RECIPES, STUDIES):
        for each in objects(validator.schema):
            for name, value in each["properties"].items():
                names = name in ("optimizer", "schedule", "workload") and "enum" in value
                assert names or value["description"], (each["title"], name)
    [adamw] = [each for each in recipe_schema()["oneOf"] if each["title"] == "adamw@1"]
    assert adamw["properties"]["eps"]["default"] == 1e-8
    assert adamw["properties"]["eps"]["description"].startswith("added to the denominator")
    assert adamw["properties"]["betas"]["default"] == [0.9, 0.999]


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """The schemas of components."""
    if isinstance(value, dict):
        if "@" in value.get("title", ""):
            yield value
        for part in value.values():
            yield from objects(part)
    elif isinstance(value, list):
        for part in value:
            yield from objects(part)


def test_a_longer_meaning_and_an_older_version_are_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def older(rate: NonNegative) -> None: ...

    def newer(rate: NonNegative, names: tuple[str, ...] = ("a",)) -> None: ...

    doc = "Summary.\n\nrate: the first line\n    and the second.\nnames: what for.\n\nEnd: of it"
    made = [Component("optimizer", "rule", n, "module", "f", doc) for n in (1, 2)]
    factories = {"rule@1": older, "rule@2": newer}
    monkeypatch.setattr(Component, "factory", property(lambda self: factories[self.ref]))
    monkeypatch.setattr(schema, "components", lambda kind: made if kind == "optimizer" else [])
    monkeypatch.setattr(schema, "component", lambda name: made[-1])
    first, second = recipe_schema()["oneOf"]
    assert first["properties"]["optimizer"] == {"enum": ["rule@1"]}
    assert second["properties"]["optimizer"] == {"enum": ["rule", "rule@2"]}
    assert first["required"] == ["optimizer", "rate"]
    assert second["properties"]["rate"]["description"] == "the first line and the second."
    assert second["properties"]["names"] == {
        "description": "what for.",
        "default": ["a"],
        "type": "array",
        "items": {"type": "string"},
    }
    part = study_schema()["$defs"]["part"]["properties"]
    assert part["optimizer"] == {"anyOf": [{"enum": ["rule@1"]}, {"enum": ["rule", "rule@2"]}]}


STUDY: dict[str, Any] = {
    "study": "A title",
    "question": "Which?",
    "hypothesis": "This one.",
    "why": "To know.",
    "workload": {"workload": "digits_mlp", "batch": 32},
    "recipe": {"optimizer": "sgd", "momentum": 0.9},
    "arms": {"a": {"lr": 0.1}, "b": {"lr": {"schedule": "cosine", "peak": 0.1}}},
    "baseline": "a",
    "seeds": 3,
    "steps": 10,
    "metric": {"name": "test_accuracy", "margin": 0.01},
}


def study(**changes: Any) -> dict[str, Any]:
    """The good study with keys replaced, or taken away by None."""
    changed = {**copy.deepcopy(STUDY), **changes}
    return {key: value for key, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    "given",
    [
        study(),
        study(workload="digits_mlp"),
        study(workload="digits_mlp@1"),
        study(seeds=[0, 5]),
        study(seeds=2.0, steps=10.0),
        study(recipe=None, arms={"a": {"optimizer": "sgd"}, "b": {"optimizer": "adamw"}}),
    ],
)
def test_good_studies_are_accepted_by_both(given: dict[str, Any]) -> None:
    Plan.load(given)
    STUDIES.validate(given)


@pytest.mark.parametrize(
    "given",
    [
        *(study(**{key: None}) for key in STUDY if key != "recipe"),
        *(study(**{key: junk}) for key in STUDY for junk in ("", 7.5, [[]], True)),
        study(stepz=3),
        study(workload={"workload": "digits_mlp", "bach": 32}),
        study(workload={"workload": "digits_mlp", "batch": 0}),
        study(workload={"batch": 32}),
        study(seeds=1),
        study(seeds=10_001),
        study(seeds=[1]),
        study(seeds=[1, 1]),
        study(seeds=[0, -1]),
        study(seeds=[0, 2**63]),
        study(steps=0),
        study(metric={"name": "test_accuracy"}),
        study(metric={"name": "test_accuracy", "margin": 0}),
        study(metric={"name": "test_accuracy", "margin": 0.1, "goal": "maximize"}),
        study(arms={"a": {"lr": 0.1}}),
        study(arms={"a": {"lr": 0.1}, "b/c": {"lr": 0.2}}),
        study(arms={"a": {"lr": 0.1}, "b" * 65: {"lr": 0.2}}),
        study(arms={"a": {"lr": 0.1}, "b": {"lr": -0.2}}),
        study(arms={"a": {"lr": 0.1}, "b": {"rate": 0.2}}),
        study(arms={"a": {"lr": 0.1}, "b": None}),
    ],
)
def test_bad_studies_are_refused_by_both(given: dict[str, Any]) -> None:
    assert not STUDIES.is_valid(given)
    with pytest.raises(InputError):
        Plan.load(given)


def test_the_example_keeps_to_the_schema() -> None:
    path = Path(__file__).parents[2] / "examples" / "warm_restarts.yaml"
    STUDIES.validate(open_document(path, "study").data)
    Plan.load(path)
