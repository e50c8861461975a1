"""What happened to the runs of a study, on its figures: marks on a run's own curve, and a rug below
a band, which is of many runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from rheostat.lab.results import Results, Run
from rheostat.report.marks import PLACES, SIGNS, Mark, is_back, kind_of, on_curve, traces
from rheostat.report.plot import Figure, Json, names_on
from rheostat.report.timeline import VERDICTS, Entry, timeline

Happened: TypeAlias = Mapping[str, Sequence[tuple[Run, Sequence[Entry]]]]
"""Arm -> its runs, each with its timeline; only arms in which something was decided."""

_ROW, _ROWS = 0.15, 0.5
"""The share of a figure's height that a row of the rug takes, and all rows at most."""
_LEAST = 15
"""Places on a curve that has many beside it."""
_BETWEEN = "rgba(128,128,128,0.35)"
"""The lines between rows."""


def happened(results: Results) -> Happened:
    """What happened in each arm that has a regime."""
    found = {
        arm: [(run, timeline(run.record)) for run in results.of_arm(arm)] for arm in results.arms
    }
    return {
        arm: runs
        for arm, runs in found.items()
        if any(entry.verdict in VERDICTS for _, entries in runs for entry in entries)
    }


def mark_rates(figure: Figure | None, results: Results, told: Happened) -> Figure | None:
    """The figure of learning rates, with what changed them on each run's own curve."""
    if figure is None:
        return None
    runs = [pair for of_arm in told.values() for pair in of_arm if "lr" in pair[0].record.series]
    marks = [
        mark
        for run, entries in runs
        for mark in on_curve(
            filter(_moves_lr, entries), run.record.steps, run.record.series["lr"], _whose(run)
        )
    ]
    places = max(_LEAST, 2 * PLACES // max(1, len(runs)))
    return with_marks(figure, traces(marks, results.plan["steps"], places))


def mark_band(figure: Figure | None, results: Results, told: Happened) -> Figure | None:
    """A figure of bands, with a rug below: a row for each arm, all seeds in it, by kind of mark."""
    if figure is None or not told:
        return figure
    arms = [*told][::-1]  # the first at the top
    present = {kind_of(e) for runs in told.values() for _, entries in runs for e in entries}
    kinds = [kind for kind in reversed(SIGNS) if kind in present]
    offsets = {kind: (at + 0.5) / len(kinds) - 0.5 for at, kind in enumerate(kinds)}
    marks = [
        Mark(entry, place + 0.85 * offsets[kind_of(entry)], _whose(run), arm)
        for place, arm in enumerate(arms)
        for run, entries in told[arm]
        for entry in entries
    ]
    share = min(_ROWS, _ROW * len(arms) + 0.04)
    rows: Json = {"domain": [0, share - 0.03], "fixedrange": True, "automargin": True}
    names_on(rows, arms)
    rows |= {"ticks": "outside", "ticklen": 8, "tickcolor": "rgba(0,0,0,0)"}  # room for the marks
    plan = figure.layout
    plan["yaxis2"] = rows
    plan["yaxis"]["domain"] = [share, 1]
    across: Json = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y2"}
    between = [place - 0.5 for place in range(len(arms) + 1)]
    plan["shapes"] = [
        {**across, "y0": y, "y1": y, "layer": "below", "line": {"color": _BETWEEN, "width": 1}}
        for y in between
    ]
    plan["xaxis"]["anchor"] = "y2"
    return with_marks(figure, traces(marks, results.plan["steps"], axis="y2"))


def with_marks(figure: Figure, found: list[Json]) -> Figure:
    """A figure with traces of marks, and a word about them."""
    if found:
        figure.traces.extend(found)
        told = "Marks: what was decided, with the reason; a larger one stands for several."
        return replace(figure, caption=f"{figure.caption} {told}")
    return figure


def _moves_lr(entry: Entry) -> bool:
    account = entry.account
    done = account is None or (account.done is not None and not account.dry)
    return done and (entry.subject in ("lr", "restart") or is_back(entry))


def _whose(run: Run) -> str:
    return f"{run.arm}, seed {run.seed}"
