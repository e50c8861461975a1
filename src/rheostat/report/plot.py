"""What every figure shares: its shape, how an arm looks, and numbers as Plotly reads them.

Colours of text, axes and grid are not in here: the page sets them for light and dark. Texts
that Plotly shows go through `shown`, because it reads a subset of HTML in them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rheostat.record.series import Floats

Json: TypeAlias = dict[str, Any]

COLOURS = ("#2E86C8", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, told apart with any colour vision; the blue is lightened, to be read
on a dark page too."""
GREY = "#858585"
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("square", "diamond", "triangle-up", "pentagon", "hexagram", "star")


@dataclass(frozen=True)
class Figure:
    """One plot: Plotly's traces and layout, and what the page says beside it.

    `caption` says what is drawn, `alternative` what it shows to those who cannot see it.
    """

    name: str
    title: str
    caption: str
    alternative: str
    traces: list[Json]
    layout: Json
    small: bool = False


@dataclass(frozen=True)
class Style:
    """How an arm looks in every figure."""

    colour: str
    dash: str
    symbol: str

    @property
    def fill(self) -> str:
        red, green, blue = (int(self.colour[at : at + 2], 16) for at in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.2)"


Look: TypeAlias = dict[str, Style]


def styles(arms: Sequence[str], baseline: str) -> Look:
    """A style for each arm; the baseline in grey."""
    found = {baseline: Style(GREY, DASHES[0], "circle")}
    for index, arm in enumerate(name for name in arms if name != baseline):
        turn, place = divmod(index, len(COLOURS))
        found[arm] = Style(COLOURS[place], DASHES[turn % len(DASHES)], SYMBOLS[place])
    return found


def layout(x: str, y: str) -> Json:
    """A layout with these axis titles, the legend above, and one hover label for all arms."""
    return {
        "xaxis": {"title": {"text": shown(x)}, "automargin": True},
        "yaxis": {"title": {"text": shown(y), "standoff": 10}, "automargin": True},
        "hovermode": "x unified",
        "hoverlabel": {"namelength": -1},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 12, "t": 16, "b": 48},
    }


def names_on(axis: Json, names: Sequence[str]) -> None:
    """Let `axis` count places from 0 and bear these names at them."""
    axis.update(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[shown(name) for name in names],
        range=[-0.5, len(names) - 0.5],
        showgrid=False,
        zeroline=False,
    )


def shown(text: str) -> str:
    """`text` as Plotly has to be given it to show just that."""
    return html.escape(text)


def numbers(values: Iterable[float]) -> list[float | None]:
    """Values to six digits, which no screen can tell from the rest; None where not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def value_axis(limits: Iterable[Floats], *, room_above: bool) -> Json:
    """The value axis: logarithmic where it can be. With `room_above` its range is that of
    `limits` and a little more, so that what leaves it upwards does not flatten the rest."""
    values = np.concatenate([np.zeros(0), *limits])
    values = values[np.isfinite(values)]
    if not values.size:
        return {"type": "linear"}
    low, high = float(values.min()), float(values.max())
    axis: Json = {"type": "linear"}
    if low > 0:
        low, high = math.log10(low), math.log10(high)
        axis = {"type": "log", "tickformat": "~g"}
        if high - low > 0.7:  # ticks at powers of ten, with 2 and 5 between where there is room
            axis["dtick"] = "D2" if high - low < 3 else 1
    if room_above:
        pad = 0.05 * (high - low) or 0.1
        axis["range"] = [low - pad, high + 4 * pad]
    return axis
