"""The guide's page on regimes runs as it stands, and says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.references.table import strangers_gone

import rheostat as rs
from rheostat.recipes.decisions import decisions
from rheostat.record.run import RunRecord
from rheostat.regimes.grants import Terms
from rheostat.regimes.safeguard import Care

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "regimes.md"
TEXT = PAGE.read_text("utf-8")


def test_the_page_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "the_guide"}
    with strangers_gone():
        for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
            exec(block, names)
    watched = decisions(RunRecord.read("runs/watched"))
    assert any(one.done and one.done["kind"] == "roll_back" for one in watched)
    told = capsys.readouterr().out
    assert "300 careful accepted" in told
    assert "is usual" in told
    model = names["model"]
    assert torch.isfinite(model.weight).all()
    assert (model.weight - 1).abs().max() < 0.1
    by_name = {group["param_names"][0]: group for group in names["optimizer"].param_groups}
    assert sorted({g["lr_factor"] for g in by_name.values()}) == [1 / 8, 1.0]
    assert names["decay"] == pytest.approx(0.025)


def test_a_controller_is_ten_lines() -> None:
    block = next(b for b in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "careful" in b)
    body = block.partition("def decide")[2].partition("    return Controller")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10


def test_every_controller_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert sorted(rows) == [c.name for c in rs.components("controller") if c.ours]


def test_the_numbers_on_the_page_are_the_defaults() -> None:
    terms, care = Terms(), Care()
    bounds = terms.bounds
    assert (bounds.floor, bounds.ceiling, bounds.rate, bounds.smoothing) == (1 / 64, 64, 0.5, 0.5)
    assert (terms.cooldown, terms.history, terms.budget, terms.deaf) == (20, 96, 48, 200)
    assert (terms.trial_from, terms.convinced) == (0.9, 1.0)
    assert (care.every, care.survive, care.streak, care.persist) == (100, 50, 5, 10)
    assert (care.backoff, care.hold, bounds.ease) == (1 / 8, 20, 1 / 32)
