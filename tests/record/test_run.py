"""A run reads back bit for bit, whatever ended it, and its hash covers all but the facts."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.core.errors import InputError, MachineError
from rheostat.record import run
from rheostat.record.log import EventLog, read_events
from rheostat.record.run import LOG_NAME, SERIES_NAME, RunRecord, compact_run
from rheostat.record.writer import BLOCK, RunWriter

HEADER = {"recipe": {"lr": 0.1}, "seed": 3, "facts": {"pid": 1}}


def bits(values: object) -> bytes:
    return np.asarray(values, dtype=np.float64).tobytes()


def write(
    directory: Path,
    *,
    steps: int = 600,
    header: Mapping[str, Any] = HEADER,
    facts: Mapping[str, Any] | None = None,
    batch: str = "b",
    event: Mapping[str, Any] | None = None,
    scale: float = 1.0,
    status: str = "done",
    metric: float = 0.5,
    fingerprint: str = "f",
) -> RunRecord:
    with RunWriter(directory, header) as writer:
        for step in range(steps):
            writer.step(step, {"lr": scale / (step + 1), "loss": math.exp(-step)}, f"{batch}{step}")
            if step == 300:
                writer.event("restart", event or {"step": step})
        writer.finish(status, {"accuracy": metric}, fingerprint, facts)
    return RunRecord.read(directory)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(), st.floats(), st.none() | st.text(max_size=3)), max_size=20))
def test_floats_come_back_bit_for_bit(rows: list[tuple[float, float, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        with RunWriter(directory, HEADER) as writer:
            for step, (one, two, batch) in enumerate(rows):
                writer.step(step, {"one": one, "two": two}, batch)
        for _ in range(2):  # from the log, then from Parquet
            record = RunRecord.read(directory)
            assert record.notes == ()
            assert record.batches == tuple(row[2] or "" for row in rows)
            assert record.steps.tolist() == list(range(len(rows)))
            for index, name in enumerate(("one", "two")):
                # One NaN stands for all: which bits a NaN has is no result.
                values = [math.nan if math.isnan(row[index]) else row[index] for row in rows]
                assert bits(record.series.get(name, [])) == bits(values)
            compact_run(directory)


def test_weird_floats_by_name(tmp_path: Path) -> None:
    weird = [5e-324, -5e-324, -0.0, 0.0, math.nan, math.inf, -math.inf, 1e308, 0.1 + 0.2]
    with RunWriter(tmp_path / "run", HEADER) as writer:
        for step, value in enumerate(weird):
            writer.step(step, {"x": np.float64(value)})
        writer.finish("diverged", {"loss": math.nan, "best": -math.inf, "zero": -0.0}, "f")
    record = RunRecord.read(tmp_path / "run")
    assert bits(record.series["x"]) == bits(weird)
    assert bits([*record.metrics.values()]) == bits([-math.inf, math.nan, -0.0])
    assert list(record.metrics) == ["best", "loss", "zero"]

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not strict JSON")

    for line in (tmp_path / "run" / LOG_NAME).read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_everything_that_was_given_is_in_the_record(tmp_path: Path) -> None:
    record = write(tmp_path / "run", facts={"seconds": 2.5})
    assert record.header == HEADER
    assert record.facts == {"seconds": 2.5}
    assert (record.status, record.metrics, record.fingerprint) == ("done", {"accuracy": 0.5}, "f")
    assert [(event.kind, event.fields) for event in record.events] == [("restart", {"step": 300})]
    assert record.batches[599] == "b599"
    with pytest.raises(ValueError, match="read-only"):
        record.series["lr"][0] = 1.0


def test_steps_are_written_in_blocks_and_an_event_comes_after_its_steps(tmp_path: Path) -> None:
    write(tmp_path / "run")
    shape = [
        (event.kind, event.fields.get("first"), event.fields.get("count"))
        for event in read_events(tmp_path / "run" / LOG_NAME)
    ]
    assert shape == [
        ("start", None, None),
        ("steps", 0, BLOCK),
        ("steps", BLOCK, 301 - BLOCK),
        ("restart", None, None),
        ("steps", 301, BLOCK),
        ("steps", 301 + BLOCK, 599 - 300 - BLOCK),
        ("finish", None, None),
    ]


def test_steps_may_jump_and_names_may_come_and_go(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", HEADER) as writer:
        writer.step(0, {"a": 1.0})
        writer.step(1, {"a": 2.0, "b": 3.0})
        writer.step(7, {"a": 4.0, "b": 5.0})
        writer.step(3, {})
    record = RunRecord.read(tmp_path / "run")
    assert record.steps.tolist() == [0, 1, 7, 3]
    assert bits(record.series["a"]) == bits([1.0, 2.0, 4.0, math.nan])
    assert bits(record.series["b"]) == bits([math.nan, 3.0, 5.0, math.nan])


def test_equal_runs_have_equal_hashes_whatever_their_facts(tmp_path: Path) -> None:
    one = write(tmp_path / "one", facts={"seconds": 1.0}, event={"step": 300, "facts": 1})
    two = write(
        tmp_path / "two",
        header={**HEADER, "facts": {"pid": 2, "host": "else"}},
        facts={"seconds": 9.0},
        event={"step": 300, "facts": 2},
    )
    assert one.content_hash == two.content_hash
    compact_run(tmp_path / "two")
    assert RunRecord.read(tmp_path / "two").content_hash == one.content_hash
    compact_run(tmp_path / "one")
    assert (tmp_path / "one" / SERIES_NAME).read_bytes() == (
        tmp_path / "two" / SERIES_NAME
    ).read_bytes()


def test_the_hash_does_not_depend_on_when_the_buffer_was_written(tmp_path: Path) -> None:
    for name, often in (("one", False), ("two", True)):
        with RunWriter(tmp_path / name, HEADER) as writer:
            for step in range(10):
                writer.step(step, {"loss": 1.0 / (step + 1)})
                if often:
                    writer.flush()
            writer.finish("done", {}, "f")
    one, two = (RunRecord.read(tmp_path / name).content_hash for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 599},
        {"header": {**HEADER, "seed": 4}},
        {"batch": "c"},
        {"event": {"step": 301}},
        {"scale": 1.0000000000000002},
        {"status": "diverged"},
        {"metric": 0.5000000000000001},
        {"fingerprint": "g"},
    ],
)
def test_the_hash_sees_every_other_difference(tmp_path: Path, change: dict[str, Any]) -> None:
    assert write(tmp_path / "a").content_hash != write(tmp_path / "b", **change).content_hash


def test_an_error_writes_out_the_steps_and_leaves_the_run_unfinished(tmp_path: Path) -> None:
    def fail() -> None:
        with RunWriter(tmp_path / "run", HEADER) as writer:
            for step in range(5):
                writer.step(step, {"loss": 1 / (4 - step)})

    with pytest.raises(ZeroDivisionError):
        fail()
    record = RunRecord.read(tmp_path / "run")
    assert (record.status, record.steps.size, record.metrics) == ("running", 4, {})


KILLED = """
import sys
from rheostat.record.writer import RunWriter
writer = RunWriter(sys.argv[1], {"seed": 1})
step = 0
while True:
    writer.step(step, {"loss": step / 7, "lr": 0.1}, f"{step:x}")
    step += 1
    if step % 1000 == 0:
        print(step, flush=True)
"""


@pytest.mark.parametrize("thousands", [1, 2, 5])
def test_sigkill_leaves_a_readable_log(tmp_path: Path, thousands: int) -> None:
    directory = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(directory)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        for _ in range(thousands):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
    record = RunRecord.read(directory)
    count = record.steps.size
    assert record.status == "running"
    assert count > 1000 * thousands - BLOCK  # no more than the buffer is lost
    assert bits(record.series["loss"]) == bits([step / 7 for step in range(count)])
    assert record.batches == tuple(f"{step:x}" for step in range(count))


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_damaged_parquet_file_gives_way_to_the_log(tmp_path: Path, where: str) -> None:
    whole = write(tmp_path / "run")
    compact_run(tmp_path / "run")
    path = tmp_path / "run" / SERIES_NAME
    data = bytearray(path.read_bytes())
    data[{"first": 60, "middle": len(data) // 3, "last": -1}[where]] ^= 16
    path.write_bytes(data)
    record = RunRecord.read(tmp_path / "run")
    assert record.content_hash == whole.content_hash
    assert len(record.notes) == 1
    assert f"{path} is damaged" in record.notes[0]


def test_the_parquet_file_of_another_run_gives_way_to_the_log(tmp_path: Path) -> None:
    whole = write(tmp_path / "run")
    write(tmp_path / "other", scale=2.0)
    compact_run(tmp_path / "other")
    (tmp_path / "other" / SERIES_NAME).replace(tmp_path / "run" / SERIES_NAME)
    record = RunRecord.read(tmp_path / "run")
    assert record.content_hash == whole.content_hash
    assert "another log" in record.notes[0]


def test_series_come_from_parquet_where_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "run")
    compact_run(tmp_path / "run")

    def refuse(_: object) -> None:
        raise AssertionError("the log's blocks were read")

    monkeypatch.setattr(run, "_series_of_log", refuse)
    assert RunRecord.read(tmp_path / "run").content_hash == whole.content_hash


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no event log"):
        RunRecord.read(tmp_path)
    log = EventLog.create(tmp_path / LOG_NAME)
    with pytest.raises(InputError, match="no run"):
        RunRecord.read(tmp_path)
    log.append("start", {"format": 1, "header": {}})
    log.append("finish", {"status": "done", "metrics": {}, "fingerprint": "f", "facts": {}})
    log.append("restart", {})
    log.close()
    with pytest.raises(InputError, match=r"events\.jsonl:2: the log goes on after"):
        RunRecord.read(tmp_path)


def test_steps_in_another_shape_are_refused_in_one_line(tmp_path: Path) -> None:
    log = EventLog.create(tmp_path / LOG_NAME)
    log.append("start", {"format": 1, "header": {}})
    log.append("steps", {"first": 0, "count": 1, "series": {"loss": [1.0]}})
    log.close()
    with pytest.raises(InputError, match=r"not written as this rheostat writes them \(KeyError"):
        RunRecord.read(tmp_path)


def test_a_newer_format_is_the_environments_fault(tmp_path: Path) -> None:
    log = EventLog.create(tmp_path / LOG_NAME)
    log.append("start", {"format": 2, "header": {}})
    log.close()
    with pytest.raises(MachineError, match="newer rheostat"):
        RunRecord.read(tmp_path)


def test_misuse_is_refused(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", HEADER)
    with pytest.raises(InputError, match="exists already"):
        RunWriter(tmp_path / "run", HEADER)
    with pytest.raises(InputError, match="'batch'"):
        writer.step(0, {"batch": 1.0})
    with pytest.raises(TypeError):
        writer.step(0, {"loss": None})
    with pytest.raises(ValueError, match="'steps'"):
        writer.event("steps", {})
    with pytest.raises(ValueError, match="'running'"):
        writer.finish("running", {}, "f")
    writer.finish("done", {}, "f")
    writer.close()
    for late in (
        lambda: writer.step(0, {"loss": 1.0}),
        lambda: writer.event("restart", {}),
        lambda: writer.finish("done", {}, "f"),
    ):
        with pytest.raises(ValueError, match="finished"):
            late()
    assert RunRecord.read(tmp_path / "run").steps.size == 0


def test_a_header_without_json_form_leaves_no_log(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        RunWriter(tmp_path / "run", {"seed": {1}})
    assert list((tmp_path / "run").iterdir()) == []


def test_an_unwritable_place_is_a_machine_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError, match="cannot create the folder"):
        RunWriter(tmp_path / "file" / "run", HEADER)


def test_a_full_disk_keeps_what_was_recorded_and_nothing_is_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = RunWriter(tmp_path / "run", HEADER)
    writer.step(0, {"loss": 0.0})
    writer.flush()
    writer.step(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(MachineError, match="No space left"):
            writer.flush()
        assert RunRecord.read(tmp_path / "run").steps.tolist() == [0]
    writer.step(2, {"loss": 2.0})
    writer.finish("done", {}, "f")
    assert RunRecord.read(tmp_path / "run").steps.tolist() == [0, 1, 2]


def test_a_full_disk_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail() -> None:
        with monkeypatch.context() as patch, RunWriter(tmp_path / "run", HEADER) as writer:
            writer.step(0, {"loss": 0.0})
            patch.setattr(os, "write", full)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert "No space left" in caught.value.__notes__[0]


@pytest.mark.parametrize("moment", ["during", "after"])
def test_an_interrupt_while_a_block_is_written_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    append = EventLog.append

    def interrupted(self: EventLog, kind: str, fields: Mapping[str, object]) -> None:
        if moment == "after":
            append(self, kind, fields)
        raise KeyboardInterrupt

    writer = RunWriter(tmp_path / "run", HEADER)
    for step in range(BLOCK - 1):
        writer.step(step, {"loss": float(step)})
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.step(BLOCK - 1, {"loss": float(BLOCK - 1)})
    writer.close()
    assert RunRecord.read(tmp_path / "run").steps.tolist() == list(range(BLOCK))


@pytest.mark.parametrize("ended", ["closed", "finished"])
def test_nothing_is_recorded_after_the_end(tmp_path: Path, ended: str) -> None:
    writer = RunWriter(tmp_path / "run", HEADER)
    writer.step(0, {"loss": 1.0})
    writer.close() if ended == "closed" else writer.finish("done", {}, "f")
    before = (tmp_path / "run" / LOG_NAME).read_bytes()
    for late in (
        lambda: writer.step(1, {"loss": 0.5}),
        lambda: writer.event("restart", {}),
        lambda: writer.finish("done", {}, "f"),
        writer.flush,
    ):
        with pytest.raises(InputError, match=f"the run in .*run is {ended}: nothing can") as caught:
            late()
        assert "\n" not in str(caught.value)
    writer.close()
    assert (tmp_path / "run" / LOG_NAME).read_bytes() == before


@pytest.mark.parametrize("key", ["seed", "recipe", "facts"])
def test_what_a_user_adds_replaces_no_key_of_the_record(tmp_path: Path, key: str) -> None:
    header = {"recipe": {}, "seed": 3}
    with pytest.raises(InputError, match=f"^about: the key '{key}' is the record's own; give"):
        RunWriter(tmp_path / "run", header, {"note": "mine", key: 7})
    assert not (tmp_path / "run").exists()
    RunWriter(tmp_path / "run", header, {"note": "mine"}).close()
    assert RunRecord.read(tmp_path / "run").header == {**header, "note": "mine"}
