"""The page on schedules: its code runs, and its table names every schedule there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.references.schedules import SAMPLES

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "schedules.md"


def test_its_code_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert "1000 1 2000 " in capsys.readouterr().out
    assert names["theirs"].origin.component == "one_cycle@1"


def test_its_table_names_every_schedule_once() -> None:
    rows = re.findall(r"^\| [a-z -]+ \| (`.*`) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(SAMPLES)
