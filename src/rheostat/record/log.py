"""The append-only event log: one event a line, each with a running number and a checksum.

A line is strict JSON, `{"seq":0,"kind":"start","fields":{…},"crc":"xxxxxxxx"}`, where `crc`
is the CRC-32 of the text before `,"crc"`. A process that dies while it writes leaves a last
line without its newline: readers leave that torn line out, writers cut it off before they go
on. Anything else that is not as it was written is damage, and is reported as such.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rheostat.core.durable import (
    JsonObject,
    canonical_json,
    disk_errors,
    sync_directory,
    write_all,
)
from rheostat.core.errors import InputError

_KIND = re.compile(r"[a-z][a-z0-9_]*")
_LINE = re.compile(
    rb'(\{"seq":([0-9]+),"kind":"([a-z][a-z0-9_]*)","fields":(\{.*\})),"crc":"([0-9a-f]{8})"\}'
)


@dataclass(frozen=True)
class Event:
    """One event. `fields` are as in the file: NaN and infinities are strings."""

    seq: int
    kind: str
    fields: JsonObject


@dataclass(frozen=True)
class Line:
    """A line whose checksum and number are right; its JSON (`text`) is not parsed yet."""

    path: Path
    seq: int
    kind: str
    text: bytes

    def event(self) -> Event:
        """Parse the line; raise `InputError` naming file and line where it is not JSON."""
        try:
            fields = cast("JsonObject", json.loads(self.text))
        except ValueError as error:
            raise _damage(self.path, self.seq, f"it is not JSON ({error})") from error
        return Event(self.seq, self.kind, fields)


def read_events(path: Path) -> list[Event]:
    """Every whole event of the log at `path`, in order; a torn last line is left out.

    Raises `InputError` naming file and line where the log is missing or damaged (a wrong
    checksum, an event missing or doubled), `MachineError` where it cannot be read.
    """
    return [line.event() for line in scan_lines(path)]


def scan_lines(path: Path) -> list[Line]:
    """As `read_events`, with the checksums and numbers checked but the JSON left unparsed."""
    return _scan(path)[0]


class EventLog:
    """A log open for appending; one process at a time. Each append is handed to the system at
    once, so it survives the death of the process; `flush` and `close` make it survive a power
    cut. Disk errors raise `MachineError` and leave the log ending at the last whole event.
    """

    def __init__(self, path: Path, descriptor: int, seq: int, end: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        # Number of the next event and length of the file in bytes: one tuple, so that an
        # interrupt (Ctrl-C) can never part the two.
        self._position = (seq, end)
        self._torn = False

    @classmethod
    def create(cls, path: Path) -> EventLog:
        """Start a new log; raise `InputError` where there is one already."""
        with disk_errors("create", path):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
            try:
                descriptor = os.open(path, flags, 0o666)
            except FileExistsError as error:
                raise InputError(f"{path} exists already: a log is started once") from error
            try:
                sync_directory(path.parent)
            except OSError:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
        return cls(path, descriptor, 0, 0)

    @classmethod
    def reopen(cls, path: Path) -> EventLog:
        """Go on with an existing log, its torn last line cut off; errors as `read_events`."""
        lines, end = _scan(path)
        with disk_errors("open", path):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                os.ftruncate(descriptor, end)
                os.fsync(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        return cls(path, descriptor, len(lines), end)

    @property
    def next_seq(self) -> int:
        """The number that the next event gets."""
        return self._position[0]

    def append(self, kind: str, fields: Mapping[str, object]) -> None:
        """Add one event. `kind` is lower case with underscores; `fields` as `canonical_json`."""
        if not _KIND.fullmatch(kind):
            raise ValueError(f"an event's kind is lower case with underscores, not {kind!r}")
        descriptor = self._open()
        seq, end = self._position
        text = f'{{"seq":{seq},"kind":"{kind}","fields":{canonical_json(fields)}'.encode("ascii")
        line = b'%b,"crc":"%08x"}\n' % (text, zlib.crc32(text))
        with disk_errors("write", self.path):
            if self._torn:
                self._cut(descriptor)
            try:
                write_all(descriptor, line)
                self._position = (seq + 1, end + len(line))
            except BaseException:
                self._torn = True
                with contextlib.suppress(OSError):
                    self._cut(descriptor)
                raise

    def flush(self) -> None:
        """Make what was appended survive a power cut."""
        descriptor = self._open()
        with disk_errors("write", self.path):
            os.fsync(descriptor)

    def close(self) -> None:
        """Flush and close; closing twice is allowed, appending afterwards is a `ValueError`."""
        if self._descriptor is None:
            return
        descriptor = self._descriptor
        self._descriptor = None
        with disk_errors("write", self.path):
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"the log {self.path} is closed")
        return self._descriptor

    def _cut(self, descriptor: int) -> None:
        os.ftruncate(descriptor, self._position[1])
        self._torn = False


def _scan(path: Path) -> tuple[list[Line], int]:
    """The checked lines of the log, and the length in bytes up to its last whole line."""
    with disk_errors("read", path):
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"there is no event log at {path}") from error
    *whole, tail = data.split(b"\n")
    lines: list[Line] = []
    for number, raw in enumerate(whole):
        parts = _checked(raw)
        if parts is None:
            raise _damage(path, number, "its checksum does not fit its text")
        seq, kind, text = int(parts[2]), parts[3].decode("ascii"), parts[4]
        if seq != number:
            what = "is doubled" if seq < number else "is missing"
            raise _damage(path, number, f"it bears number {seq}: an event before it {what}")
        lines.append(Line(path, seq, kind, text))
    # A torn line is a beginning of a line. A whole one with a last byte that is no newline is
    # none: there the newline itself was damaged.
    if _checked(tail[:-1]) is not None:
        raise _damage(path, len(lines), "it does not end in a newline")
    return lines, len(data) - len(tail)


def _checked(raw: bytes) -> re.Match[bytes] | None:
    parts = _LINE.fullmatch(raw)
    if parts is None or zlib.crc32(parts[1]) != int(parts[5], 16):
        return None
    return parts


def _damage(path: Path, number: int, what: str) -> InputError:
    return InputError(
        f"{path}:{number + 1}: this line is damaged: {what}; "
        "restore the file from a copy, or remove the run and run it again"
    )
