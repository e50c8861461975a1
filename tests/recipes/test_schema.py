"""The published schemas: valid ones, and the same answer as the checks, accept or reject."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rheostat.core.component import Component
from rheostat.core.errors import InputError
from rheostat.core.hyper import NonNegative
from rheostat.lab.plan import Plan
from rheostat.recipes import recipe_schema as schema
from rheostat.recipes.formats import open_document
from rheostat.recipes.recipe import Recipe
from rheostat.recipes.recipe_schema import recipe_schema
from rheostat.recipes.schema import study_schema

_spec = importlib.util.spec_from_file_location(
    "generated_recipes", Path(__file__).with_name("generated.py")
)
assert _spec is not None
assert _spec.loader is not None
_generated = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_generated)
good_recipe, spoilt = _generated.good_recipe, _generated.spoilt

RECIPES = Draft202012Validator(recipe_schema())
STUDIES = Draft202012Validator(study_schema())


def refusals(recipe: dict[str, Any]) -> list[str]:
    try:
        Recipe.load(recipe)
    except InputError as error:
        return str(error).split("\n")
    return []


def test_schemas_are_valid_and_are_json() -> None:
    for made in (recipe_schema(), study_schema()):
        Draft202012Validator.check_schema(made)
        assert json.loads(json.dumps(made, allow_nan=False)) == made


VALUE_LEVEL = re.compile(
    r"unknown (key|clip|unit|role)|is missing|no \w+ is named|does not exist"
    r"|: (\"[^\"]*\"|-?[0-9.e+-]+|true|false|null|[\[{].*) should "
)
"""What a schema must see too. A line of a policy that names no rule has that of the recipe, whose
keys a schema cannot know there."""
BEYOND = re.compile(r"gives .* at step|differs from|no signal is named|^policy.*unknown key for ")


def sample(count: int, seed: int) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """So many recipes, every other one spoilt, and what our checks say of each."""
    rng = random.Random(seed)
    recipes: list[dict[str, Any]] = []
    for index in range(count):
        recipe = good_recipe(rng)
        recipes.append(spoilt(recipe, rng) if index % 2 else recipe)
    return recipes, [refusals(recipe) for recipe in recipes]


def agree(recipes: list[dict[str, Any]], faults: list[list[str]], theirs: list[bool]) -> None:
    """Their answer is ours, but for what holds between keys."""
    both = 0
    for recipe, told, accepted in zip(recipes, faults, theirs, strict=True):
        if accepted:
            found = [f for f in told if VALUE_LEVEL.search(f) and not BEYOND.search(f)]
            assert not found, (recipe, found)
        else:
            assert told, recipe
        both += accepted is not bool(told)
    assert theirs.count(True) > len(recipes) / 4
    assert theirs.count(False) > len(recipes) / 4
    assert both > 0.8 * len(recipes)


@pytest.mark.parametrize(
    ("count", "seed"), [(200, 2), pytest.param(1000, 3, marks=pytest.mark.slow)]
)
def test_checks_and_schema_agree(count: int, seed: int) -> None:
    recipes, faults = sample(count, seed)
    agree(recipes, faults, [RECIPES.is_valid(recipe) for recipe in recipes])
    for recipe, told in zip(recipes, faults, strict=True):
        if not told:
            assert RECIPES.is_valid(Recipe.load(recipe).canonical()), recipe


AJV = "8.20.0"
SCRIPT = """
const {default: Ajv} = require("ajv/dist/2020");
const {schema, recipes} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const check = new Ajv({strict: false}).compile(schema);
console.log(JSON.stringify(recipes.map((recipe) => check(recipe))));
"""


@pytest.fixture(scope="module")
def ajv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the validator for JavaScript; absent: skipped, or failed where promised."""
    folder = tmp_path_factory.mktemp("ajv")
    reason = "npm is not installed (Debian's packages: nodejs, npm)"
    if shutil.which("node") and (npm := shutil.which("npm")):
        options = ["--no-audit", "--no-fund", "--silent", "--prefix", str(folder)]
        command = [npm, "install", *options, f"ajv@{AJV}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode == 0:
            return folder
        reason = f"npm install ajv@{AJV} failed: {done.stderr.strip()[:200]}"
    if os.environ.get("RHEOSTAT_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and RHEOSTAT_REQUIRE_SERVICES=1 promises it", pytrace=False)
    pytest.skip(reason)


@pytest.mark.parametrize(
    ("count", "seed"), [(200, 4), pytest.param(1000, 5, marks=pytest.mark.slow)]
)
def test_a_validator_in_another_language_agrees(ajv: Path, count: int, seed: int) -> None:
    recipes, faults = sample(count, seed)
    given = json.dumps({"schema": recipe_schema(), "recipes": recipes})
    done = subprocess.run(
        ["node", "-e", SCRIPT], input=given, cwd=ajv, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    agree(recipes, faults, json.loads(done.stdout))


NAMES = ("optimizer", "schedule", "transform", "controller", "workload", "named")


def test_every_argument_is_described_from_its_card() -> None:
    for validator in (RECIPES, STUDIES):
        for each in objects(validator.schema):
            for name, value in each["properties"].items():
                names = name in NAMES
                elsewhere = "$ref" in value
                assert names or elsewhere or value["description"], (each["title"], name)
    adamw = next(each for each in objects(recipe_schema()) if each["title"] == "adamw@1")
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


def test_a_plug_in_and_an_older_version_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(rate: NonNegative) -> None: ...

    def newer(rate: NonNegative, names: tuple[str, ...] = ("a",)) -> None: ...

    doc = "Summary.\n\nrate: the first line\n and the second.\nnames: what for."
    made = [
        Component("optimizer", "rule", n, "module", "f", doc, ("rate", "names")) for n in (1, 2)
    ]
    factories = {"rule@1": older, "rule@2": newer}
    real = schema.components
    ours = property(lambda self: factories.get(self.ref) or FACTORY(self))
    monkeypatch.setattr(Component, "factory", ours)
    monkeypatch.setattr(
        schema, "components", lambda kind: made if kind == "optimizer" else real(kind)
    )
    known = schema.component
    monkeypatch.setattr(
        schema, "component", lambda name, kind=None: made[-1] if name == "rule" else known(name)
    )
    found = {each["title"]: each for each in objects(recipe_schema())}
    first, second = found["rule@1"], found["rule@2"]
    assert first["properties"]["optimizer"] == {"enum": ["rule@1"]}
    assert second["properties"]["optimizer"] == {"enum": ["rule", "rule@2"]}
    assert first["required"][-2:] == ["optimizer", "rate"]
    assert second["properties"]["rate"]["description"] == "the first line and the second."
    assert second["properties"]["names"]["default"] == ["a"]


FACTORY = Component.factory.fget


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
