"""One run as an HTML page: its curves with marks where something was decided, and the timeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rheostat.core.durable import write_file
from rheostat.record.run import RunRecord
from rheostat.record.series import Floats
from rheostat.report.audit import cells, total
from rheostat.report.curves import POINTS, block_means, corners
from rheostat.report.html import document
from rheostat.report.marks import is_back, on_curve, traces
from rheostat.report.markup import Html, element, paragraph, table
from rheostat.report.over_runs import with_marks
from rheostat.report.plot import COLOURS, Figure, Json, layout, numbers, value_axis
from rheostat.report.sections import figures
from rheostat.report.timeline import Entry

_LEFT_OUT = ("segment", "update")
"""Series that the timeline has as columns."""
_EXACT = ("lr",)
"""Series that keep every jump; of others a point is the mean of a block of steps."""
_FIRST = ("loss", "lr")
"""Those that are drawn large."""
_TITLES = {"lr": "learning rate", "grad_norm": "gradient norm of the step"}
_FIGURES = 40
"""At most: signals by parameter are many."""
_UNDONE = "rgba(213,94,0,0.10)"


def write_run(record: RunRecord, entries: Sequence[Entry], path: Path) -> None:
    """Write the page of a run, with these entries of its timeline, whole or not at all.

    Raises `MachineError` where the disk refuses or plotly is not installed.
    """
    write_file(path, run_page(record, entries).encode("utf-8"))


def run_page(record: RunRecord, entries: Sequence[Entry]) -> str:
    """The page of a run."""
    names = sorted(
        (name for name in record.series if name not in _LEFT_OUT),
        key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name),
    )
    made = (curve(record, name, entries, number) for number, name in enumerate(names[:_FIGURES]))
    drawn = [figure for figure in made if figure is not None]
    more = f"; {len(names) - _FIGURES} more series are not drawn" if names[_FIGURES:] else ""
    parts = (
        paragraph(f"{record.steps.size} batches, {record.ending}{more}."),
        figures(drawn),
        element("section", {}, element("h2", {}, "Timeline"), *_timeline(record, entries)),
    )
    return document("Run", record.directory.name, parts, drawn)


def curve(record: RunRecord, name: str, entries: Sequence[Entry], number: int) -> Figure | None:
    """A series of a run, marked where something was decided about it, or because of it, and on the
    loss everything; None for one without a finite value. `number` tells its figure from others."""
    steps, values = _thinned(record, name)
    if not np.isfinite(values).any():
        return None
    plan = layout("batch", name)
    plan["xaxis"]["range"] = [0, max(1, int(record.steps[-1]))]
    if name == "loss":
        plan["yaxis"] |= value_axis([values], room_above=False)
    plan["shapes"] = borders(entries)
    line: Json = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": numbers(steps),
        "y": numbers(values),
        "line": {"color": COLOURS[0], "width": 1.5},
        "hovertemplate": "%{y:.4~g}",
    }
    small = name not in _FIRST
    title = _TITLES.get(name, name.replace("_", " "))
    found = Figure(
        name=f"figure-{number}",
        title=title[:1].upper() + title[1:],
        caption="Shaded: what was undone by going back." if plan["shapes"] else "",
        alternative=f"{title} against the batch.",
        traces=[line],
        layout=plan,
        small=small,
    )
    marks = on_curve([e for e in entries if name == "loss" or _about(e, name)], steps, values)
    return with_marks(found, traces(marks, record.steps.size))


def borders(entries: Sequence[Entry]) -> list[Json]:
    """Where the run was rolled back: a line, and the stretch before it that was undone."""
    found: list[Json] = []
    tall: Json = {"y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    for entry in filter(is_back, entries):
        at = entry.batch
        line = {"color": "#D55E00", "width": 1.5, "dash": "dot"}
        found.append({**tall, "type": "line", "x0": at, "x1": at, "line": line})
        done = (entry.account and entry.account.done) or {}
        if done.get("before"):
            ends = {"x0": at - done["before"], "x1": at, "fillcolor": _UNDONE, "line": {"width": 0}}
            found.append({**tall, "type": "rect", **ends})
    return found


def _about(entry: Entry, name: str) -> bool:
    return entry.subject == name or name in entry.evidence


def _thinned(record: RunRecord, name: str) -> tuple[Floats, Floats]:
    values, steps = record.series[name], record.steps.astype(np.float64)
    if name in _EXACT:
        kept = corners(record.steps, values)
        return steps[kept], values[kept]
    length = max(1, math.ceil(steps.size / POINTS))
    return block_means(steps, length), block_means(values, length)


def _timeline(record: RunRecord, entries: Sequence[Entry]) -> list[Html]:
    head = ("batch", "update", "segment", "who", "verdict", "what", "why", "loss before and after")
    rows = [cells(entry) for entry in entries]
    said = paragraph(total(record, entries, entries))
    if not rows:
        return [said]
    return [said, element("div", {"class": "prose"}, table("What happened, by batch", head, rows))]
