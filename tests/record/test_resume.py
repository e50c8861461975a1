"""A run that was stopped goes on in its log: what was superseded stays, and is not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from rheostat.core.errors import InputError
from rheostat.record.log import read_events
from rheostat.record.run import LOG_NAME, RunRecord, compact_run
from rheostat.record.writer import BLOCK, RunWriter

HEADER = {"recipe_hash": "a", "facts": {"pid": 1}}


def _steps(writer: RunWriter, first: int, last: int, shift: float = 0.0) -> None:
    for step in range(first, last):
        writer.step(step, {"loss": step + shift}, f"batch {step}")
        if step % 3 == 0:
            writer.event("skipped", {"step": step, "reason": f"{shift}"})


def _whole(directory: Path, last: int) -> RunRecord:
    with RunWriter(directory, HEADER) as writer:
        _steps(writer, 0, last)
        writer.finish("done", {}, "f")
    return RunRecord.read(directory)


@pytest.mark.parametrize("at", [0, 1, 3, 4, 7])
def test_it_reads_as_one_that_never_stopped(tmp_path: Path, at: int) -> None:
    with RunWriter(tmp_path / "run", HEADER) as writer:
        _steps(writer, 0, at)
        _steps(writer, at, 7, shift=0.5)  # superseded
    with (tmp_path / "run" / LOG_NAME).open("ab") as log:
        log.write(b'{"seq":99,"ki')  # torn, as by a kill
    for _ in range(2):
        with RunWriter.resume(tmp_path / "run", at, {"why": "test"}, {"recipe_hash": "a"}) as again:
            _steps(again, at, 10)
    with RunWriter.resume(tmp_path / "run", 9, {}, {}) as again:
        _steps(again, 9, 11)
        again.finish("done", {}, "f")
    whole, found = _whole(tmp_path / "whole", 11), RunRecord.read(tmp_path / "run")
    assert found.steps.tolist() == list(range(11))
    assert found.series["loss"].tolist() == list(map(float, range(11)))
    assert found.content_hash == whole.content_hash
    assert [e.fields["step"] for e in found.events if e.kind == "resume"] == [at, at, 9]
    compact_run(tmp_path / "run")
    compacted = RunRecord.read(tmp_path / "run")
    assert compacted.notes == ()
    assert compacted.content_hash == whole.content_hash
    kinds = [event.kind for event in read_events(tmp_path / "run" / LOG_NAME)]
    assert kinds.count("skipped") > len([e for e in whole.events if e.kind == "skipped"])


def test_a_block_is_cut_where_the_run_goes_on(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", HEADER) as writer:
        for step in range(BLOCK + 10):
            writer.step(step, {"loss": 1.0, "old": 2.0} if step > BLOCK else {"loss": 1.0})
    compact_run(tmp_path / "run")
    with RunWriter.resume(tmp_path / "run", 100, {}, {}) as again:
        again.step(100, {"loss": 3.0})
    found = RunRecord.read(tmp_path / "run")
    assert "the log was read in its place" in found.notes[0], "the series file is of before"
    assert found.steps.tolist() == list(range(101))
    assert found.series["loss"].tolist() == [1.0] * 100 + [3.0]
    assert list(found.series) == ["loss"], "a series that was superseded whole is none"


def test_what_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no event log"):
        RunWriter.resume(tmp_path, 0, {}, {})
    RunWriter(tmp_path / "run", HEADER).close()
    with pytest.raises(InputError, match="recorded with another recipe_hash"):
        RunWriter.resume(tmp_path / "run", 0, {}, {"recipe_hash": "b"})
    assert [e.kind for e in read_events(tmp_path / "run" / LOG_NAME)] == ["start"]
    _whole(tmp_path / "done", 1)
    with pytest.raises(InputError, match="is finished: it cannot go on"):
        RunWriter.resume(tmp_path / "done", 1, {}, {})
    (tmp_path / "run" / LOG_NAME).write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        RunWriter.resume(tmp_path / "run", 0, {}, {})
    with (
        RunWriter(tmp_path / "other", HEADER) as writer,
        pytest.raises(ValueError, match="written by the run itself"),
    ):
        writer.event("resume", {})
