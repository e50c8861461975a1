"""The commands about files: what they print and how they leave."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rheostat.cli.__main__ import main
from rheostat.recipes.recipe import Recipe

Run = Callable[..., tuple[int, str, str]]

NET = """
import torch
def build():
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
def wrong():
    return 3
def broken():
    raise RuntimeError("no weights")
"""


@pytest.fixture
def rheostat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Runs the console script's function in this process."""
    (tmp_path / "recipe_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rheostat", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        assert "Traceback" not in said.err
        return left.value.code, said.out, said.err

    return run


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def test_validate(rheostat: Run) -> None:
    path = write("r.yaml", "optimizer: prodigy\nlr: 0.5\n")
    code, out, _ = rheostat("validate", path)
    assert code == 0
    warning, valid = out.splitlines()
    assert warning.startswith("warning: r.yaml:2:5: lr: peaks at 0.5")
    assert valid == f"r.yaml: a valid recipe, hash {Recipe.load(path).hash[:12]}"
    code, out, _ = rheostat("validate", path, "--set", "lr=1", "--json")
    shown = json.loads(out)
    assert (code, shown["problems"], shown["canonical"]["lr"]) == (0, [], 1.0)
    code, out, err = rheostat("validate", path, "--set", "lr=-1", "--set", "seeed=1")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "r.toml",
            'optimizer = "adamww"\nlr = 1\nbetas = [0.9, 2]\n',
            [
                ("error", None, "r.toml", 1, 13, "optimizer"),
                ("error", None, "r.toml", 3, 15, "betas[1]"),
            ],
        ),
        (
            "r.yaml",
            "optimizer: sgd\nlr: 30\npolicy: [{match: {name: 'x*'}}]\n",
            [
                ("warning", "RH019", "r.yaml", 2, 5, "lr"),
                ("error", "RH016", "r.yaml", 3, 18, "policy[0].match"),
            ],
        ),
        ("r.yaml", "lr: 1\nlr: 2", [("error", None, "r.yaml", 2, 1, "")]),
        ("s.yaml", "study: x\narms: {a: {}}\nseeds: 1", None),
    ],
)
def test_validate_tells_programs_of_a_bad_file(
    rheostat: Run, name: str, text: str, told: list[tuple[Any, ...]] | None
) -> None:
    model = [] if told is None else ["--model", "recipe_net:build"]
    code, out, err = rheostat("validate", write(name, text), "--json", *model)
    assert (code, err) == (2, "")
    shown = json.loads(out)
    assert not shown["valid"]
    keys = ("severity", "code", "file", "line", "column", "key")
    found = [tuple(problem[key] for key in keys) for problem in shown["problems"]]
    assert found == told if told is not None else len(found) > 5
    assert all(problem["message"] for problem in shown["problems"])


def test_validate_against_a_model(rheostat: Run) -> None:
    path = write("r.yaml", "optimizer: adamw\npolicy: [{match: {name: 'x*'}, lr: 1}]\n")
    assert rheostat("validate", path)[0] == 0
    code, _, err = rheostat("validate", path, "--model", "recipe_net:build")
    assert code == 2
    assert "claims no parameter" in err
    assert "(RH016)" in err
    for model, said in [
        ("recipe_net", "should be MODULE:FACTORY"),
        ("no_such_module:build", "ModuleNotFoundError"),
        ("recipe_net:no", "AttributeError"),
        ("recipe_net:wrong", "gave an object of type int"),
        ("recipe_net:broken", "RuntimeError: no weights"),
    ]:
        code, out, err = rheostat("validate", path, "--model", model)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1


def test_explain(rheostat: Run) -> None:
    path = write("r.yaml", "optimizer: adamw\nlr: {schedule: cosine, peak: 0.1}\n")
    options = ("--model", "recipe_net:build", "--html", "out.html")
    code, out, err = rheostat("explain", path, *options)
    assert code == 2
    assert "needs a horizon" in err
    assert "--steps" in err
    code, out, err = rheostat("explain", path, *options, "--steps", "100", "--ranks", "2")
    assert (code, err) == (0, "")
    assert "state on one of 2" in out
    page = Path("out.html").read_text()
    assert "<svg" in page
    assert "betas [0.9, 0.999], eps 1e-08" in page
    assert "▁" not in page  # the curve is drawn, and not in characters besides
    code, out, _ = rheostat("explain", path, *options[:2], "--steps", "100", "--json")
    assert json.loads(out)["totals"]["parameters"] == 28


def test_diff_speaks_of_canonical_forms(rheostat: Run) -> None:
    one = write("a.yaml", "optimizer: sgd\nlr: 0.1\n")
    same = write("b.toml", 'lr = 1e-1\noptimizer = "sgd@1"\n')
    other = write("c.yaml", "optimizer: sgd\nlr: {schedule: constant, peak: 0.1}\nsteps: 5\n")
    assert rheostat("diff", one, same) == (0, "", "")
    code, out, _ = rheostat("diff", one, other)
    assert code == 1
    assert out.splitlines() == [
        "- lr: 0.1",
        '+ lr: {"schedule": "constant@1", "peak": 0.1, "warmup": 0}',
        "+ steps: 5",
    ]
    code, out, _ = rheostat("diff", one, other, "--json")
    assert code == 1
    assert json.loads(out)[1] == {"key": "steps", "right": 5}
    assert rheostat("diff", one, "missing.yaml")[0] == 2


def test_migrate_shows_the_difference(rheostat: Run) -> None:
    path = write("r.yaml", "optimizer: sgd\nlr: {schedule: cosine, peak: 0.1}\n")
    code, out, err = rheostat("migrate", path)
    assert (code, err) == (0, "")
    assert json.loads(out) == Recipe.load(path).canonical()
    assert rheostat("migrate", path, "--write")[0] == 0
    assert Recipe.load(path).canonical() == json.loads(Path(path).read_text())


def test_schema_is_json(rheostat: Run) -> None:
    for kind in ("recipe", "study"):
        code, out, _ = rheostat("schema", kind)
        assert code == 0
        assert json.loads(out)["$schema"].endswith("2020-12/schema")
