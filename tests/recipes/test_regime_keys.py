"""`regime` and `safeguards`: short forms, the canonical one, and the regime that they make."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from torch import nn

from rheostat.core.errors import InputError
from rheostat.core.hyper import arguments_of
from rheostat.lab.plan import Plan
from rheostat.recipes.diff import differences
from rheostat.recipes.explain import explain
from rheostat.recipes.explain_words import as_data, as_page, as_text
from rheostat.recipes.formats import read_text
from rheostat.recipes.layers import open_recipe, read_overrides
from rheostat.recipes.recipe import Recipe
from rheostat.recipes.recipe_schema import recipe_schema
from rheostat.recipes.regime_schema import fields
from rheostat.recipes.regimes import make_regime
from rheostat.regimes.grants import Terms
from rheostat.regimes.knobs import Bounds
from rheostat.regimes.safeguard import Care

SCHEMA = Draft202012Validator(recipe_schema())
SHORT: list[Any] = ["spike_guard", {"controller": "plateau", "patience": 200}]
LONG: dict[str, Any] = {
    "controllers": SHORT,
    "terms": {"budget": 12, "bounds": {"floor": 0.1, "own": {"momentum": [1, 4.0]}}},
    "dry_run": True,
}


def load(**keys: Any) -> Recipe:
    return Recipe.load({"optimizer": "adamw", **keys})


def regime_of(recipe: Recipe) -> Any:
    made = make_regime(recipe.parts)
    assert made is not None
    return made


def test_the_short_form_is_the_long_one_with_every_default_written_out() -> None:
    canonical = load(regime=SHORT, safeguards=True).canonical()
    regime = canonical["regime"]
    assert [one["controller"] for one in regime["controllers"]] == ["spike_guard@1", "plateau@1"]
    assert regime["controllers"][1]["patience"] == 200
    assert regime["controllers"][1]["watch"] == "loss"
    assert regime["dry_run"] is False
    assert set(regime["terms"]) == {field.name for field in dataclasses.fields(Terms)}
    assert set(regime["terms"]["bounds"]) == {field.name for field in dataclasses.fields(Bounds)}
    assert canonical["safeguards"] == dataclasses.asdict(Care())
    assert load(regime={"controllers": SHORT}, safeguards={}).canonical() == canonical


@pytest.mark.parametrize(
    "keys",
    [
        {"regime": SHORT},
        {"regime": LONG, "safeguards": {"keep": 3.0}},
        {"regime": {"terms": {"rollbacks": 0}}, "safeguards": True},
        {"regime": {"replay": "runs/a"}},
        {"regime": [], "safeguards": False},
    ],
)
def test_loading_the_canonical_form_changes_nothing(keys: dict[str, Any]) -> None:
    recipe = load(**keys)
    again = Recipe.load(recipe.canonical())
    assert (again.parts, again.hash) == (recipe.parts, recipe.hash)
    assert again.canonical() == recipe.canonical()
    SCHEMA.validate({"optimizer": "adamw", **keys})
    SCHEMA.validate(recipe.canonical())


def test_the_hash_is_of_what_is_not_at_its_default() -> None:
    plain = load().hash
    assert load(regime=[]).hash == load(safeguards=False).hash == plain
    assert load(regime=["plateau"]).hash == load(regime=["plateau@1"]).hash
    assert load(safeguards=True).hash == load(safeguards={"every": 100}).hash
    assert load(regime={"terms": {"budget": 48, "bounds": {"floor": 1 / 64}}}).hash == plain
    different = [
        {},
        {"regime": ["plateau"]},
        {"regime": ["plateau", "spike_guard"]},
        {"regime": ["spike_guard", "plateau"]},
        {"regime": [{"controller": "plateau", "z": 3}]},
        {"regime": {"controllers": ["plateau"], "dry_run": True}},
        {"regime": {"controllers": ["plateau"], "terms": {"budget": 1}}},
        {"regime": {"controllers": ["plateau"], "terms": {"bounds": {"floor": 1}}}},
        {"regime": {"controllers": ["plateau"], "terms": {"bounds": {"own": {"lr": [1, 2]}}}}},
        {"regime": {"replay": "a"}},
        {"regime": {"replay": "b"}},
        {"safeguards": True},
        {"safeguards": {"keep": 3}},
    ]
    assert len({load(**keys).hash for keys in different}) == len(different)


def test_the_regime_is_what_was_written() -> None:
    regime = regime_of(load(regime=LONG, safeguards={"every": 50}))
    assert list(regime.controllers) == ["spike_guard", "plateau"]
    assert regime.controllers["plateau"].arguments["patience"] == 200
    assert regime.terms == Terms(bounds=Bounds(floor=0.1, own={"momentum": (1.0, 4.0)}), budget=12)
    assert regime.safeguard.care == Care(every=50)
    assert regime.dry_run


def test_safeguards_alone_are_a_regime_without_controllers() -> None:
    assert make_regime(load().parts) is None
    assert make_regime(load(safeguards=False, regime=[]).parts) is None
    regime = regime_of(load(safeguards=True, regime={"terms": {"rollbacks": 2}}))
    assert not regime.controllers
    assert regime.terms.rollbacks == 2
    assert regime_of(load(regime=["plateau"])).safeguard is None


def test_another_librarys_optimizer_has_them_too() -> None:
    recipe = Recipe.load({"optimizer": "torch/AdamW", "regime": SHORT, "safeguards": True})
    assert list(regime_of(recipe).controllers) == ["spike_guard", "plateau"]
    assert Recipe.load(recipe.canonical()).hash == recipe.hash


def test_an_optimizer_has_no_regime() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    keys = {"policy": [{"match": {"role": "norm"}, "lr": 0.1}], "silence": ["RH019"]}
    recipe = load(**keys, regime=SHORT, safeguards=True)
    assert Recipe.of(recipe.build(net)).hash == load(**keys).hash


@pytest.mark.parametrize("of", [Terms, Bounds, Care])
def test_one_annotation_is_schema_check_and_grammar(of: type) -> None:
    schema = fields(of)
    for name, argument in arguments_of(of).items():
        described = schema["properties"][name]
        assert described["description"], name
        if name in ("bounds", "own"):
            continue
        assert described["default"] == getattr(of(), name)
        worst = -1.0 if argument.annotation is not bool else "x"
        assert not Draft202012Validator(described).is_valid(worst), name
        with pytest.raises(InputError, match=f"{name}="):
            of(**{name: worst})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "optimizer: sgd\nregime: [spike_gard]",
            "2:10: regime[0]: no controller is named 'spike_gard'; did you mean 'spike_guard'?",
        ),
        (
            "optimizer: sgd\nregime: [{controller: plateau, patience: 0}]",
            "2:42: regime[0].patience: 0 should be greater than or equal to 1",
        ),
        (
            "optimizer: sgd\nregime: [{patience: 5}]",
            (
                "2:10: regime[0]: 'controller' is missing: a name, such as adaptive_clipping, "
                "batch_growth, decay_balance, early_stop"
            ),
        ),
        (
            "optimizer: sgd\nregime: [decay_balance]",
            "2:10: regime[0].by: decay_balance: by='timescale' needs updates_per_epoch",
        ),
        (
            "optimizer: sgd\nregime: spike_guard",
            (
                '2:9: regime: "spike_guard" should be a list of controllers, such as [spike_guard, '
                "{controller: plateau, patience: 20}]"
            ),
        ),
        (
            "optimizer: sgd\nregime: {controllers: spike_guard}",
            (
                '2:23: regime.controllers: "spike_guard" should be a list, such as [spike_guard, '
                "{controller: plateau, patience: 20}]"
            ),
        ),
        (
            "optimizer: sgd\nregime: {controlers: [spike_guard]}",
            "2:10: regime.controlers: unknown key; did you mean 'controllers'?",
        ),
        (
            "optimizer: sgd\nregime: {terms: {bounds: {own: {momentum: [2, 4]}}}}",
            "2:44: regime.terms.bounds.own.momentum[0]: 2 should be less than or equal to 1",
        ),
        (
            "optimizer: sgd\nregime: {terms: 3}",
            "2:17: regime.terms: 3 should be a mapping, such as {deadband: 0.05}",
        ),
        (
            "optimizer: sgd\nregime: {replay: runs/a, dry_run: true}",
            (
                "2:26: regime.dry_run: says what to decide, and a replay decides nothing; leave "
                "it out"
            ),
        ),
        (
            "optimizer: sgd\nsafeguards: true\nregime: {replay: runs/a}",
            (
                "2:1: safeguards: a replay puts back the states that its run went back to; leave "
                "it out"
            ),
        ),
        (
            "optimizer: sgd\nsafeguards: {evry: 3}",
            "2:14: safeguards.evry: unknown key; did you mean 'every'?",
        ),
        (
            "optimizer: sgd\nsafeguards: yes",
            (
                '2:13: safeguards: "yes" should be true, false, or a mapping such as {every: 50, '
                "keep: 2}"
            ),
        ),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load(read_text(text, "r.yaml"))
    assert str(caught.value) == f"r.yaml:{told}"


def test_overrides_reach_into_short_forms() -> None:
    def set_(*options: str, **keys: Any) -> dict[str, Any]:
        document = open_recipe({"optimizer": "adamw", **keys}, read_overrides(options))
        return Recipe.load(document).canonical()["regime"]

    assert set_("regime.1.patience=7", regime=SHORT)["controllers"][1]["patience"] == 7
    assert set_("regime.0.z=5", regime=SHORT)["controllers"][0]["z"] == 5
    long = set_(
        "regime.controllers.0.z=5", "regime.terms.budget=3", "regime.dry_run=true", regime=SHORT
    )
    assert (long["controllers"][0]["z"], long["terms"]["budget"], long["dry_run"]) == (5, 3, True)
    document = open_recipe(
        {"optimizer": "adamw", "safeguards": True}, read_overrides(["safeguards.keep=3"])
    )
    assert Recipe.load(document).canonical()["safeguards"]["keep"] == 3
    assert set_("regime=[plateau]", regime=LONG)["controllers"][0]["controller"] == "plateau@1"
    assert set_("regime={replay: runs/a}", regime=LONG) == {"replay": "runs/a"}
    with pytest.raises(InputError, match=r"regime\[0\]\.z"):
        set_("regime.0.z=-5", regime=SHORT)


def test_a_difference_is_told_by_its_key() -> None:
    left, right = load(regime=SHORT), load(regime=[SHORT[0], "plateau"], safeguards=True)
    found = list(differences(left.canonical(), right.canonical()))
    lines = [line for each in found for line in each.lines]
    assert lines[:2] == [
        "- regime.controllers[1].patience: 200",
        "+ regime.controllers[1].patience: 10",
    ]
    assert lines[2].startswith("+ safeguards: {")


def test_explain_says_who_may_change_what_and_what_is_kept() -> None:
    net = nn.Linear(4, 4)
    keys = {**LONG, "controllers": [*SHORT, {"controller": "batch_growth", "batch": 8}]}
    made = explain(load(regime=keys, safeguards={"keep": 3}), net)
    text = as_text(made)
    assert (
        "changes lr × 1/10 to 64\n    no rule has max_norm\n    reads the loss, gradient_norm"
        in text
    )
    assert "plateau@1 (factor 0.5, window 100, patience 200" in text
    assert "signal gradient_norm: one read of the gradients" in text
    assert "the loop reports small_square" in text
    assert "a dry run" in text
    weights = 20 * 4
    assert made.watching is not None
    assert made.watching.copy_bytes == weights + sum(row.state or 0 for row in made.rows)
    assert made.watching.copies == 4
    assert as_data(made)["watching"]["controllers"][0]["changes"] == ("lr × 1/10 to 64",)
    assert "Regime and safeguards" in as_page(made)
    assert "runs/a" in as_text(explain(load(regime={"replay": "runs/a"}), net))
    assert explain(load(), net).watching is None
    theirs = explain(Recipe.load({"optimizer": "torch/SGD", "safeguards": True}), net)
    assert "at most 3 copies of weights and state" in as_text(theirs)
    anew = explain(
        Recipe.load({"optimizer": "sgd", "regime": ["fresh_start"], "safeguards": True}), net
    )
    assert "at most 4 copies of 80 B, 320 B in all" in as_text(anew), "the start is one more"


def test_an_arm_of_a_study_may_have_one() -> None:
    text = """
study: T
question: Which?
hypothesis: This.
why: To know.
workload: digits_mlp
recipe: {optimizer: adamw, lr: 1e-3}
arms:
  plain: {}
  watched: {regime: [spike_guard, {controller: plateau, patience: 5}], safeguards: {keep: 3}}
baseline: plain
seeds: 2
steps: 10
metric: {name: test_accuracy, margin: 0.01}
"""
    plan = Plan.load(read_text(text, "s.yaml"))
    watched = plan.canonical()["arms"]["watched"]
    assert watched["regime"]["controllers"][1]["patience"] == 5
    assert watched["safeguards"]["keep"] == 3
    assert "regime" not in plan.canonical()["arms"]["plain"]
    with pytest.raises(InputError, match=r"arms\.watched\.regime\[1\]\.patience: 0 should"):
        Plan.load(read_text(text.replace("patience: 5", "patience: 0"), "s.yaml"))
