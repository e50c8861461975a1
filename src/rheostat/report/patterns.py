"""Decisions across runs: who did what how often, and what the loss did, by a key of the header."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median
from typing import Any, cast

from rheostat.core.durable import JsonObject, canonical_json
from rheostat.core.errors import InputError, nearest
from rheostat.record.run import RunRecord
from rheostat.report.audit import one_of, percent
from rheostat.report.timeline import VERDICTS, Entry

ABSENT = "–"
"""What a run without the key is grouped under."""


@dataclass(frozen=True)
class Pattern:
    """Decisions of one kind, in runs that have one value of a key.

    `moved` is the median relative change of the loss from the window before to the window after,
    over the `measured` of them where it is known; NaN where it is of none.
    """

    group: str
    who: str
    verdict: str
    subject: str
    decisions: int
    runs: int
    moved: float
    measured: int


@dataclass(frozen=True)
class Where:
    """A condition on a run's header: the value at a dotted key fits a shell pattern."""

    key: str
    pattern: str

    @classmethod
    def read(cls, text: str) -> Where:
        """`KEY=PATTERN`. Raises InputError for anything else."""
        key, equals, pattern = text.partition("=")
        if not key or not equals:
            raise InputError(f"--where {text!r}: should be KEY=PATTERN, such as arm=cosine*")
        return cls(key, pattern)

    def holds(self, header: JsonObject) -> bool:
        """Whether a run fits."""
        return fnmatchcase(value_at(header, self.key), self.pattern)


def value_at(header: JsonObject, key: str) -> str:
    """What a header has at a dotted key, as text; `ABSENT` where it has nothing."""
    found: Any = header
    for part in key.split("."):
        found = cast("JsonObject", found).get(part) if isinstance(found, Mapping) else None
    if found is None:
        return ABSENT
    return found if isinstance(found, str) else canonical_json(found)


def check_key(option: str, key: str, headers: Sequence[JsonObject]) -> None:
    """Refuse a key that no header has. Raises InputError with the nearest one."""
    if headers and all(value_at(header, key) == ABSENT for header in headers):
        known = {name for header in headers for name in _keys(header)}
        raise InputError(f"{option} {key!r}: no run has this key; {nearest(key, known)}")


def patterns(
    runs: Iterable[tuple[RunRecord, Sequence[Entry]]], by: str | None = None
) -> list[Pattern]:
    """The decisions of many runs, counted; by group, then the most frequent first."""
    found: dict[tuple[str, str, str, str], list[tuple[int, Entry]]] = {}
    for number, (record, entries) in enumerate(runs):
        group = "" if by is None else value_at(record.header, by)
        for entry in entries:
            if entry.verdict in VERDICTS:
                key = group, one_of(entry.who), entry.verdict, entry.subject or ""
                found.setdefault(key, []).append((number, entry))
    made = [_pattern(*key, members) for key, members in found.items()]
    return sorted(made, key=lambda one: (_order(one.group), -one.decisions, one.who, one.verdict))


def table(rows: Sequence[Pattern], by: str | None) -> list[str]:
    """Patterns as lines of text."""
    head = ("controller", "verdict", "hyperparameter", "decisions", "runs", "loss after", "of")
    cells = [[*_cells(row)] for row in rows]
    if by is not None:
        head = (by, *head)
        cells = [[row.group, *line] for row, line in zip(rows, cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    texts = len(head) - 4
    return [
        "  ".join(
            cell.ljust(width) if index < texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *cells)
    ]


def _pattern(
    group: str, who: str, verdict: str, subject: str, members: Sequence[tuple[int, Entry]]
) -> Pattern:
    moved = [entry.moved for _, entry in members if math.isfinite(entry.moved)]
    return Pattern(
        group,
        who,
        verdict,
        subject,
        decisions=sum(entry.times for _, entry in members),
        runs=len({number for number, _ in members}),
        moved=median(moved) if moved else math.nan,
        measured=len(moved),
    )


def _cells(row: Pattern) -> tuple[str, ...]:
    moved = percent(row.moved) if row.measured else ABSENT
    counts = str(row.decisions), str(row.runs), moved, str(row.measured)
    return row.who, row.verdict, row.subject, *counts


def _order(group: str) -> tuple[bool, float, str]:
    """Numbers by size, before words."""
    try:
        return False, float(group), ""
    except ValueError:
        return True, 0.0, group


def _keys(header: JsonObject, above: str = "") -> Iterator[str]:
    for key, value in header.items():
        yield above + key
        if isinstance(value, Mapping):
            yield from _keys(cast("JsonObject", value), f"{above}{key}.")
