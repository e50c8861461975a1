"""Figures against the step: learning rate with its restarts, loss and norms over the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rheostat.lab.results import Results, Run
from rheostat.report.curves import Band, band, block_length, block_means, corners
from rheostat.report.plot import Figure, Json, Look, Style, layout, numbers, shown, value_axis

HOVERED = 3
"""Diverged runs of an arm that the hover label names; more would push the arms out of it."""


def learning_rates(results: Results, look: Look) -> Figure | None:
    """Learning rate against step: a line per arm (per seed where seeds differ), restarts marked."""
    lines: list[Json] = []
    marks: list[Json] = []
    shapes: list[Json] = []
    rates = [0.0]
    # Arms that share a piece of schedule lie on one another: the first is the widest.
    width = 1.5 * len(results.arms)
    for arm in results.arms:
        runs = [run for run in results.of_arm(arm) if "lr" in run.record.series]
        if runs:
            for run in _distinct(runs):
                lines.append(_lr_line(run, look[arm], width))
                rates += run.record.series["lr"].tolist()
            lines[-1]["showlegend"] = True
            triangles, upright = _restarts(runs[0], look[arm], len(marks))
            marks += triangles
            shapes += upright
        width -= 1.5
    if not lines:
        return None
    found = _over_steps(results, "learning rate")
    found["shapes"] = shapes
    finite = [rate for rate in rates if math.isfinite(rate)]
    low, high = min(finite), max(finite)
    pad = 0.05 * (high - low) or 0.1
    # Marks of restarts stand at the top, whatever the learning rate is; they get room there.
    found["yaxis"]["range"] = [low - pad, high + (4 if marks else 1) * pad]
    found["yaxis2"] = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    marked = "; a triangle and a dotted line mark each restart" if marks else ""
    return Figure(
        name="figure-lr",
        title="Learning rate",
        caption=f"Learning rate of each update, as recorded{marked}. "
        "Where arms coincide, the earlier shows as a rim around the later.",
        alternative=f"Learning rate against step for {', '.join(results.arms)}.",
        traces=[*lines, *marks],
        layout=found,
    )


def curve(
    results: Results, look: Look, name: str, title: str, *, small: bool = False
) -> Figure | None:
    """A recorded series against the step: mean over the seeds of an arm, band over all of them.

    Diverged runs are drawn each by itself: in a mean they would hide all others.
    """
    length = block_length(results.runs)
    bands: dict[str, Band] = {}
    for arm in results.arms:
        whole = [run for run in results.of_arm(arm) if run.record.status != "diverged"]
        found = band(whole, name, length)
        if found is not None:
            bands[arm] = found
    broken = [
        trace
        for arm in results.arms
        for trace in _diverged_of(results.of_arm(arm), look[arm], name, length)
    ]
    if not bands and not broken:
        return None
    limits = [edge for found in bands.values() for edge in (found.low, found.high)]
    axis = value_axis(limits, room_above=bool(broken))
    plan = _over_steps(results, title.lower())
    plan["yaxis"].update(axis)
    plan["showlegend"] = not small
    return Figure(
        name=f"figure-{name.replace('_', '-')}",
        title=title,
        caption=_curve_caption(length, axis["type"], len(broken), colours_above=small),
        alternative=f"{title} against step for {', '.join(results.arms)}.",
        traces=[
            *(_area(found, look[arm], arm) for arm, found in bands.items()),
            *(_mean_line(found, look[arm], arm) for arm, found in bands.items()),
            *broken,
        ],
        layout=plan,
        small=small,
    )


def _over_steps(results: Results, y: str) -> Json:
    """A layout over the planned steps, so that figures below one another line up."""
    found = layout("step", y)
    found["xaxis"]["range"] = [0, results.plan["steps"]]
    found["xaxis"]["unifiedhovertitle"] = {"text": "step %{x}"}
    return found


def _curve_caption(length: int, axis: str, broken: int, *, colours_above: bool) -> str:
    points = "Each step" if length == 1 else f"Each point is the mean of {length} steps"
    kind = "logarithmic" if axis == "log" else "linear"
    notes = [f"{points}; line: mean over seeds; band: lowest to highest seed; {kind} axis"]
    if broken:
        runs = "one diverged run is" if broken == 1 else f"{broken} diverged runs are"
        notes.append(f"{runs} drawn apart, dotted, to a cross at its end or beyond the axis")
    if colours_above:
        notes.append("colours as above")
    return "; ".join(notes) + "."


def _distinct(runs: Sequence[Run]) -> Sequence[Run]:
    """One run where all had the same learning rates (a diverged one, as far as it went)."""
    longest = max(runs, key=lambda run: run.record.steps.size)
    reference = longest.record.series["lr"]
    own = [run.record.series["lr"] for run in runs]
    same = all(np.array_equal(lr, reference[: lr.size]) for lr in own)
    return [longest] if same else runs


def _lr_line(run: Run, style: Style, width: float) -> Json:
    steps, lr = run.record.steps, run.record.series["lr"]
    kept = corners(steps, lr)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": shown(run.arm),
        "legendgroup": run.arm,
        "showlegend": False,
        "x": steps[kept].tolist(),
        "y": numbers(lr[kept]),
        "line": {**_line(style), "width": width, "simplify": False},
        "hovertemplate": "%{y:.4~g}",
    }


def _restarts(run: Run, style: Style, above: int) -> tuple[list[Json], list[Json]]:
    """For the restarts of a run: a trace of triangles that say from what rate to what, and
    dotted lines. `above` traces of triangles stand over this one."""
    record = run.record
    lr = dict(zip(record.steps.tolist(), record.series["lr"].tolist(), strict=True))
    at = [step for step in record.header.get("restarts", []) if step in lr]
    if not at:
        return [], []
    told = [
        f"restart {count} at step {step}: {lr.get(step - 1, lr[step]):.4g} to {lr[step]:.4g}"
        for count, step in enumerate(at, start=1)
    ]
    marks: Json = {
        "type": "scatter",
        "mode": "markers",
        "name": shown(run.arm),
        "legendgroup": run.arm,
        "showlegend": False,
        "x": at,
        "y": [0.97 - 0.05 * above] * len(at),
        "yaxis": "y2",
        "text": told,
        "marker": {"color": style.colour, "symbol": "triangle-down", "size": 11},
        "hovertemplate": "%{text}",
    }
    line = {"color": style.colour, "width": 1.5, "dash": "dot"}
    tall: Json = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "layer": "below", "line": line}
    return [marks], [{**tall, "x0": step, "x1": step} for step in at]


def _line(style: Style) -> Json:
    return {"color": style.colour, "dash": style.dash}


def _area(found: Band, style: Style, arm: str) -> Json:
    kept = np.isfinite(found.low)
    steps = found.steps[kept]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": shown(arm),
        "legendgroup": arm,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": numbers([*steps, *steps[::-1]]),
        "y": numbers([*found.high[kept], *found.low[kept][::-1]]),
        "fill": "toself",
        "fillcolor": style.fill,
        "line": {"width": 0},
    }


def _mean_line(found: Band, style: Style, arm: str) -> Json:
    ends = zip(found.low, found.high, strict=True)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": shown(arm),
        "legendgroup": arm,
        "x": numbers(found.steps),
        "y": numbers(found.mean),
        "text": [f"{low:.3g} to {high:.3g}" for low, high in ends],
        "line": {**_line(style), "width": 2},
        "hovertemplate": "%{y:.4~g} (%{text})",
    }


def _diverged_of(runs: Sequence[Run], style: Style, name: str, length: int) -> list[Json]:
    """The diverged runs of one arm: a trace each, and one name in the legend for all of them."""
    ended = [r for r in runs if r.record.status == "diverged" and name in r.record.series]
    return [_diverged(run, style, name, length, ended) for run in ended]


def _diverged(run: Run, style: Style, name: str, length: int, ended: Sequence[Run]) -> Json:
    values = block_means(run.record.series[name], length)
    steps = block_means(run.record.steps.astype(np.float64), length)
    kept = np.isfinite(values)
    last = max(0, int(kept.sum()) - 1)
    which = f"seed {run.seed}" if len(ended) == 1 else f"{len(ended)} runs"
    trace: Json = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": shown(f"{run.arm}, {which}: diverged"),
        "legendgroup": run.arm,
        "showlegend": run is ended[0],
        "x": numbers(steps[kept]),
        "y": numbers(values[kept]),
        "line": {"color": style.colour, "dash": "dot", "width": 1.5},
        "marker": {"symbol": "x", "size": [0] * last + [9], "color": style.colour},
    }
    if len(ended) > HOVERED:
        return {**trace, "hoverinfo": "skip"}
    seed = "" if len(ended) == 1 else f" (seed {run.seed})"
    return {**trace, "hovertemplate": f"%{{y:.4~g}}{seed}"}
