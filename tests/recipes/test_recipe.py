"""Recipes: checked as a whole and in place, completed, hashed by content, built."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheostat.core.durable import canonical_json
from rheostat.core.errors import InputError, RheostatError
from rheostat.core.schedule import Schedule
from rheostat.optimizers import guard, kernels
from rheostat.optimizers.items import Options
from rheostat.recipes.document import ProblemsError
from rheostat.recipes.grammar import Mode, NonFinite, Precision
from rheostat.recipes.recipe import Recipe
from rheostat.schedules.annealing import cosine

RECIPE = """\
optimizer: sgd
lr: {schedule: cosine, peak: 0.1, warmup: 20}
momentum: 0.9
nonfinite: skip
"""


def load(text: str) -> Recipe:
    Path("recipe.yaml").write_text(text)
    return Recipe.load("recipe.yaml")


def refusals(text: str, steps: int | None = None) -> list[str]:
    Path("recipe.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        _ = Recipe.load("recipe.yaml") if steps is None else load(text).bind(steps)
    return str(caught.value).split("\n")


def test_the_canonical_form_writes_everything_out() -> None:
    recipe = load(RECIPE).bind(600)
    assert recipe.canonical() == {
        "format": 1,
        "optimizer": "sgd@1",
        "lr": {"schedule": "cosine@1", "peak": 0.1, "steps": 600, "warmup": 20, "floor": 0.0},
        "momentum": 0.9,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "seed": 0,
        "nonfinite": "skip",
        "accumulate": 1,
        "precision": "plain",
        "mode": "auto",
        "maximize": False,
        "steps": 600,
    }
    unbound = load(RECIPE)
    assert unbound.steps is None
    assert "steps" not in unbound.canonical()
    assert "steps" not in unbound.canonical()["lr"]
    assert unbound.hash != recipe.hash


@pytest.mark.parametrize("steps", [None, 600])
@pytest.mark.parametrize(
    "text",
    [
        RECIPE,
        "optimizer: sgd@1",
        "optimizer: adamw\nbetas: [0.9, {schedule: cosine, peak: 0.99, floor: 0.9}]\nlr: 1e-3",
        "optimizer: sgd\nlr: {schedule: step, peak: 1, drops: [0.2, 0.4, 1]}\nnonfinite: raise",
        "optimizer: sgd\nlr: {schedule: cosine_restarts, peak: 0.1, period: 10, multiplier: 2}",
        "optimizer: sgd\nweight_decay: {schedule: constant, peak: 0.1}",
    ],
)
def test_loading_the_canonical_form_changes_nothing(text: str, steps: int | None) -> None:
    recipe = load(text) if steps is None else load(text).bind(steps)
    stored = json.loads(canonical_json(recipe.canonical()))
    again = Recipe.load(stored)
    assert again == recipe
    assert again.hash == recipe.hash
    assert again.canonical() == recipe.canonical()
    assert Recipe.load(again) is again
    moved = pickle.loads(pickle.dumps(recipe))
    assert moved == recipe
    if steps is not None:
        assert recipe.bind(steps) == recipe


def test_the_canonical_form_is_a_copy() -> None:
    recipe = load(RECIPE)
    before = recipe.hash
    recipe.canonical()["lr"]["peak"] = 7.0
    assert recipe.hash == before


def test_spelling_does_not_change_the_hash_but_content_does() -> None:
    hashes = {
        load(text).bind(100).hash
        for text in [
            "optimizer: sgd\nlr: 0.1\nmomentum: 0\nsteps: 100",
            "momentum: 0.0\nlr: 1e-1\noptimizer: sgd@1",
            "# a comment\n{optimizer: 'sgd', nesterov: false, lr: 1.0e-1}",
            "optimizer: sgd\nlr: 0.1\nnonfinite: skip\nsteps: 1e2",
        ]
    }
    assert len(hashes) == 1
    whole = {load(f"optimizer: sgd\nweight_decay: {text}").hash for text in ("1", "1.0", "1e0")}
    assert len(whole) == 1
    differing = ["lr: 0.2", "lr: 0.1\nnonfinite: raise", "lr: 0.1\nnesterov: true\nmomentum: 0.9"]
    others = {load(f"optimizer: sgd\n{text}").bind(100).hash for text in differing}
    assert len(others | hashes) == 4


@given(st.permutations(["optimizer", "lr", "momentum", "nonfinite", "steps"]), st.randoms())
def test_the_order_of_keys_does_not_change_the_hash(keys: list[str], random: Any) -> None:
    schedule = [("schedule", "cosine"), ("peak", 0.1), ("warmup", 3)]
    random.shuffle(schedule)
    values = {"optimizer": "sgd", "momentum": 0.9, "nonfinite": "skip", "steps": 50}
    values["lr"] = dict(schedule)
    recipe = Recipe.load({key: values[key] for key in keys})
    assert recipe.hash == Recipe.load(values).hash
    assert list(recipe.canonical()) == list(Recipe.load(values).canonical())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "optimizer: sgd\nmomentumm: 0.9",
            "recipe.yaml:2:1: momentumm: unknown key for sgd@1; did you mean 'momentum'?",
        ),
        (
            "optimizer: sgd\nschedule_of_lr: cosine",
            "recipe.yaml:2:1: schedule_of_lr: unknown key for sgd@1; known are: …",
        ),
        (
            "lr: 0.1\noptimizer: sgdd",
            "recipe.yaml:2:12: optimizer: no optimizer is named 'sgdd'; did you mean 'sgd'?",
        ),
        (
            "optimizer: sgd@7",
            "recipe.yaml:1:12: optimizer: 'sgd@7' does not exist; there is sgd@1",
        ),
        (
            "optimizer: sgd@01",
            "recipe.yaml:1:12: optimizer: 'sgd@01' does not exist; there is sgd@1",
        ),
        (
            "optimizer: cosine",
            "recipe.yaml:1:12: optimizer: cosine@1 is of kind schedule, not optimizer",
        ),
        ("lr: 0.1", "recipe.yaml:1:1: optimizer: is missing; known are: …"),
        (
            "optimizer: [sgd]",
            'recipe.yaml:1:12: optimizer: ["sgd"] should be a name; known are: …',
        ),
        (
            "- sgd",
            'recipe.yaml:1:1: ["sgd"] should be a mapping, such as {optimizer: sgd, lr: 0.1}',
        ),
        (
            "optimizer: sgd\nlr: fast",
            'recipe.yaml:2:5: lr: "fast" should be a number, not text',
        ),
        (
            "optimizer: sgd\nlr: cosine",
            (
                'recipe.yaml:2:5: lr: "cosine" is a schedule, so its arguments are missing: '
                "{schedule: cosine, peak: …}"
            ),
        ),
        ("optimizer: sgd\nlr: true", "recipe.yaml:2:5: lr: true should be a number"),
        ("optimizer: sgd\nlr:", "recipe.yaml:2:4: lr: null should be a number"),
        ("optimizer: sgd\nlr: [0.1]", "recipe.yaml:2:5: lr: [0.1] should be a number"),
        (
            "optimizer: sgd\nlr: -0.1",
            "recipe.yaml:2:5: lr: -0.1 should be greater than or equal to 0",
        ),
        ("optimizer: sgd\nlr: .inf", "recipe.yaml:2:5: lr: .inf should be finite"),
        ("optimizer: sgd\nlr: .nan", "recipe.yaml:2:5: lr: .nan should be finite"),
        ("optimizer: sgd\nmomentum: 1", "recipe.yaml:2:11: momentum: 1 should be less than 1"),
        (
            "optimizer: sgd\nnesterov: yes",
            'recipe.yaml:2:11: nesterov: "yes" should be a boolean, true or false',
        ),
        (
            "optimizer: sgd\nnesterov: 1",
            "recipe.yaml:2:11: nesterov: 1 should be a boolean, true or false",
        ),
        (
            "optimizer: sgd\nnesterov: {schedule: constant, peak: 1}",
            "recipe.yaml:2:11: nesterov: is not a number, so it cannot follow a schedule",
        ),
        (
            "optimizer: sgd\nnesterov: true",
            "recipe.yaml:2:11: nesterov: sgd: nesterov=True needs momentum above 0 and dampening 0",
        ),
        (
            "optimizer: sgd\nnonfinite: skp",
            "recipe.yaml:2:12: nonfinite: \"skp\" should be 'skip', 'raise' or 'propagate'",
        ),
        (
            "optimizer: sgd\nsteps: -5",
            "recipe.yaml:2:8: steps: -5 should be greater than or equal to 1",
        ),
        ("optimizer: sgd\nsteps: 2.5", "recipe.yaml:2:8: steps: 2.5 should be a whole number"),
        (
            "optimizer: adamw\nbetas: [0.9]",
            "recipe.yaml:2:8: betas: [0.9] should be a pair",
        ),
        (
            "optimizer: adamw\nbetas: [0.9, x]",
            'recipe.yaml:2:14: betas[1]: "x" should be a number, not text',
        ),
        (
            "optimizer: adamw\nbetas: [0.9, 0.99, 0.999]",
            "recipe.yaml:2:8: betas: [0.9, 0.99, 0.999] should be a pair",
        ),
        (
            "optimizer: adamw\nbetas: 0.9",
            "recipe.yaml:2:8: betas: 0.9 should be a pair",
        ),
        (
            "optimizer: adamw\nbetas: {schedule: constant, peak: 0.9}",
            (
                "recipe.yaml:2:8: betas: holds several numbers: write a list, in which each may "
                "be a schedule"
            ),
        ),
        (
            "optimizer: sgd\nlr: {schedule: cosin, peak: 0.1}",
            "recipe.yaml:2:16: lr.schedule: no schedule is named 'cosin'; did you mean 'cosine'?",
        ),
        (
            "optimizer: sgd\nlr:\n  schedule: sgd",
            "recipe.yaml:3:13: lr.schedule: sgd@1 is of kind optimizer, not schedule",
        ),
        (
            "optimizer: sgd\nlr: {schedule: cosine}",
            "recipe.yaml:2:5: lr: 'peak' is missing, which cosine@1 needs",
        ),
        (
            "optimizer: sgd\nlr: {peak: 0.1}",
            (
                "recipe.yaml:2:5: lr: 'schedule' is missing; a schedule is {schedule: cosine, "
                "peak: 0.1}"
            ),
        ),
        (
            "optimizer: sgd\nlr: {schedul: cosine, peak: 0.1}",
            "recipe.yaml:2:6: lr.schedul: unknown key; did you mean 'schedule'?",
        ),
        (
            "optimizer: sgd\nlr: {schedule: cosine, peak: 0.1, warmpu: 5}",
            "recipe.yaml:2:35: lr.warmpu: unknown key for cosine@1; did you mean 'warmup'?",
        ),
        (
            "optimizer: sgd\nlr: {schedule: cosine, peak: -1}",
            "recipe.yaml:2:30: lr.peak: -1 should be greater than or equal to 0",
        ),
        (
            "optimizer: sgd\nlr: {schedule: cosine, peak: {schedule: constant, peak: 1}}",
            'recipe.yaml:2:30: lr.peak: {"schedule": "constant", "peak": 1} should be a number',
        ),
        (
            "optimizer: sgd\nlr: {schedule: step, peak: 1, drops: []}",
            "recipe.yaml:2:38: lr.drops: [] should have at least 1 item, not 0",
        ),
        (
            "optimizer: sgd\nmomentum: {schedule: constant, peak: 1.5}",
            "recipe.yaml:2:11: momentum: constant@1 gives 1.5 at step 0; it should be less than 1",
        ),
        (
            "optimizer: adamw\nbetas: [0.9, {schedule: constant, peak: 1, warmup: 4}]",
            "recipe.yaml:2:14: betas[1]: constant@1 gives 1 at step 4; it should be less than 1",
        ),
        (
            "optimizer: sgd\nsteps: 100\nlr: {schedule: cosine, peak: 0.1, floor: 1}",
            "recipe.yaml:3:42: lr.floor: cosine: floor=1 is above peak=0.1",
        ),
        (
            "optimizer: sgd\nsteps: 100\nlr: {schedule: cosine, peak: 0.1, steps: 90}",
            "recipe.yaml:3:42: lr.steps: 90 differs from the 100 steps of the run; leave it out",
        ),
        (
            "optimizer: sgd\nlr: 0.1\nlr: 0.2",
            "recipe.yaml:3:1: lr: is written twice; first on line 2",
        ),
    ],
)
def test_a_mistake_is_told_where_it_stands(text: str, told: str) -> None:
    # An ellipsis stands for a list that grows with every component.
    begin, listed, _ = told.partition("known are: …")
    [line] = refusals(text)
    assert line.startswith(begin + "known are: ") if listed else line == told


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        "nonfinite: skp\nlr: {schedule: cosine, peak: -1, flor: 0}\noptimizer: sgd\n"
        "momentumm: 0.9\nnesterov: yes\nsteps: 0\n"
    )
    assert [line.partition(": ")[0] for line in refusals(text)] == [
        "recipe.yaml:1:12",
        "recipe.yaml:2:30",
        "recipe.yaml:2:34",
        "recipe.yaml:4:1",
        "recipe.yaml:5:11",
        "recipe.yaml:6:8",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "optimizer: adamww\nlr: {schedule: cosin, peak: -1, warmpu: 5}\nepz: 1\nmode: no",
            ["optimizer", "lr.schedule", "lr.peak", "lr.warmpu", "epz", "mode"],
        ),
        ("optimizr: adamw\nlr: -1\nbetaz: 1", ["optimizr", "lr", "betaz"]),
        ("lr: -1\nmomentumm: 1\nbetas: 3\neps: 1e-8", ["optimizer", "lr", "momentumm", "betas"]),
        ("optimizer: zzz\nlr: -1\nlr_decay: x", ["optimizer", "lr", "lr_decay"]),
        ("optimizer: torch/AdamWW\nlr: fast\nclip: {value: 1}", ["optimizer", "lr", "clip"]),
        (
            "chain: [{transfrom: trace, momentun: 1}, {transform: tracee, momentum: 2}]\nlr: -1",
            [
                "lr",
                "chain[0].transfrom",
                "chain[0].momentun",
                "chain[1].transform",
                "chain[1].momentum",
            ],
        ),
        ("chian: [trace]\nlr: -1", ["chian", "lr"]),
        ("optimizer: sgd\nlr: {schedul: cosine, peak: -1}", ["lr.schedul", "lr.peak"]),
        (
            "optimizer: sgd\npolicy:\n  - {match: {role: norm}, optimzer: adamw, epz: 1}\nlr: x",
            ["policy[0].optimzer", "policy[0].epz", "lr"],
        ),
        # What does not fit together is told of beside what is mistyped.
        (
            "optimizer: sgd\nmomentumm: 1\nsteps: 9\nlr: {schedule: constant, peak: 1, warmup: 9}",
            ["momentumm", "lr.warmup"],
        ),
    ],
)
def test_a_wrong_name_hides_nothing(text: str, told: list[str]) -> None:
    Path("recipe.yaml").write_text(text)
    with pytest.raises(ProblemsError) as caught:
        Recipe.load("recipe.yaml")
    assert sorted(problem.path for problem in caught.value.problems) == sorted(told)


def test_a_mapping_is_told_by_its_keys() -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load({"optimizer": "sgd", "lr": {"schedule": "cosine", "peak": -1}, "momentun": 1})
    assert str(caught.value).split("\n") == [
        "lr.peak: -1 should be greater than or equal to 0",
        "momentun: unknown key for sgd@1; did you mean 'momentum'?",
    ]


def test_binding_checks_the_schedules_against_the_horizon() -> None:
    text = "optimizer: sgd\nlr: {schedule: cosine, peak: 0.1, warmup: 200}\nsteps: 300"
    assert refusals(text, steps=100) == [
        "recipe.yaml:3:8: steps: 300 differs from the 100 steps of the run; leave it out"
    ]
    assert refusals(text.replace("300", "200")) == [
        (
            "recipe.yaml:2:43: lr.warmup: cosine: warmup=200 leaves nothing of the horizon of 200 "
            "steps (RH009)"
        )
    ]
    written = "optimizer: sgd\nlr: {schedule: cosine, peak: 0.1, steps: 50}"
    assert load(written).bind(50).canonical()["lr"]["steps"] == 50
    assert refusals(written, steps=60) == [
        "recipe.yaml:2:42: lr.steps: 50 differs from the 60 steps of the run; leave it out"
    ]
    # A momentum that grows past its range only late in the run.
    late = "optimizer: sgd\nmomentum: {schedule: constant, peak: 1, warmup: 99}"
    assert refusals(late, steps=100) == [
        "recipe.yaml:2:11: momentum: constant@1 gives 1 at step 99; it should be less than 1"
    ]
    for steps in (0, -3, 2.5, True, "10", None):
        with pytest.raises(InputError, match=r"^bind: steps="):
            load(RECIPE).bind(steps)


def test_building_gives_the_optimizer_that_was_written() -> None:
    model = torch.nn.Linear(3, 2)
    opt = load(RECIPE.replace("skip", "raise")).bind(100).build(model)
    group = opt.param_groups[0]
    assert group["momentum"] == 0.9
    assert group["param_names"] == ["weight", "bias"]
    schedule = cosine(0.1, steps=100, warmup=20)
    for step in range(5):
        assert group["lr"] == schedule(step)
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        opt.step()
    model.weight.grad = torch.full_like(model.weight, torch.nan)
    with pytest.raises(RheostatError, match="gradient of weight is not finite"):
        opt.step()


def test_a_schedule_in_a_tuple_is_built_in_its_place() -> None:
    betas = [0.8, {"schedule": "constant", "peak": 0.99, "warmup": 1}]
    opt = Recipe.load({"optimizer": "adamw", "betas": betas}).build(torch.nn.Linear(2, 1))
    assert opt.param_groups[0]["betas"] == (0.8, 0.495)
    for param in opt.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    opt.step()
    assert opt.param_groups[0]["betas"] == (0.8, 0.99)


def test_building_without_a_horizon_says_what_lacks_it() -> None:
    with pytest.raises(InputError, match=r"^lr: cosine@1 needs a horizon; give the number of"):
        load(RECIPE).build(torch.nn.Linear(2, 1))


def test_a_mapping_may_be_changed_after_loading() -> None:
    source: dict[str, Any] = {"optimizer": "sgd", "lr": {"schedule": "cosine", "peak": 0.1}}
    recipe = Recipe.load(copy.deepcopy(source))
    same = Recipe.load(source)
    source["lr"]["peak"] = 9
    assert same.bind(10) == recipe.bind(10)


def test_a_schedule_object_is_not_data() -> None:
    schedule: Schedule = cosine(0.1, steps=10)
    with pytest.raises(InputError, match=r"^lr: should be plain data"):
        Recipe.load({"optimizer": "sgd", "lr": schedule})


def test_a_horizon_of_a_billion_steps_is_checked_without_a_billion_numbers() -> None:
    text = "optimizer: sgd\nlr: {schedule: cosine, peak: 0.1}"
    assert load(text).bind(10**9).steps == 10**9


def test_the_choices_of_the_settings_are_those_of_the_loop() -> None:
    assert get_args(NonFinite) == get_args(guard.NonFinite)
    assert get_args(Mode) == get_args(kernels.Mode)
    assert get_args(Precision) == get_args(get_type_hints(Options)["precision"])
