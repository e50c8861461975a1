"""What a study with several conditions found beside its verdict, as tables: the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rheostat.lab.resilience import Alarms, Ordeal
from rheostat.lab.results import Results
from rheostat.lab.scores import Sweep
from rheostat.report import words


@dataclass(frozen=True)
class Table:
    """A title, a head and rows of text; `note` says how to read it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tables(results: Results) -> list[Table]:
    """The tables of faults and alarms, or of the sweep; none for a plain study."""
    found: list[Table] = []
    if results.resilience is not None:
        head = ("fault", "arm", "noticed", "after", "recovered", "95 % interval", "steps lost")
        rows = [_ordeal(row) for row in results.resilience.ordeals]
        if rows:
            found.append(Table("Under faults", head, rows, results.resilience.protocol))
        alarms = [_alarms(row) for row in results.resilience.alarms]
        head = ("arm", "alarms", "clean steps", "per 10,000", "95 % interval")
        found.append(Table("False alarms", head, alarms))
    if results.sweep is not None:
        found.append(_sweep(results.sweep, results.plan["metric"]["name"]))
    return found


def _ordeal(row: Ordeal) -> list[str]:
    return [
        row.fault,
        row.arm,
        f"{row.noticed} of {row.runs}",
        "" if row.delay is None else f"{row.delay:g}",
        f"{row.recovered} of {row.runs}",
        words.interval(row.recovery, 2),
        f"{row.lost:g}",
    ]


def _alarms(row: Alarms) -> list[str]:
    rate = words.number(row.rate, 2)
    return [row.arm, str(row.alarms), str(row.steps), rate, words.interval(row.interval, 2)]


def _sweep(sweep: Sweep, metric: str) -> Table:
    rows = [
        [f"{value:g}", *(_cell(*pair) for pair in zip(means, failures, strict=True))]
        for value, means, failures in zip(sweep.values, sweep.means, sweep.failures, strict=True)
    ]
    note = "Means over the seeds; a failed run counts as the worst value of the plan."
    return Table(f"{metric} by {sweep.key}", (sweep.key, *sweep.arms), rows, note)


def _cell(mean: float, failures: int) -> str:
    return words.number(mean, 4) + (f" ({failures} failed)" if failures else "")
