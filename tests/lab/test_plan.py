"""Plans: a study file checked as a whole, frozen, hashed; the same runs under the same names."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rheostat.core.durable import canonical_json, content_hash
from rheostat.core.errors import InputError, nearest
from rheostat.core.registry import components
from rheostat.lab.plan import Plan, load_any
from rheostat.lab.study_file import warnings_of
from rheostat.recipes.formats import read_text

STUDY = """\
# A comment
study: Warm restarts on digits
question: Which?
hypothesis: This one.
why: >
  To
  know.
workload: {workload: digits_mlp, batch: 32}
recipe: {optimizer: sgd, momentum: 0.9}
arms:
  step: {lr: {schedule: step, peak: 0.1}}
  constant: {lr: 0.1}
  cosine: {lr: {schedule: cosine, peak: 0.1}}
baseline: cosine
seeds: 3
steps: 60
metric: {name: test_accuracy, margin: 0.005}
"""

SGD = {"momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
SCHEDULES: dict[str, Any] = {
    "constant": 0.1,
    "cosine": {"schedule": "cosine@1", "peak": 0.1, "steps": 60, "warmup": 0, "floor": 0.0},
    "step": {
        "schedule": "step@1",
        "peak": 0.1,
        "steps": 60,
        "drops": [0.5, 0.75],
        "factor": 0.1,
        "warmup": 0,
    },
}
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "nonfinite": "skip",
    "accumulate": 1,
    "precision": "plain",
    "mode": "auto",
    "maximize": False,
}
WORDS: dict[str, Any] = {
    "study": "Warm restarts on digits",
    "question": "Which?",
    "why": "To know.",
    "order": ["step", "constant", "cosine"],
}
FROZEN: dict[str, Any] = {
    "hypothesis": "This one.",
    "workload": {"workload": "digits_mlp@1", "hidden": 64, "batch": 32},
    "arms": {
        name: {"format": 1, "optimizer": "sgd@1", "lr": lr, **SGD, **SETTINGS, "steps": 60}
        for name, lr in SCHEDULES.items()
    },
    "baseline": "cosine",
    "seeds": [0, 1, 2],
    "steps": 60,
    "metric": {
        "name": "test_accuracy",
        "goal": "maximize",
        "margin": 0.005,
        "worst": 0.0,
        "unit": "fraction",
    },
    "alpha": 0.05,
}
CANONICAL = {**WORDS, **FROZEN}


def load(text: str = STUDY) -> Plan:
    Path("study.yaml").write_text(text)
    return Plan.load("study.yaml")


def changed(old: str, new: str) -> str:
    assert STUDY.count(old) == 1
    return STUDY.replace(old, new)


def test_the_canonical_form_writes_everything_out() -> None:
    plan = load()
    assert plan.canonical() == CANONICAL
    assert plan.words() == WORDS
    assert plan.frozen() == FROZEN
    assert list(plan.arms) == WORDS["order"]
    assert plan.hash == content_hash(FROZEN)
    assert plan.id == f"warm-restarts-on-digits-{plan.hash[:8]}"
    assert plan.metrics == ("test_accuracy", "test_loss")
    assert load(changed("test_accuracy", "test_loss")).goal == "minimize"


def test_a_recorded_plan_is_the_same_plan() -> None:
    plan = load()
    recorded = json.loads(canonical_json(plan.canonical()))
    for same in (Plan.of(recorded), Plan.of(plan.canonical()), pickle.loads(pickle.dumps(plan))):
        assert same == plan
        assert list(same.arms) == list(plan.arms)
        assert same.canonical() == plan.canonical()
        assert (same.hash, same.id, same.runs()) == (plan.hash, plan.id, plan.runs())
        assert same.recipe("cosine") == plan.recipe("cosine")
    lost = {**CANONICAL, "metric": {**CANONICAL["metric"], "worst": float("inf")}}
    assert Plan.of(json.loads(canonical_json(lost))).worst == float("inf")


def test_the_canonical_form_is_a_copy() -> None:
    plan = load()
    before = plan.hash
    plan.canonical()["arms"]["cosine"]["lr"]["peak"] = 7
    plan.canonical()["workload"]["batch"] = 7
    assert plan.hash == before


def test_reading_a_recorded_plan_loads_neither_torch_nor_components() -> None:
    Path("plan.json").write_text(canonical_json(CANONICAL))
    code = (
        "import json, sys; from rheostat.lab.plan import Plan;"
        "plan = Plan.of(json.load(open('plan.json'))); assert plan.runs() and plan.id;"
        "assert 'torch' not in sys.modules; assert 'rheostat.optimizers.sgd' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_spelling_and_order_do_not_change_the_plan() -> None:
    lines = STUDY.splitlines()[1:]
    arms = ["  cosine: {lr: {peak: 1e-1, schedule: cosine@1}}", *lines[9:11]]
    again = [*lines[12:], "arms:", *arms, *lines[:8]]
    text = "\n".join(again).replace("seeds: 3", "seeds: [2, 0, 1]")
    assert load(text) == load()
    assert load(text).hash == load().hash
    assert list(load(text).arms) == ["cosine", "step", "constant"], "shown as they are written"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("This one.", "Another."),
        ("batch: 32", "batch: 64"),
        ("seeds: 3", "seeds: [0, 1, 3]"),
        ("steps: 60", "steps: 61"),
        ("constant: {lr: 0.1}", "constant: {lr: 0.2}"),
        ("momentum: 0.9", "momentum: 0.8"),
        ("margin: 0.005", "margin: 0.01"),
        ("baseline: cosine", "baseline: constant"),
        ("constant:", "same:"),
    ],
)
def test_any_change_of_content_is_another_study(old: str, new: str) -> None:
    one, two = load(), load(changed(old, new))
    assert one.hash != two.hash
    assert one.id != two.id
    assert not {run.run_id for run in one.runs()} & {run.run_id for run in two.runs()}


def test_runs_go_seed_by_seed_under_names_that_are_theirs() -> None:
    plan = load(changed("seeds: 3", "seeds: [7, 4]"))
    runs = plan.runs()
    arms = ["step", "constant", "cosine"]
    assert [(run.seed, run.arm) for run in runs] == [(s, arm) for s in (4, 7) for arm in arms]
    assert len({run.run_id for run in runs}) == len(runs)
    for run in runs:
        assert re.fullmatch(f"{run.arm}-s{run.seed}-[0-9a-f]{{8}}", run.run_id)


def test_an_arm_is_the_shared_recipe_with_its_own_keys() -> None:
    plan = load(changed("constant: {lr: 0.1}", "constant: {lr: 0.1, momentum: 0.5}"))
    assert plan.recipe("constant").canonical()["momentum"] == 0.5
    assert plan.recipe("cosine").canonical()["momentum"] == 0.9
    assert plan.recipe("cosine").steps == 60
    assert plan.recipe("cosine").canonical() == plan.arms["cosine"]
    with pytest.raises(InputError, match=r"^no arm is named 'cosin'; did you mean 'cosine'\?$"):
        plan.recipe("cosin")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Warm restarts on digits", "Restarts, warm"),
        ("Which?", "Which of them?"),
        ("  To\n", "  Because we want to\n"),
    ],
)
def test_prose_can_be_mended_and_the_runs_stay(old: str, new: str) -> None:
    one, two = load(), load(changed(old, new))
    assert one != two
    assert one.words() != two.words()
    assert one.hash == two.hash
    assert one.runs() == two.runs()


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Größe & Maß: Δ?", "groe-ma"),
        ("学習率", "study"),
        ("--A--", "a"),
        ("word " * 30, "word-word-word-word-word-word-word-word-word-wor"),
    ],
)
def test_the_id_is_safe_as_a_directory(title: str, slug: str) -> None:
    plan = load(changed("Warm restarts on digits", json.dumps(title)))
    assert plan.id == f"{slug}-{plan.hash[:8]}"


OPTIMIZERS = nearest("", [of.name for of in components("optimizer")])
ONE_SEED = (
    "has no variance to test with; should be at least 2, and 6 or more for a two-sided p below .05"
)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps: 60", "steps: -60", "16:8: steps: -60 should be greater than or equal to 1"),
        ("steps: 60", "steps: 0", "16:8: steps: 0 should be greater than or equal to 1"),
        ("steps: 60", "steps: 2.5", "16:8: steps: 2.5 should be a whole number"),
        ("steps: 60", "steps: many", '16:8: steps: "many" should be a whole number'),
        ("seeds: 3", "seeds: 1", f"15:8: seeds: a study of one seed {ONE_SEED}"),
        ("seeds: 3", "seeds: [5]", f"15:8: seeds: a study of one seed {ONE_SEED}"),
        ("seeds: 3", "seeds: 0", f"15:8: seeds: a study of no seeds {ONE_SEED}"),
        ("seeds: 3", "seeds: -2", "15:8: seeds: -2 should be greater than or equal to 0"),
        ("seeds: 3", "seeds: [1, 2, 1]", "15:15: seeds[2]: 1 is there already; each counts once"),
        ("seeds: 3", "seeds: [1, -2]", "15:12: seeds[1]: -2 should be greater than or equal to 0"),
        ("seeds: 3", "seeds: 1e9", "15:8: seeds: 1000000000 should be at most 10000"),
        ("seeds: 3", "seeds: all", '15:8: seeds: "all" should be a whole number'),
        (
            "baseline: cosine",
            "baseline: cosin",
            "14:11: baseline: no arm is named \"cosin\"; did you mean 'cosine'?",
        ),
        (
            "baseline: cosine",
            "baseline: [cosine]",
            '14:11: baseline: ["cosine"] should be the name of an arm',
        ),
        (
            "momentum: 0.9",
            "momentumm: 0.9",
            "9:26: recipe.momentumm: unknown key for sgd@1; did you mean 'momentum'?",
        ),
        (
            "momentum: 0.9",
            "momentum: fast",
            '9:36: recipe.momentum: "fast" should be a number, not text',
        ),
        (
            "optimizer: sgd",
            "optimizer: sgdd",
            "9:21: recipe.optimizer: no optimizer is named 'sgdd'; did you mean 'sgd'?",
        ),
        (
            "{optimizer: sgd, momentum: 0.9}",
            "sgd",
            '9:9: recipe: "sgd" should be a mapping, such as {optimizer: sgd}',
        ),
        (
            "constant: {lr: 0.1}",
            "constant: {lr: 0.1, optimizer: adamw}",
            (
                "9:26: recipe.momentum: unknown key for adamw@1; known are: betas, eps, lr, "
                "weight_decay (in constant)"
            ),
        ),
        (
            "constant: {lr: 0.1}",
            "constant: {lr: 0.1, momentum: {schedule: constant, peak: 2}}",
            "12:33: arms.constant.momentum: constant@1 gives 2 at step 0; it should be less than 1",
        ),
        (
            "constant: {lr: 0.1}",
            "constant: {lr: 0.1, steps: 5}",
            "12:30: arms.constant.steps: 5 differs from the 60 steps of the run; leave it out",
        ),
        (
            "constant: {lr: 0.1}",
            "constant: 0.1",
            "12:13: arms.constant: 0.1 should be a mapping, such as {lr: 0.1}",
        ),
        (
            "constant: {lr: 0.1}",
            "con/stant: {lr: 0.1}",
            (
                "12:3: arms.con/stant: should be 1 to 64 letters, digits, _ and -, a letter or "
                "digit first"
            ),
        ),
        (
            "constant: {lr: 0.1}",
            "other: {lr: {peak: 1e-1, schedule: cosine@1, warmup: 0}}",
            "13:3: arms.cosine: is the same recipe as 'other'; arms should differ",
        ),
        (
            "{schedule: cosine, peak: 0.1}",
            "{schedule: cosine, peak: 0.1, warmup: 60}",
            (
                "13:54: arms.cosine.lr.warmup: cosine: warmup=60 leaves nothing of the horizon of "
                "60 steps (RH009)"
            ),
        ),
        (
            "{schedule: cosine, peak: 0.1}",
            "{schedule: cosine, peek: 0.1, peak: 1}",
            ("13:35: arms.cosine.lr.peek: unknown key for cosine@1; did you mean 'peak'?"),
        ),
        (
            "digits_mlp",
            "digit_mlp",
            (
                "8:22: workload.workload: no workload is named 'digit_mlp'; did you mean "
                "'digits_mlp'?"
            ),
        ),
        (
            "{workload: digits_mlp, batch: 32}",
            "sgd",
            "8:11: workload: sgd@1 is of kind optimizer, not workload",
        ),
        (
            "batch: 32",
            "bach: 32",
            "8:34: workload.bach: unknown key for digits_mlp@1; did you mean 'batch'?",
        ),
        (
            "batch: 32",
            "batch: 0",
            "8:41: workload.batch: 0 should be greater than or equal to 1",
        ),
        (
            "name: test_accuracy",
            "name: accuracy",
            "17:16: metric.name: the workload has no \"accuracy\"; did you mean 'test_accuracy'?",
        ),
        ("margin: 0.005", "margin: 0", "17:39: metric.margin: 0 should be greater than 0"),
        ("margin: 0.005", "margin: -1", "17:39: metric.margin: -1 should be greater than 0"),
        (
            "margin: 0.005",
            "margin: 5",
            (
                "17:39: metric.margin: 5 takes in the whole range of test_accuracy (0 to 1 "
                "fraction): no two arms could differ by it; should be the difference that would "
                "matter"
            ),
        ),
        (
            "name: test_accuracy, margin: 0.005",
            "name: test_loss, margin: 2.4",
            (
                "17:35: metric.margin: 2.4 takes in the whole range of test_loss (0 to 2.303 nats):"
                " no two arms could differ by it; should be the difference that would matter"
            ),
        ),
        (
            "{optimizer: sgd, momentum: 0.9}",
            "{lr: 0.2}",
            f"9:9: recipe.optimizer: is missing; {OPTIMIZERS} (in every arm)",
        ),
        (
            "margin: 0.005",
            "margine: 0.005",
            "17:31: metric.margine: unknown key; did you mean 'margin'?",
        ),
        ("study: Warm restarts on digits", "study: 2024", "2:8: study: 2024 should be text"),
        ("This one.", "' '", "4:13: hypothesis: is empty; should say something"),
        ("question: Which?\n", "", "2:1: 'question' is missing"),
        (
            "baseline: cosine",
            "baselin: cosine",
            "14:1: baselin: unknown key; did you mean 'baseline'?",
        ),
        ("baseline: cosine", "arms: {}", "14:1: arms: is written twice; first on line 10"),
    ],
)
def test_a_mistake_is_told_where_it_stands(old: str, new: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load(changed(old, new))
    lines = {f"study.yaml:{line}" for line in told.split("\n")}
    assert set(str(caught.value).split("\n")) == lines


def test_too_few_arms_are_told() -> None:
    for arms, some in (("{}", "no arms"), ("{cosine: {lr: 0.1}}", "one arm")):
        text = re.sub(r"arms:\n(  .*\n)+", f"arms: {arms}\n", STUDY)
        with pytest.raises(InputError, match=f"arms: {some} cannot be compared; should be at"):
            load(text)


def test_what_only_some_arms_lack_is_told_of_each() -> None:
    text = changed("recipe: {optimizer: sgd, momentum: 0.9}\n", "")
    message = r"^study\.yaml:10:3: arms\.\*\.optimizer: is missing; .* \(in every arm\)$"
    with pytest.raises(InputError, match=message) as caught:
        load(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        load(text.replace("constant: {lr: 0.1}", "constant: {lr: 0.1, optimizer: sgd}"))
    lines = str(caught.value).split("\n")
    assert ["arms.step" in lines[0], "arms.cosine" in lines[1], len(lines)] == [True, True, 2]


def test_all_mistakes_are_told_at_once() -> None:
    text = changed("momentum: 0.9", "momentumm: 0.9").replace("steps: 60", "steps: x")
    text = text.replace("seeds: 3", "seeds: 1").replace(
        "peak: 0.1}}\nbaseline", "peek: 1}}\nbaseline"
    )
    with pytest.raises(InputError) as caught:
        load(text)
    assert [line.partition(": ")[0] for line in str(caught.value).split("\n")] == [
        "study.yaml:9:26",
        "study.yaml:13:35",
        "study.yaml:15:8",
        "study.yaml:16:8",
    ]


def test_a_study_is_told_from_a_recipe() -> None:
    plan = load()
    assert load_any("study.yaml") == ("study", plan.canonical(), plan.hash)
    Path("recipe.yaml").write_text("optimizer: sgd")
    kind, canonical, digest = load_any(Path("recipe.yaml"))
    assert (kind, canonical["optimizer"], len(digest)) == ("recipe", "sgd@1", 64)
    Path("study.yaml").write_text("arms: 3")
    with pytest.raises(InputError, match=r"^study\.yaml:1:1: 'study' is missing\n"):
        load_any("study.yaml")


def test_a_plan_can_be_given_as_a_mapping() -> None:
    source: dict[str, Any] = {
        "study": "A title",
        "question": "Which?",
        "hypothesis": "This one.",
        "why": "To know.",
        "workload": "digits_mlp",
        "arms": {"a": {"optimizer": "sgd"}, "b": {"optimizer": "adamw"}},
        "baseline": "a",
        "seeds": 2,
        "steps": 5,
        "metric": {"name": "test_loss", "margin": 0.1},
    }
    plan = Plan.load(copy.deepcopy(source))
    assert plan.workload == {"workload": "digits_mlp@1", "hidden": 64, "batch": 64}
    source["arms"]["b"]["lr"] = -1
    with pytest.raises(InputError, match=r"^arms\.b\.lr: -1 should be greater than or equal to 0$"):
        Plan.load(source)


def test_what_the_arms_might_not_mean_is_told_once_and_nothing_of_what_is_swept() -> None:
    text = changed("constant: {lr: 0.1}", "constant: {lr: 7, regime: [plateau, plateau]}")
    text = text.replace(
        "momentum: 0.9}", "momentum: 0.9, weight_decay: 0, regime: [restart_trigger]}"
    )
    text = text.replace("step: {lr: {schedule: step, peak: 0.1}}", "step: {lr: 0.2}")
    found = [(w.code, w.path) for w in warnings_of(read_text(text, "s.yaml"))]
    assert found == [
        ("RH021", "recipe.regime[0]"),
        ("RH019", "arms.constant.lr"),
        ("RH023", "arms.constant.regime[1]"),
    ]
    text = (
        text.replace("peak: 0.1", "peak: 0.2") + "sweep: {key: lr, values: [1, 7]}\njudge: width\n"
    )
    found = [(w.code, w.path) for w in warnings_of(read_text(text, "s.yaml"))]
    assert found == [("RH021", "recipe.regime[0]"), ("RH023", "arms.constant.regime[1]")]
