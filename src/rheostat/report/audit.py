"""The timeline of a run as text for people, and as plain values for programs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rheostat.core.controller import spelled
from rheostat.core.errors import InputError, closest, nearest
from rheostat.record.run import RunRecord
from rheostat.report.timeline import OTHERS, VERDICTS, Entry, summary

WIDTH = 100
"""Columns of the text."""

_HEAD = ("batch", "update", "seg", "who", "verdict", "what")
_NUMBERS = 3
"""Columns of numbers; what is said of an entry stands to their right."""


@dataclass(frozen=True)
class Filter:
    """Which entries are asked for; an empty one asks for all. `first` and `last` are batches."""

    who: Sequence[str] = ()
    subjects: Sequence[str] = ()
    verdicts: Sequence[str] = ()
    first: int | None = None
    last: int | None = None

    def __bool__(self) -> bool:
        return self != Filter()

    def chosen(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those that are asked for. "plateau" asks for "plateau 2" too."""
        return [entry for entry in entries if self._asks_for(entry)]

    def _asks_for(self, entry: Entry) -> bool:
        return (
            (not self.who or bool({entry.who, one_of(entry.who)} & {*self.who}))
            and (not self.subjects or entry.subject in self.subjects)
            and (not self.verdicts or entry.verdict in self.verdicts)
            and (self.first is None or entry.until >= self.first)
            and (self.last is None or entry.batch <= self.last)
        )

    def check(self, entries: Iterable[Entry], who: Iterable[str], subjects: Iterable[str]) -> None:
        """Refuse what is neither in these entries nor among the names that could have been.

        Raises InputError with the nearest name, or those that are there; for no batch at all, too.
        """
        if self.first is not None and self.last is not None and self.first > self.last:
            raise InputError(f"--from {self.first}: should be at most --to, which is {self.last}")
        found = list(entries)
        people = {name for e in found for name in (e.who, one_of(e.who))}
        things = {e.subject for e in found if e.subject}
        verdicts = {*VERDICTS, *OTHERS}
        asked = (
            ("--controller", self.who, people, people | {*who}),
            ("--hyperparameter", self.subjects, things, things | {*subjects}),
            ("--verdict", self.verdicts, verdicts, verdicts),
        )
        for option, names, there, known in asked:
            for name in names:
                if name not in known:
                    hint = nearest(name, known if closest(name, known) else there)
                    raise InputError(f"{option} {name!r}: there is none; {hint}")


def one_of(who: str) -> str:
    """A controller's name without the number that tells two of one name apart."""
    return who.partition(" ")[0]


def lines(record: RunRecord, entries: Sequence[Entry], shown: Sequence[Entry]) -> list[str]:
    """The timeline of a run: of `entries` those that are `shown`, and what they come to."""
    rows = [cells(entry) for entry in shown]
    widths = [max(map(len, column)) for column in zip(_HEAD, *(r[:-2] for r in rows), strict=True)]
    told = [f"{record.directory}: {record.steps.size} batches, {record.ending}", ""]
    if shown:
        told.append(_joined(_HEAD, widths))
    indent = " " * (sum(widths[:_NUMBERS]) + 2 * _NUMBERS)
    for *row, why, loss in rows:
        told.append(_joined(row, widths))
        for words in (why, loss and f"loss before and after: {loss}"):
            told += textwrap.wrap(
                words,
                WIDTH,
                initial_indent=indent,
                subsequent_indent=indent,
                break_long_words=False,
            )
    if len(shown) < len(entries):
        told.append(f"{len(shown)} of {len(entries)} entries shown")
    return [
        *told,
        *([""] if told[-1] else []),
        *textwrap.wrap(total(record, entries, shown), WIDTH),
    ]


def cells(entry: Entry) -> tuple[str, ...]:
    """An entry as text: batch, update, segment, who, verdict, what, why, and what the loss did."""
    times = f" ×{entry.times}" if entry.times > 1 else ""
    numbers = ("" if value is None else str(value) for value in (entry.update, entry.segment))
    what = " ".join(filter(None, (entry.subject or "", entry.change)))
    last = _why(entry), _loss(entry)
    return (str(entry.batch), *numbers, entry.who, entry.verdict + times, what, *last)


def total(record: RunRecord, entries: Sequence[Entry], shown: Sequence[Entry]) -> str:
    """What the decisions among those `shown` come to, in one line."""
    found = summary(shown)
    if not summary(entries).decisions:
        return f"no decisions: {undecided(record)}"
    always = ("accepted", "bounded", "refused", "undone")
    counts = [f"{n} {verdict}" for verdict, n in found.verdicts.items() if n or verdict in always]
    said = f"{counted(found.decisions, 'decision')}: {', '.join(counts)}"
    said += f"; {counted(found.octaves, 'octave')} spent"
    if found.rollbacks:
        said += f"; rolled back {'once' if found.rollbacks == 1 else f'{found.rollbacks} times'}"
    return said + ("; a dry run: nothing was changed" if found.dry else "")


def undecided(record: RunRecord) -> str:
    """Why a run has no decisions."""
    recipe = record.header.get("recipe", {})
    if recipe.get("regime"):
        return "its regime decided nothing"
    return "its safeguards had no cause" if watched(record) else "the run had no regime"


def watched(record: RunRecord) -> bool:
    """Whether a run had a regime, or safeguards alone."""
    recipe = record.header.get("recipe", {})
    return bool(recipe.get("regime") or recipe.get("safeguards"))


def data(record: RunRecord, entries: Sequence[Entry], shown: Sequence[Entry]) -> dict[str, Any]:
    """The same as plain values that strict JSON holds. An entry's `account` is what
    `Account.read` takes."""
    found = summary(shown)
    return {
        "run": str(record.directory),
        "status": record.status,
        "batches": int(record.steps.size),
        "entries": [_data(entry) for entry in shown],
        "of": len(entries),
        "summary": {**asdict(found), "decisions": found.decisions},
    }


def counted(number: float, what: str) -> str:
    """Some things, in the singular where there is one."""
    return f"{number:.6g} {what}{'' if number == 1 else 's'}"


def percent(change: float) -> str:
    """A relative change, such as −20 %."""
    value = 100 * change
    return f"{value:{'+.0f' if abs(value) >= 10 else '+.2g'}} %".replace("-", "−")


def _data(entry: Entry) -> dict[str, Any]:
    account = entry.account and entry.account.written()
    return {**spelled({**asdict(entry), "account": None}), "account": account}


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if index < _NUMBERS else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _why(entry: Entry) -> str:
    numbers = _listed(entry.evidence)
    about = entry.account and entry.account.about
    ends = "" if about is None else f" [ends trial {about}]"
    begins = (
        f" [trial {entry.account.number}]" if entry.account and entry.verdict == "trial" else ""
    )
    dry = " [dry run]" if entry.account is not None and entry.account.dry else ""
    return f"{entry.why}{f' ({numbers})' if numbers else ''}{begins}{ends}{dry}"


def _listed(evidence: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in evidence.items()).replace("-", "−")


def _loss(entry: Entry) -> str:
    if entry.outcome is None:
        return ""
    before, after = entry.outcome.before, entry.outcome.after
    change = f" ({percent(entry.moved)})" if math.isfinite(entry.moved) else ""
    known = f"{before:.4g}" if math.isfinite(before) else "unknown"
    return f"{known} → {after:.4g}{change}"
