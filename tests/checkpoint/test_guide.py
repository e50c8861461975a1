"""The guide's page on checkpoints runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.conftest import same_tensors

from rheostat.checkpoint.generations import generations
from rheostat.checkpoint.load import newest

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "checkpoints.md"


@pytest.fixture
def blocks() -> list[str]:
    """The Python of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_loop_goes_on_where_it_was_and_plain_code_reads_it(blocks: list[str]) -> None:
    loop, plain = blocks
    first: dict[str, Any] = {}
    exec(loop, first)
    second: dict[str, Any] = {}
    exec(loop, second)
    assert (first["first"], second["first"]) == (0, 100)
    assert torch.equal(first["model"].weight, second["model"].weight)
    assert [found.step for found in generations(first["directory"])] == [80, 100]
    read: dict[str, Any] = {}
    exec(plain, read)
    found = newest(first["directory"])
    assert found is not None
    assert read["documents"] == found.documents == {"progress": {"batches": 100}}
    same_tensors(read["tensors"]["model"], found.tensors["model"])


def test_plain_code_is_short_needs_no_rheostat_and_finds_damage(blocks: list[str]) -> None:
    loop, plain = blocks
    lines = [line for line in plain.splitlines() if line.strip()]
    assert len([line for line in lines if "import" not in line]) <= 10
    assert "rheostat" not in plain
    names: dict[str, Any] = {}
    exec(loop, names)
    file = next(names["directory"].glob("*-step-100")) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(AssertionError, match=r"model\.safetensors"):
        exec(plain, {})


def test_the_commands_of_the_page_are_all_there_are() -> None:
    from rheostat.cli.checkpoint import checkpoint_app

    told = set(re.findall(r"^rheostat checkpoint (\w+)", PAGE.read_text("utf-8"), re.MULTILINE))
    assert told == {command.name for command in checkpoint_app.registered_commands}
