"""The page on signals: its code runs, and its table is that of the registry."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from tests.references.table import strangers_gone

import rheostat as rs

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "signals.md"


def test_its_code_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "signals_page"}
    with strangers_gone():
        for at, block in enumerate(blocks):
            exec(block, names)
            if at == 3:
                assert math.isfinite(names["values"]["train_validation_gap"])
        out = capsys.readouterr().out
        assert re.match(r"\{'gradient_norm': 0\.\d+, 'update_ratio': 0\.00", out)
        assert names["again"].state_dict()["memory"] == names["saved"]["memory"]


def test_its_table_names_every_signal_with_its_unit_and_cost() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    made = {c.name: c.factory() for c in rs.components("signal") if c.ours}
    assert sorted(rows) == sorted((name, one.unit, one.cost) for name, one in made.items())
