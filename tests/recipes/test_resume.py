"""The contract: a run that was stopped and resumed in a new process is the run that never was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.recipes.resumed import AVERAGES, Crash, optimizers, stop, train

from rheostat.checkpoint.compare import differences
from rheostat.checkpoint.generations import FOLDER, generations
from rheostat.checkpoint.load import newest
from rheostat.record.run import RunRecord

RESUMED = Path(__file__).with_name("resumed.py")
SAMPLE = [
    *("sgd", "adamw-master", "schedule_free_adamw", "muon", "prodigy", "soap-stochastic"),
    *("adamw-ema", "adamw-regime"),
]
ALL = [
    *(
        f"{name}{option}"
        for name in optimizers()
        for option in ("", "-master", "-stochastic", "-regime")
    ),
    *(f"adamw-{name}" for name in AVERAGES),
]


@pytest.mark.parametrize(
    "cases", [SAMPLE, pytest.param(ALL, marks=pytest.mark.slow)], ids=["sample", "all"]
)
def test_a_resumed_run_is_the_same_run_to_the_bit(tmp_path: Path, cases: list[str]) -> None:
    for case in cases:
        train(tmp_path / "whole" / case, case)
        with pytest.raises(Crash):
            train(tmp_path / "stopped" / case, case, crash=True)
    command = [sys.executable, "-W", "error", str(RESUMED), str(tmp_path / "stopped"), *cases]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for case in cases:
        whole, stopped = tmp_path / "whole" / case, tmp_path / "stopped" / case
        one, other = newest(whole / FOLDER), newest(stopped / FOLDER)
        assert one is not None
        assert other is not None
        assert len(generations(stopped / FOLDER)) == 2, "it was never saved half-way"
        assert differences(one, other) == [], case
        first, second = RunRecord.read(whole), RunRecord.read(stopped)
        resumed = [event.fields["step"] for event in second.events if event.kind == "resume"]
        assert resumed == [stop(case)]
        assert first.content_hash == second.content_hash, case
