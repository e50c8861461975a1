"""Figures over the seeds: the final metric of every run, and differences from the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from rheostat.lab.statistics import Interval
from rheostat.lab.verdict import Comparison, Score, Verdict
from rheostat.report import words
from rheostat.report.plot import GREY, Figure, Json, Look, Style, layout, names_on, numbers, shown

Pair: TypeAlias = tuple[Score, Score]

ZONE = "rgba(128,128,128,0.16)"
LINK = "rgba(128,128,128,0.4)"
CROSS = "x"


def final_metric(verdict: Verdict, look: Look, *, failures: bool = True) -> Figure:
    """The primary metric of every seed, paired by thin lines, with mean and interval.

    Without `failures` only finished runs are drawn, and no means: those count the failed.
    """
    traces = [_links(verdict, failures)]
    for place, arm in enumerate(verdict.arms):
        style = look[arm.name]
        traces.append(_points(place, arm.scores, style, failures))
        if failures:
            traces.append(_mean(arm.name, place + 0.3, arm.mean, arm.interval, style))
    plan = layout("", words.metric(verdict))
    plan.update(showlegend=False, hovermode="closest")
    names_on(plan["xaxis"], [arm.name for arm in verdict.arms])
    told = f"Final {verdict.metric} of every seed; thin lines join the runs of one seed"
    if failures:
        interval = f" and its {words.level(verdict)} interval" if verdict.void is None else ""
        told += f"; beside them the mean{interval}."
        if any(arm.failures for arm in verdict.arms):
            told += " Crosses are failed runs, at the score that they count as."
    else:
        told += ". Failed runs are left out here, and so are the means, which count them."
    arms = ", ".join(arm.name for arm in verdict.arms)
    return Figure(
        name="figure-metric" if failures else "figure-metric-finished",
        title=f"Final {verdict.metric}{'' if failures else ', finished runs only'}",
        caption=told,
        alternative=f"Final {verdict.metric} of {len(verdict.seeds)} seeds for {arms}.",
        traces=traces,
        layout=plan,
    )


def differences(verdict: Verdict, look: Look, *, failures: bool = True) -> Figure:
    """Each arm minus the baseline, seed by seed, with mean, interval and the margin's zone."""
    rows = list(reversed(verdict.comparisons))  # the first at the top
    scores = {arm.name: arm.scores for arm in verdict.arms}
    traces: list[Json] = []
    for place, row in enumerate(rows):
        pairs = list(zip(scores[row.arm], scores[verdict.baseline], strict=True))
        if not failures:
            pairs = [pair for pair in pairs if not _failed(pair)]
        traces.append(_pair_points(place, row, pairs, look[row.arm]))
        if failures:
            mean = _mean(row.arm, place + 0.3, row.mean, row.interval, look[row.arm])
            traces.append(_turned(mean))
    unit = f", {verdict.unit}" if verdict.unit else ""
    way = "right" if verdict.goal == "maximize" else "left"
    plan = layout(f"difference in {verdict.metric}{unit} ({way} is better)", "")
    plan.update(showlegend=False, hovermode="closest", shapes=_zone(verdict.margin))
    names_on(plan["yaxis"], [row.arm for row in rows])
    plan["xaxis"]["zeroline"] = False
    told = f"Each arm minus {verdict.baseline}, a point per seed; "
    told += f"shaded: within the margin of {words.margin(verdict)}"
    if failures:
        told += f"; beside them the mean and its {words.level(verdict)} interval."
    else:
        told += ". Pairs with a failed run are left out here, and so are the means."
    return Figure(
        name="figure-differences" if failures else "figure-differences-finished",
        title=f"Paired differences from {verdict.baseline}"
        + ("" if failures else ", finished pairs only"),
        caption=told,
        alternative="; ".join(words.outcome(row) for row in verdict.comparisons) + ".",
        traces=traces,
        layout=plan,
    )


def _failed(pair: Pair) -> bool:
    return pair[0].failed or pair[1].failed


def _spread(count: int, width: float = 0.3) -> list[float]:
    """Offsets of so many points about their place, so that equal values stay apart."""
    return [width * ((index + 0.5) / count - 0.5) for index in range(count)]


def _links(verdict: Verdict, failures: bool) -> Json:
    """One line per seed through its scores, broken where a run is left out."""
    places: list[float] = []
    values: list[float] = []
    for row, offset in enumerate(_spread(len(verdict.seeds))):
        for place, arm in enumerate(verdict.arms):
            score = arm.scores[row]
            places.append(place + offset)
            values.append(score.value if failures or not score.failed else math.nan)
        places.append(math.nan)
        values.append(math.nan)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(places),
        "y": numbers(values),
        "line": {"color": LINK, "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _points(place: int, scores: Sequence[Score], style: Style, failures: bool) -> Json:
    shown_scores = [
        (place + offset, score)
        for offset, score in zip(_spread(len(scores)), scores, strict=True)
        if failures or not score.failed
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(x for x, _ in shown_scores),
        "y": numbers(score.value for _, score in shown_scores),
        "text": [_told(score) for _, score in shown_scores],
        "marker": {
            "color": style.colour,
            "symbol": [CROSS if score.failed else style.symbol for _, score in shown_scores],
            "size": 9,
        },
        "hovertemplate": "%{text}<extra></extra>",
    }


def _told(score: Score) -> str:
    failed = " (failed; counts as this)" if score.failed else ""
    return shown(f"{score.arm}, seed {score.seed}: {score.value:.6g}{failed}")


def _pair_points(place: int, row: Comparison, pairs: Sequence[Pair], style: Style) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(arm.value - base.value for arm, base in pairs),
        "y": numbers(place - 0.15 + offset for offset in _spread(len(pairs), 0.5)),
        "text": [
            shown(f"{row.arm}, seed {arm.seed}: {arm.value - base.value:+.6g}")
            + (" (a run of this pair failed)" if _failed((arm, base)) else "")
            for arm, base in pairs
        ],
        "marker": {
            "color": style.colour,
            "symbol": [CROSS if _failed(pair) else style.symbol for pair in pairs],
            "size": 8,
        },
        "hovertemplate": "%{text}<extra></extra>",
    }


def _mean(name: str, place: float, mean: float, interval: Interval | None, style: Style) -> Json:
    """A mean at `place` with its interval, as a vertical bar."""
    told = f"{name}: mean {mean:.6g}"
    trace: Json = {
        "type": "scatter",
        "mode": "markers",
        "x": [place],
        "y": numbers([mean]),
        "marker": {"color": style.colour, "symbol": "line-ew-open", "size": 14},
        "hovertemplate": "%{text}<extra></extra>",
    }
    if interval is not None:
        told += f", {100 * interval.level:.4g} % interval {interval.low:.6g} to {interval.high:.6g}"
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": numbers([interval.high - mean]),
            "arrayminus": numbers([mean - interval.low]),
            "color": style.colour,
            "thickness": 2,
            "width": 5,
        }
    trace["marker"]["line"] = {"width": 3, "color": style.colour}
    trace["text"] = [shown(told)]
    return trace


def _turned(mean: Json) -> Json:
    """A mean with its bar laid on its side."""
    turned = {**mean, "x": mean["y"], "y": mean["x"]}
    turned["marker"] = {**mean["marker"], "symbol": "line-ns-open"}
    if "error_y" in turned:
        turned["error_x"] = turned.pop("error_y")
    return turned


def _zone(margin: float) -> list[Json]:
    """The margin, shaded, and the line of no difference."""
    tall: Json = {"yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    zone: Json = {**tall, "type": "rect", "x0": -margin, "x1": margin}
    zone |= {"fillcolor": ZONE, "line": {"width": 0}}
    zero: Json = {**tall, "type": "line", "x0": 0, "x1": 0, "line": {"color": GREY, "width": 1}}
    return [zone, zero]
