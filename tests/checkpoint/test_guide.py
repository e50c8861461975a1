"""The guide's page on checkpoints runs as it stands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.conftest import same_tensors

from rheostat.checkpoint.generations import generations
from rheostat.checkpoint.load import newest
from rheostat.recipes.replaying import ReplayError

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "checkpoints.md"


@pytest.fixture
def blocks() -> list[str]:
    """The Python of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_loop_goes_on_where_it_was_and_plain_code_reads_it(blocks: list[str]) -> None:
    _, _, loop, plain, *_ = blocks
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


def test_the_run_goes_on_where_it_was(blocks: list[str]) -> None:
    whole: dict[str, Any] = {}
    short: dict[str, Any] = {}
    again: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(blocks[0].replace("runs/a", "runs/b"), whole)
    torch.manual_seed(0)
    stops = blocks[0].replace("if run.batches == 100:", "if run.batches == 45:")
    with pytest.raises(KeyError):
        exec(stops.replace("break", "run.save(); raise KeyError"), short)
    exec(blocks[0], again)
    assert (short["run"].batches, again["run"].batches) == (45, 100)
    assert torch.equal(again["model"].weight, whole["model"].weight)
    assert not torch.equal(short["model"].weight, whole["model"].weight)
    assert [found.step for found in generations(Path("runs/a/checkpoints"))] == [80, 100]


def test_plain_code_is_short_needs_no_rheostat_and_finds_damage(blocks: list[str]) -> None:
    _, _, loop, plain, *_ = blocks
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


def test_changes_other_libraries_and_torchs_checkpoints(blocks: list[str]) -> None:
    *_, changes, foreign, distributed = blocks
    changed: dict[str, Any] = {}
    exec(changes, changed)
    names = [group["param_names"] for group in changed["split"].param_groups]
    assert names == [["head.weight", "head.bias"], ["body.weight", "body.bias"]]
    other: dict[str, Any] = {}
    exec(foreign, other)
    for param in other["model"].parameters():
        same_tensors(other["again"].state[param], other["theirs"].state[param])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no process group
        exec(distributed, {})


def test_the_commands_of_the_page_are_all_there_are() -> None:
    from rheostat.cli.checkpoint import checkpoint_app

    told = set(re.findall(r"^rheostat checkpoint (\w+)", PAGE.read_text("utf-8"), re.MULTILINE))
    assert told == {command.name for command in checkpoint_app.registered_commands}


def test_the_replay_repeats_what_was_recorded(blocks: list[str]) -> None:
    whole: dict[str, Any] = {}
    exec(blocks[1], whole)
    assert whole["run"].batches == 35
    wrong = blocks[1].replace("runs/c", "runs/d")
    wrong = wrong.replace(
        "    for indices in run.replay", "    data.mul_(2)\n    for indices in run.replay"
    )
    with pytest.raises(ReplayError, match=r"step 2\d differs from the record: batch"):
        exec(wrong, {})
