"""Marks of what happened to runs, for figures: shape and colour say what, the hover label why.

Where more happened than a figure can show, one mark stands for several of a kind: it is larger, and
says how many they are.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rheostat.record.series import Floats, Ints
from rheostat.report.audit import cells
from rheostat.report.plot import GREY, Json, shown
from rheostat.report.timeline import Entry

PLACES = 120
"""Places along a row that marks of one kind can take, mostly."""
TOLD = 3
"""Of several under one mark, those whose reasons are given."""
BACK = "rolled back"

_WIDTH = 64
_SIZE = 7.0

# Okabe and Ito's colours, as those of the arms: done is green, less of it yellow, on trial blue,
# taken back purple, going back vermilion; what changed nothing is grey.
SIGNS = {
    "accepted": ("circle", "#009E73"),
    "bounded": ("triangle-down", "#E69F00"),
    "trial": ("diamond-open", "#2E86C8"),
    "kept": ("diamond", "#2E86C8"),
    "undone": ("x", "#CC79A7"),
    "refused": ("circle-open", GREY),
    BACK: ("triangle-left", "#D55E00"),
    "skipped": ("line-ns-open", "#D55E00"),
    "restarted": ("star", "#009E73"),
    "replanned": ("square", "#009E73"),
    "resumed": ("line-ew-open", GREY),
    "unrecorded": ("hash-open", "#D55E00"),
}
"""Kind -> Plotly's symbol, and its colour on a light page and a dark one."""


@dataclass(frozen=True)
class Mark:
    """One thing that happened, at a height of a figure; `whose` run it was, where many are.

    One mark may stand for several of a kind in one `row`.
    """

    entry: Entry
    y: float
    whose: str = ""
    row: str = ""

    @property
    def kind(self) -> str:
        """What it looks like."""
        return kind_of(self.entry)


def kind_of(entry: Entry) -> str:
    """One of `SIGNS`: the verdict, and apart from the others where the run went back."""
    return BACK if is_back(entry) else entry.verdict


def is_back(entry: Entry) -> bool:
    """Whether the run was rolled back here."""
    account = entry.account
    done = None if account is None or account.dry else account.done
    return done is not None and done["kind"] == "roll_back"


def traces(marks: Iterable[Mark], until: int, places: int = PLACES, axis: str = "y") -> list[Json]:
    """A trace for each kind of mark, over a figure of `until` batches with so many places a row."""
    length = max(1, math.ceil(until / places))
    found: dict[str, dict[tuple[int, str], list[Mark]]] = {}
    for mark in sorted(marks, key=lambda mark: mark.entry.batch):
        place = mark.entry.batch // length, mark.row
        found.setdefault(mark.kind, {}).setdefault(place, []).append(mark)
    return [_trace(kind, [*found[kind].values()], axis) for kind in SIGNS if kind in found]


def on_curve(
    entries: Iterable[Entry], steps: Ints | Floats, values: Floats, whose: str = ""
) -> list[Mark]:
    """Marks at the heights that a curve has there; where it has none, at the one before."""
    kept = np.flatnonzero(np.isfinite(values))
    if not kept.size:
        return []
    batches, heights = steps[kept], values[kept]
    found: list[Mark] = []
    for entry in entries:
        row = int(np.searchsorted(batches, entry.batch, side="right")) - 1
        found.append(Mark(entry, float(heights[max(0, row)]), whose, whose))
    return found


def told(mark: Mark) -> str:
    """A mark in words, over lines of a hover label."""
    batch, _, _, who, verdict, what, why, loss = cells(mark.entry)
    where = ", ".join(filter(None, (f"batch {batch}", mark.whose)))
    found = [": ".join(filter(None, (where, f"{who}, {verdict}", what)))]
    found += textwrap.wrap(why, _WIDTH)
    found += [f"loss before and after: {loss}"] if loss else []
    return "<br>".join(map(shown, found))


def _trace(kind: str, groups: Sequence[Sequence[Mark]], axis: str) -> Json:
    symbol, colour = SIGNS[kind]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": kind,
        "legendgroup": f"mark {kind}",
        "x": [group[0].entry.batch for group in groups],
        "y": [group[0].y for group in groups],
        "yaxis": axis,
        "text": [_all_told(group) for group in groups],
        "marker": {
            "color": colour,
            "symbol": symbol,
            "size": [_SIZE + min(6.0, 2.0 * math.log2(len(group))) for group in groups],
            "line": {"width": 2, "color": colour},
            "opacity": 1,
        },
        "cliponaxis": False,
        "hovertemplate": "%{text}<extra></extra>",
    }


def _all_told(group: Sequence[Mark]) -> str:
    said = [told(mark) for mark in group[:TOLD]]
    if len(group) > TOLD:
        said.append(f"and {len(group) - TOLD} more up to batch {group[-1].entry.batch}")
    return "<br>".join(said)
