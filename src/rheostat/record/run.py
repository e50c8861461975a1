"""One run on disk, read back as a `RunRecord`; `rheostat.record.writer` writes it.

A run is a directory. `events.jsonl` is the log: `start` (the format's number, and the header:
all that is known before step 0), `steps` blocks (columns of consecutive steps), events of any
other kind, and `finish`. A run that was stopped goes on in the same log: after a `resume` event,
what was recorded at its step and later ones is superseded, and readers leave it out.
`series.parquet`, when `compact_run` has made it, holds the columns of all blocks that count.

Whatever differs between two bit-identical runs (times, pids, hosts) belongs under the key
`"facts"` of the header, of an event or of the finish: content hashes leave that key out.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from rheostat.core.durable import JsonObject, content_hash
from rheostat.core.errors import InputError, MachineError
from rheostat.record.log import Event, Line, scan_lines
from rheostat.record.series import TEXTS, Floats, Ints, Series, read_series, write_series

LOG_NAME = "events.jsonl"
SERIES_NAME = "series.parquet"
FORMAT = 1

FACTS = "facts"
"""The key of what content hashes leave out."""

RESUME = "resume"
"""The kind of the event with which a stopped run goes on; its `step` is the next one recorded."""

OURS = ("start", "steps", "finish", RESUME)
"""The kinds of the events that no user records."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run as read from its directory.

    Of a run that was resumed it holds what counts: what a resumption superseded is left out.

    `header`, `metrics`, `fingerprint` (final weights) and `facts` are what the writer was
    given (`metrics` and what follows are empty while `status` is "running"); `steps` (int64)
    numbers the rows of every array in `series` (float64) and of the fingerprints (see `Series`);
    `events` are all others; `notes` says what had to be worked around. The arrays are read-only.
    """

    directory: Path
    header: JsonObject
    steps: Ints
    series: Mapping[str, Floats]
    batches: tuple[str, ...]
    weights: tuple[str, ...]
    rng: tuple[str, ...]
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
        try:
            series, notes = _read_series(directory, lines)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path}: its steps are not written as this rheostat writes them ({error!r}): read "
                "it with the version that wrote it"
            ) from error
        return cls(
            directory=directory,
            header=start["header"],
            steps=series.steps,
            series=series.values,
            batches=series.batches,
            weights=series.weights,
            rng=series.rng,
            events=_events(lines),
            status=ending.get("status", "running"),
            metrics={name: float(value) for name, value in metrics.items()},
            fingerprint=ending.get("fingerprint", ""),
            facts=ending.get("facts", {}),
            notes=notes,
        )

    @property
    def ending(self) -> str:
        """How it ended, for people: a run that nobody finished may go on."""
        return "not finished" if self.status == "running" else self.status

    @functools.cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything but facts: equal for bit-identical runs, whenever and
        wherever they ran, in one piece or resumed."""
        return content_hash(
            {
                "header": _without_facts(self.header),
                "series": Series(self.steps, self.series, self.batches, self.weights).digest(),
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
    texts: dict[str, list[str]] = {name: [] for name in TEXTS}
    row = 0
    for fields, count in blocks:
        first = int(fields["first"])
        rows = slice(row, row + count)
        steps[rows] = np.arange(first, first + count)
        for name, column in cast("dict[str, list[float | str]]", fields["series"]).items():
            if name not in values:
                values[name] = np.full(total, np.nan)
            values[name][rows] = [float(value) for value in column[:count]]
        for name, column in texts.items():
            column.extend(cast("list[str]", fields[name])[:count])
        row += count
    return Series(steps, values, *map(tuple, texts.values()))


def _events(lines: list[Line]) -> tuple[Event, ...]:
    """The events that are not the series', without those that a resumption superseded."""
    found: list[Event] = []
    for line in lines:
        if line.kind in OURS and line.kind != RESUME:
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
