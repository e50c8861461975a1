"""Runs killed at random moments go on from their last checkpoint to the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rheostat.checkpoint.compare import differences
from rheostat.checkpoint.generations import TEMPORARY
from rheostat.checkpoint.load import newest

KILLED = Path(__file__).with_name("killed.py")


@pytest.mark.parametrize(
    "kills", [5, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.faults])]
)
def test_killed_runs_end_with_the_bits_of_an_undisturbed_one(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, str(KILLED), str(tmp_path), str(kills), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unfinished, *lines = done.stdout.splitlines()
    assert int(unfinished) >= kills // 10, "kills that meet no save prove nothing"
    runs = [line.split() for line in lines]
    assert len(runs) == 4
    for name, steps in runs:
        one = newest(tmp_path / name, fall_back=False)
        other = newest(tmp_path / "undisturbed" / name, fall_back=False)
        assert one is not None
        assert other is not None
        assert one.step == other.step == int(steps) >= 3
        assert differences(one, other) == []
        assert not list((tmp_path / name).glob(f"{TEMPORARY}*"))
