"""What does not fit together: each check is told of by the guide's first recipe, not its second."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.recipes.attach import RecipeWarning
from rheostat.recipes.codes import CODES
from rheostat.recipes.fit import CHECKS, MODEL_CHECKS
from rheostat.recipes.fit_regime import REGIME_CHECKS
from rheostat.recipes.formats import read_text
from rheostat.recipes.recipe import Recipe, examine

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "validation.md"
SECTIONS = {
    found[1]: (found[2], found[3])
    for found in re.finditer(
        r"(?ms)^## (RH\d{3}): (.*?)\n(.*?)(?=^## |\Z)", GUIDE.read_text("utf-8")
    )
}


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))


def sparse() -> nn.Module:
    return nn.Sequential(nn.Embedding(4, 4, sparse=True), nn.Linear(4, 4))


def half() -> nn.Module:
    return small().to(torch.bfloat16)


def fused() -> nn.Module:
    made = nn.Module()
    made.qkv = nn.Linear(4, 12)
    made.head = nn.Linear(4, 4)
    return made


MODELS: dict[str, Callable[[], nn.Module]] = {
    "RH002": sparse,
    "RH011": half,
    "RH017": fused,
}


def told(text: str, code: str) -> list[str]:
    """The codes of all that is said of a recipe, with a model where the check needs one."""
    try:
        recipe = Recipe.load(read_text(text, "guide.yaml"))
        found = [*recipe.warnings]
        if CODES[code].model:
            found += recipe.check(MODELS.get(code, small)())
    except InputError as error:
        return re.findall(r"\((RH\d{3})\)$", str(error), re.MULTILINE) or [str(error)]
    assert all(CODES[problem.code].severity == "warning" for problem in found)
    return [problem.code for problem in found]


def test_every_code_has_its_section_and_its_check() -> None:
    assert {code: title for code, (title, _) in SECTIONS.items()} == {
        code: each.title for code, each in CODES.items()
    }
    assert {*CHECKS, *MODEL_CHECKS, *REGIME_CHECKS, "RH008", "RH016"} == set(CODES)
    for code, (_, body) in SECTIONS.items():
        assert body.lstrip().lower().startswith(CODES[code].severity), code
        assert ("Needs a model" in body) == CODES[code].model, code


@pytest.mark.parametrize("code", CODES)
def test_the_guides_recipes_are_told_of_and_let_be(code: str) -> None:
    bad, good = re.findall(r"```yaml\n(.*?)```", SECTIONS[code][1], re.DOTALL)
    assert told(bad, code) == [code]
    assert code not in told(good, code)
    assert not [line for line in told(good, code) if not re.fullmatch(r"RH\d{3}", line)]
    if code != "RH008":  # a chain that cannot be made cannot be silenced
        assert told(f"{bad}\nsilence: [{code}]", code) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "optimizer: prodigy\nlr: 0.1\n",
            (
                "r.yaml:2:5: lr: peaks at 0.1, and prodigy finds the step size itself; its peak "
                "should be 1 (d_coef makes steps larger or smaller) (RH004)"
            ),
        ),
        (
            "optimizer: sgd\npolicy:\n  - match: {role: norm}\n    optimizer: prodigy\n    lr: 2\n",
            (
                "r.yaml:5:9: policy[0].lr: peaks at 2, and prodigy finds the step size itself; its "
                "peak should be 1 (d_coef makes steps larger or smaller) (RH004)"
            ),
        ),
    ],
)
def test_a_warning_says_where(text: str, line: str) -> None:
    [warning] = Recipe.load(read_text(text, "r.yaml")).warnings
    assert warning.line == line


@pytest.mark.parametrize(
    ("code", "path"),
    [
        ("RH001", "chain[1]"),
        ("RH002", "optimizer"),
        ("RH006", "chain[0]"),
        ("RH007", "chain[1]"),
        ("RH008", "optimizer"),
        ("RH009", "lr.warmup"),
        ("RH012", "before[0]"),
        ("RH013", "before[0]"),
        ("RH014", "chain[2].start"),
        ("RH015", "precision"),
        ("RH016", "policy[0].match"),
        ("RH017", "optimizer"),
        ("RH018", "chain[1].peak_lr"),
        ("RH019", "lr"),
        ("RH020", "regime[1]"),
        ("RH021", "regime[0]"),
        ("RH022", "regime[0]"),
        ("RH023", "regime[1]"),
        ("RH024", "regime.terms.bounds.own.momentun"),
        ("RH025", "regime[0].watch"),
        ("RH026", "regime[0]"),
        ("RH027", "regime[0]"),
        ("RH028", "regime[0]"),
        ("RH029", "regime[0]"),
        ("RH030", "safeguards.on_time"),
        ("RH031", "maximize"),
    ],
)
def test_a_problem_stands_where_its_key_is_written(code: str, path: str) -> None:
    bad, _ = re.findall(r"```yaml\n(.*?)```", SECTIONS[code][1], re.DOTALL)
    model = MODELS.get(code, small)() if CODES[code].model else None
    document = read_text(bad, "guide.yaml")
    [problem] = examine(document, model=model)[1]
    assert (problem.code, problem.path) == (code, path)
    line, column = problem.position
    there = bad.splitlines()[line - 1][column - 1 :]
    assert (line, column) != (1, 1) or there.startswith(path)
    steps = [int(i) if i else key for key, i in re.findall(r"([a-z_]+)|\[(\d+)\]", path)]
    value = document.get(tuple(steps))
    written = value if isinstance(value, str) else (str(value), "1e-3", "{", "[", "true")
    assert there.startswith(written)


def test_a_warm_up_that_a_schedule_refuses_has_the_code_too() -> None:
    text = "optimizer: sgd\nlr: {schedule: scale, factor: 1, of: {schedule: cosine, peak: 1, "
    text += "warmup: 9, steps: 9}}"
    _, [problem] = examine(read_text(text, "r.yaml"))
    assert (problem.code, problem.path) == ("RH009", "lr.of.warmup")


def test_what_a_line_takes_over_is_told_where_it_is_written() -> None:
    text = "optimizer: adamw\nlr: 1\npolicy: [{match: {role: norm}, weight_decay: 0}]"
    _, problems = examine(read_text(text, "r.yaml"))
    assert [problem.line.partition(" peaks")[0] for problem in problems] == ["r.yaml:2:5: lr:"]


def test_more_than_one_is_told_in_the_plural() -> None:
    chain = {"chain": ["trace_ema", "orthogonalize"], "lr": 0.02}
    with pytest.raises(InputError, match=r"and 0\.bias and 3 more are none; give it a policy"):
        Recipe.load(chain).check(small())


def test_attach_warns_and_refuses() -> None:
    with pytest.warns(RecipeWarning, match=r"^lr: peaks at 0\.5, .*\(RH004\)$"):
        rs.attach({"optimizer": "prodigy", "lr": 0.5}, small(), steps=10)
    rs.attach({"optimizer": "prodigy", "lr": 0.5, "silence": ["RH004"]}, small(), steps=10)
    recipe = {"optimizer": "adamw", "policy": [{"match": {"name": "x.*"}, "lr": 0.1}]}
    with pytest.raises(InputError, match=r"^policy\[0\]\.match: claims no parameter.* \(RH016\)$"):
        rs.attach(recipe, small(), steps=10)
    with pytest.raises(InputError, match=r"adamw cannot take.*\(RH002\)$"):
        rs.attach({"optimizer": "adamw"}, sparse(), steps=10)


def test_silence_does_not_change_the_hash() -> None:
    plain = Recipe.load({"optimizer": "prodigy", "lr": 0.5})
    silent = Recipe.load({"optimizer": "prodigy", "lr": 0.5, "silence": ["RH004"]})
    assert plain.hash == silent.hash
    assert not silent.warnings
    assert silent.canonical()["silence"] == ["RH004"]
