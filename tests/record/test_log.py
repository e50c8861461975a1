"""A log survives a crash at any byte, and no other change goes unseen."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.core.errors import InputError, MachineError
from rheostat.record.log import Event, EventLog, read_events

KINDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
# Strings that look like the frame of a line are the ones that could fool its reader.
TEXTS = st.text() | st.sampled_from(['"}', '},"crc":"00000000"}', "\n", '{"seq":0', "\x00", "é"])
FIELDS = st.dictionaries(TEXTS, st.integers() | TEXTS | st.lists(st.booleans()), max_size=4)
EVENTS = st.lists(st.tuples(KINDS, FIELDS), min_size=1, max_size=5)

SAMPLE: list[tuple[str, dict[str, Any]]] = [
    ("start", {"seed": 3}),
    ("steps", {"loss": [1.5, "nan"]}),
    ("finish", {}),
]


def written(path: Path, events: list[tuple[str, dict[str, Any]]]) -> bytes:
    path.unlink(missing_ok=True)
    log = EventLog.create(path)
    for kind, fields in events:
        log.append(kind, fields)
    log.close()
    return path.read_bytes()


def as_events(events: list[tuple[str, dict[str, Any]]]) -> list[Event]:
    return [Event(seq, kind, fields) for seq, (kind, fields) in enumerate(events)]


@settings(max_examples=50)
@given(EVENTS)
def test_what_is_written_is_read_one_line_each(events: list[tuple[str, dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        data = written(path, events)
        assert data.isascii()
        assert data.count(b"\n") == len(events)
        assert read_events(path) == as_events(events)


@settings(max_examples=50)
@given(EVENTS, st.data())
def test_a_log_cut_anywhere_reads_as_its_whole_events_and_goes_on(
    events: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        whole = written(path, events)
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        left = whole[:cut].count(b"\n")
        assert read_events(path) == as_events(events)[:left]
        log = EventLog.reopen(path)
        for kind, fields in events[left:]:
            log.append(kind, fields)
        log.close()
        assert path.read_bytes() == whole


def test_every_cut_of_a_small_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = written(path, SAMPLE)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert read_events(path) == as_events(SAMPLE)[: whole[:cut].count(b"\n")]


def test_every_flip_of_a_bit_is_seen_and_the_line_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = written(path, SAMPLE)
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            line = whole[:position].count(b"\n") + 1
            with pytest.raises(InputError, match=rf"{path}:{line}: "):
                read_events(path)


@settings(max_examples=50)
@given(EVENTS, st.data())
def test_any_other_byte_in_any_log_is_seen(
    events: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        whole = bytearray(written(path, events))
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(whole)
        with pytest.raises(InputError):
            read_events(path)
        with pytest.raises(InputError):
            EventLog.reopen(path)


@pytest.mark.parametrize(
    ("rearranged", "line", "what"),
    [
        ([0, 2], 2, "missing"),
        ([1, 2], 1, "missing"),
        ([0, 0, 1, 2], 2, "doubled"),
        ([0, 1, 1], 3, "doubled"),
        ([0, 2, 1], 2, "missing"),
    ],
)
def test_lines_lost_doubled_or_swapped_are_seen(
    tmp_path: Path, rearranged: list[int], line: int, what: str
) -> None:
    path = tmp_path / "log"
    lines = written(path, SAMPLE).splitlines(keepends=True)
    path.write_bytes(b"".join(lines[index] for index in rearranged))
    with pytest.raises(InputError, match=rf"log:{line}: .*{what}"):
        read_events(path)


def test_a_log_is_started_once_and_a_missing_one_is_named(tmp_path: Path) -> None:
    written(tmp_path / "log", SAMPLE)
    with pytest.raises(InputError, match="exists already"):
        EventLog.create(tmp_path / "log")
    for use in (read_events, EventLog.reopen):
        with pytest.raises(InputError, match=f"no event log at {tmp_path}/none"):
            use(tmp_path / "none")
    with pytest.raises(MachineError, match="cannot create"):
        EventLog.create(tmp_path / "log" / "below")


def test_misuse_is_refused(tmp_path: Path) -> None:
    log = EventLog.create(tmp_path / "log")
    for kind in ("", "Start", 'a"b', "a b"):
        with pytest.raises(ValueError, match="lower case"):
            log.append(kind, {})
    with pytest.raises(TypeError):
        log.append("odd", {"x": {1}})
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append("late", {})
    assert read_events(tmp_path / "log") == []


def full_after(count: int) -> Callable[[int, memoryview], int]:
    """A stand-in for `os.write` on a disk with `count` bytes left."""
    write, left = os.write, [count]

    def limited(descriptor: int, data: memoryview) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(descriptor, data[: left[0]])
        left[0] -= done
        return done

    return limited


@pytest.mark.parametrize("room", [0, 1, 20])
@pytest.mark.parametrize("cuttable", [True, False])
def test_a_full_disk_keeps_whole_events_and_the_log_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, cuttable: bool
) -> None:
    path = tmp_path / "log"
    log = EventLog.create(path)
    log.append(*SAMPLE[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after(room))
        if not cuttable:

            def refuse(*_: object) -> None:
                raise OSError(errno.EIO, "refused")

            patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(MachineError, match=f"cannot write {path}: No space left.*free"):
            log.append(*SAMPLE[1])
        assert read_events(path) == as_events(SAMPLE[:1])
    log.append(*SAMPLE[1])
    log.append(*SAMPLE[2])
    log.close()
    assert read_events(path) == as_events(SAMPLE)


def test_an_interrupt_between_write_and_bookkeeping_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog.create(tmp_path / "log")
    log.append(*SAMPLE[0])
    write = os.write

    def interrupted(descriptor: int, data: memoryview) -> int:
        write(descriptor, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append(*SAMPLE[1])
    log.append(*SAMPLE[1])
    log.close()
    assert read_events(tmp_path / "log") == as_events(SAMPLE[:2])
