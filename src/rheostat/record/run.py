"""One run on disk: written step by step, read back as a `RunRecord`.

A run is a directory. `events.jsonl` is the log: `start` (the format's number, and the header:
all that is known before step 0), `steps` blocks (columns of consecutive steps), events of any
other kind, and `finish`. A run that was stopped goes on in the same log: after a `resume` event,
what was recorded at its step and later ones is superseded, and readers leave it out.
`series.parquet`, when `compact_run` has made it, holds the columns of all blocks that count.

Whatever differs between two bit-identical runs (times, pids, hosts) belongs under the key
`"facts"` of the header, of an event or of the finish: content hashes leave that key out.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np

from rheostat.core.durable import JsonObject, content_hash, make_directory
from rheostat.core.errors import InputError, MachineError
from rheostat.record.log import Event, EventLog, Line, scan_lines
from rheostat.record.series import RESERVED, Floats, Ints, Series, read_series, write_series

LOG_NAME = "events.jsonl"
SERIES_NAME = "series.parquet"
STATUSES = ("done", "diverged")
FORMAT = 1
BLOCK = 256  # steps a line: large enough to amortise one write, small enough to lose little

FACTS = "facts"
"""The key of what content hashes leave out."""

RESUME = "resume"
"""The kind of the event with which a stopped run goes on; its `step` is the next one recorded."""

_OURS = ("start", "steps", "finish", RESUME)


class _Block:
    """Consecutive steps with the same names, not yet in the log. `seq` is the number of the
    event that they will become: nothing else is appended while a block is open."""

    def __init__(self, first: int, names: tuple[str, ...], seq: int) -> None:
        self.first = first
        self.names = names
        self.seq = seq
        self.rows: list[tuple[Any, ...]] = []  # (batch, value, value, …), values as `names`

    def fields(self) -> JsonObject:
        batches, *columns = zip(*self.rows, strict=True)
        series = dict(zip(self.names, columns, strict=True))
        count = len(self.rows)
        return {"first": self.first, "count": count, "series": series, "batches": batches}


class RunWriter:
    """Writes one run. As a context manager it writes out what is buffered when the block ends,
    also by an error; only `finish` makes the run finished.

    `header` and `about` are anything that has a JSON form: what the recorder knows, and what a
    user adds to it. Raises `InputError` where the directory holds a run already, where `about`
    has a key of the header's own, and for whatever is recorded after the end; `MachineError`
    where the disk refuses; what was recorded before stays readable.
    """

    def __init__(
        self,
        directory: str | Path,
        header: Mapping[str, object],
        about: Mapping[str, object] | None = None,
    ) -> None:
        self.directory = Path(directory)
        for key in about or {}:
            if key in header or key == FACTS:
                raise InputError(
                    f"about: the key {key!r} is the record's own; give yours another name"
                )
        make_directory(self.directory)
        path = self.directory / LOG_NAME
        self._begin(EventLog.create(path))
        try:
            self._log.append("start", {"format": FORMAT, "header": {**header, **(about or {})}})
        except BaseException:
            with contextlib.suppress(OSError):
                self._log.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    @classmethod
    def resume(
        cls,
        directory: str | Path,
        step: int,
        fields: Mapping[str, object],
        same: Mapping[str, object],
    ) -> RunWriter:
        """Go on with the run in `directory`: the next step that is recorded is `step`.

        Nothing is removed. What the log holds of that step and later ones is superseded by the
        `resume` event, which bears `fields`, and is not read any more.

        Raises:
            InputError: there is no run, it is finished, its log is damaged, or its header says
                something else than `same`.
            MachineError: the disk refuses.
        """
        writer = cls.__new__(cls)
        writer.directory = Path(directory)
        writer._begin(EventLog.reopen(writer.directory / LOG_NAME))
        try:
            lines = scan_lines(writer._log.path)
            if not lines or lines[0].kind != "start" or lines[-1].kind == "finish":
                raise InputError(
                    f"the run in {directory} is {'finished' if lines else 'empty'}: it cannot go "
                    "on; begin another run in a directory of its own"
                )
            header = lines[0].event().fields["header"]
            if differ := [key for key in same if header.get(key) != same[key]]:
                raise InputError(
                    f"the run in {directory} was recorded with another {', '.join(differ)}: "
                    "begin another run in a directory of its own"
                )
            writer._log.append(RESUME, {**fields, "step": step})
        except BaseException:
            with contextlib.suppress(OSError):
                writer._log.close()
            raise
        return writer

    def _begin(self, log: EventLog) -> None:
        self._log = log
        self._block: _Block | None = None
        self._ended = ""  # how, once nothing more can be recorded

    def step(self, step: int, values: Mapping[str, float], batch: str | None = None) -> None:
        """Record one step: its values by name, bit for bit, and its batch's fingerprint.

        Buffered: the log gets `BLOCK` steps at a time. A name that is absent at some steps
        reads as NaN there. `step` and `batch` are taken as names by the columns of that name.
        """
        self._refuse_after_end()
        row = (batch or "", *map(float, values.values()))
        block = self._block
        names = tuple(values)
        if block is None or step != block.first + len(block.rows) or names != block.names:
            block = self._new_block(step, names)
        block.rows.append(row)
        if len(block.rows) >= BLOCK:
            self._write_block()

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """Record an event at once, after the steps that came before it."""
        if kind in _OURS:
            raise ValueError(f"events of the kind {kind!r} are written by the run itself")
        self._refuse_after_end()
        self._write_block()
        self._log.append(kind, fields)

    def flush(self) -> None:
        """Write the buffered steps, and make all that was recorded survive a power cut."""
        self._refuse_after_end()
        self._write_block()
        self._log.flush()

    def finish(
        self,
        status: str,
        metrics: Mapping[str, float],
        fingerprint: str,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """End the run and close it. `status` is one of `STATUSES`, `fingerprint` that of the
        final weights, `facts` whatever may differ between two bit-identical runs."""
        if status not in STATUSES:
            raise ValueError(f"a run ends as one of {STATUSES}, not {status!r}")
        self._refuse_after_end()
        self._write_block()
        plain = {name: float(value) for name, value in metrics.items()}
        ending = {"status": status, "metrics": plain, "fingerprint": fingerprint}
        self._log.append("finish", {**ending, FACTS: dict(facts or {})})
        self._ended = "finished"
        self._log.close()

    def close(self) -> None:
        """Write the buffered steps and close; without `finish` the run counts as running."""
        if not self._ended:
            self._ended = "closed"
            try:
                self._write_block()
            finally:
                self._log.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except MachineError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the first error is the one to report

    def _new_block(self, first: int, names: tuple[str, ...]) -> _Block:
        for name in RESERVED:
            if name in names:
                raise InputError(f"a series cannot be named {name!r}: that column is the record's")
        self._write_block()
        self._block = _Block(int(first), names, self._log.next_seq)
        return self._block

    def _write_block(self) -> None:
        block = self._block
        if block is None:
            return
        # An interrupt can come after the append and before the last line: the log's number
        # then says that the block is written, and it is not written twice.
        if block.rows and self._log.next_seq == block.seq:
            self._log.append("steps", block.fields())
        self._block = None

    def _refuse_after_end(self) -> None:
        if self._ended:
            raise InputError(
                f"the run in {self.directory} is {self._ended}: nothing can be added to it; "
                "begin another run in a directory of its own"
            )


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run as read from its directory.

    Of a run that was resumed it holds what counts: what a resumption superseded is left out.

    `header`, `metrics`, `fingerprint` (final weights) and `facts` are what the writer was
    given (`metrics` and what follows are empty while `status` is "running"); `steps` (int64)
    numbers the rows of every array in `series` (float64) and of `batches`; `events` are all
    others; `notes` says what had to be worked around. The arrays are read-only.
    """

    directory: Path
    header: JsonObject
    steps: Ints
    series: Mapping[str, Floats]
    batches: tuple[str, ...]
    events: tuple[Event, ...]
    status: str
    metrics: Mapping[str, float]
    fingerprint: str
    facts: JsonObject
    notes: tuple[str, ...]

    @classmethod
    def read(cls, directory: str | Path) -> RunRecord:
        """Read and verify a run, finished or not.

        Raises `InputError` where there is no run or its log is damaged. A damaged or foreign
        `series.parquet` is set aside for the log, and `notes` says so.
        """
        directory = Path(directory)
        path = directory / LOG_NAME
        lines = scan_lines(path)
        if not lines or lines[0].kind != "start":
            raise InputError(f"{path} holds no run: it does not begin with a start event")
        start = lines[0].event().fields
        if start["format"] > FORMAT:
            raise MachineError(
                f"{path} was written by a newer rheostat (format {start['format']}, this one "
                f"knows {FORMAT}): pip install --upgrade rheostat"
            )
        finish = [line.seq for line in lines if line.kind == "finish"]
        if finish and finish != [len(lines) - 1]:
            raise InputError(f"{path}:{finish[0] + 1}: the log goes on after the run's finish")
        ending: JsonObject = lines[-1].event().fields if finish else {}
        metrics = cast("dict[str, float | str]", ending.get("metrics", {}))
        series, notes = _read_series(directory, lines)
        return cls(
            directory=directory,
            header=start["header"],
            steps=series.steps,
            series=series.values,
            batches=series.batches,
            events=_events(lines),
            status=ending.get("status", "running"),
            metrics={name: float(value) for name, value in metrics.items()},
            fingerprint=ending.get("fingerprint", ""),
            facts=ending.get("facts", {}),
            notes=notes,
        )

    @functools.cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything but facts: equal for bit-identical runs, whenever and
        wherever they ran, in one piece or resumed."""
        return content_hash(
            {
                "header": _without_facts(self.header),
                "series": Series(self.steps, self.series, self.batches).digest(),
                "events": [
                    [event.kind, _without_facts(event.fields)]
                    for event in self.events
                    if event.kind != RESUME
                ],
                "status": self.status,
                "metrics": self.metrics,
                "fingerprint": self.fingerprint,
            }
        )


def compact_run(directory: str | Path) -> None:
    """Write the run's `series.parquet` from its log; the log stays as it is.

    Raises `InputError` where the log is damaged, `MachineError` where the disk refuses or
    pyarrow is missing.
    """
    directory = Path(directory)
    lines = scan_lines(directory / LOG_NAME)
    write_series(directory / SERIES_NAME, _series_of_log(lines), _source(lines))


def _read_series(directory: Path, lines: list[Line]) -> tuple[Series, tuple[str, ...]]:
    path = directory / SERIES_NAME
    if path.exists():
        try:
            return read_series(path, _source(lines)), ()
        except (InputError, MachineError) as error:
            return _series_of_log(lines), (f"the log was read in its place: {error}",)
    return _series_of_log(lines), ()


def _source(lines: list[Line]) -> str:
    """SHA-256 of the log's lines that say what the series are; ties a series file to its log."""
    texts = [line.text for line in lines if line.kind in ("steps", RESUME)]
    return hashlib.sha256(b"\n".join(texts)).hexdigest()


def _series_of_log(lines: list[Line]) -> Series:
    blocks: list[tuple[JsonObject, int]] = []  # with the number of their steps that count
    for event in (line.event() for line in lines if line.kind in ("steps", RESUME)):
        if event.kind == "steps":
            blocks.append((event.fields, int(event.fields["count"])))
        else:
            at = int(event.fields["step"])
            blocks = [
                (fields, kept)
                for fields, count in blocks
                if (kept := min(count, at - int(fields["first"]))) > 0
            ]
    total = sum(count for _, count in blocks)
    steps = np.zeros(total, dtype=np.int64)
    values: dict[str, Floats] = {}
    batches: list[str] = []
    row = 0
    for fields, count in blocks:
        first = int(fields["first"])
        rows = slice(row, row + count)
        steps[rows] = np.arange(first, first + count)
        for name, column in cast("dict[str, list[float | str]]", fields["series"]).items():
            if name not in values:
                values[name] = np.full(total, np.nan)
            values[name][rows] = [float(value) for value in column[:count]]
        batches.extend(cast("list[str]", fields["batches"])[:count])
        row += count
    return Series(steps, values, tuple(batches))


def _events(lines: list[Line]) -> tuple[Event, ...]:
    """The events that are not the series', without those that a resumption superseded."""
    found: list[Event] = []
    for line in lines:
        if line.kind in _OURS and line.kind != RESUME:
            continue
        event = line.event()
        if event.kind == RESUME:
            at = int(event.fields["step"])
            # What bears no step is not of one: it stays.
            found = [e for e in found if e.kind == RESUME or e.fields.get("step", -1) < at]
        found.append(event)
    return tuple(found)


def _without_facts(fields: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if key != FACTS}
