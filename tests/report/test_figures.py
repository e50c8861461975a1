"""Figures: that Plotly takes them, that they show the record, and whom they leave out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from rheostat.lab.results import Results
from rheostat.report.figures import draw
from rheostat.report.plot import COLOURS, GREY, Figure, styles


def named(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


@pytest.fixture(scope="module")
def drawn(results: Results) -> dict[str, Figure]:
    return named(draw(results))


def test_all_figures_are_there_in_order(drawn: dict[str, Figure]) -> None:
    assert list(drawn) == [
        "figure-lr",
        "figure-loss",
        "figure-grad-norm",
        "figure-momentum-norm",
        "figure-metric",
        "figure-metric-finished",
        "figure-differences",
        "figure-differences-finished",
    ]
    for figure in drawn.values():
        assert figure.caption.endswith(".")
        assert figure.alternative


def test_plotly_knows_every_property(drawn: dict[str, Figure]) -> None:
    for figure in drawn.values():
        go.Figure({"data": figure.traces, "layout": figure.layout})  # raises on an unknown one


def test_no_line_has_more_points_than_a_screen(recorded: Callable[..., Results]) -> None:
    figures = draw(recorded(steps=1300))
    for figure in figures:
        for trace in figure.traces:
            limit = 1200 if trace.get("fill") else 600  # an area goes there and back
            assert len(trace["x"]) <= limit
            assert len(trace["x"]) == len(trace["y"])
    assert "mean of 3 steps" in named(figures)["figure-loss"].caption


def test_learning_rates_are_those_recorded_with_restarts_marked(
    drawn: dict[str, Figure], results: Results
) -> None:
    figure = drawn["figure-lr"]
    lines = {t["name"]: t for t in figure.traces if t["mode"] == "lines"}
    assert list(lines) == ["constant", "cosine", "cosine_restarts", "step"]
    for arm, line in lines.items():
        recorded = results.of_arm(arm)[0].record.series["lr"]
        assert line["y"] == pytest.approx(recorded.tolist(), rel=1e-5)
    (marks,) = [t for t in figure.traces if t["mode"] == "markers"]
    assert marks["x"] == [100, 200]
    assert marks["text"][0] == "restart 1 at step 100: 2.467e-05 to 0.1"
    assert [shape["x0"] for shape in figure.layout["shapes"]] == [100, 200]


def test_learning_rates_that_differ_between_seeds_are_drawn_for_each(results: Results) -> None:
    first, *rest = results.runs
    series = {**first.record.series, "lr": first.record.series["lr"] * 2}
    changed = replace(first, record=replace(first.record, series=series))
    figure = named(draw(replace(results, runs=(changed, *rest))))["figure-lr"]
    lines = [t for t in figure.traces if t["name"] == "constant"]
    assert len(lines) == 8
    assert sum(t["showlegend"] for t in lines) == 1


def test_a_diverged_run_is_drawn_apart_and_not_in_the_mean(
    drawn: dict[str, Figure], results: Results
) -> None:
    figure = drawn["figure-loss"]
    (apart,) = [t for t in figure.traces if t["mode"] == "lines+markers"]
    assert apart["name"] == "step, seed 5: diverged"
    assert apart["marker"]["symbol"] == "x"
    assert max(apart["y"]) > 1e6
    (mean,) = [t for t in figure.traces if t["name"] == "step" and "hovertemplate" in t]
    finished = [run for run in results.of_arm("step") if not run.failed]
    expected = np.mean([run.record.series["loss"] for run in finished], axis=0)
    assert mean["y"] == pytest.approx(expected.tolist(), rel=1e-5)
    low, high = figure.layout["yaxis"]["range"]
    assert low < math.log10(0.08)
    assert high < 2, "the run that explodes must not flatten the others"


def test_a_loss_below_zero_gets_a_linear_axis(results: Results) -> None:
    def lowered(figure_of: Results) -> Results:
        runs = [
            replace(
                run,
                record=replace(
                    run.record,
                    series={**run.record.series, "loss": run.record.series["loss"] - 5},
                ),
            )
            for run in figure_of.runs
        ]
        return replace(figure_of, runs=tuple(runs))

    figure = named(draw(lowered(results)))["figure-loss"]
    assert figure.layout["yaxis"]["type"] == "linear"
    assert "linear axis" in figure.caption


def points(figure: Figure) -> list[dict[str, Any]]:
    """The traces whose markers are runs or pairs of runs."""
    return [
        t
        for t in figure.traces
        if t["mode"] == "markers" and isinstance(t["marker"]["symbol"], list)
    ]


def test_every_seed_is_shown_and_a_failure_at_its_score(
    drawn: dict[str, Figure], results: Results
) -> None:
    shown = points(drawn["figure-metric"])
    assert [len(t["y"]) for t in shown] == [8, 8, 8, 8]
    assert shown[3]["y"][5] == 0.0
    assert shown[3]["marker"]["symbol"][5] == "x"
    assert "failed" in shown[3]["text"][5]
    assert shown[1]["y"] == pytest.approx([run.value for run in results.of_arm("cosine")], rel=1e-5)
    for trace in shown:
        assert len(set(trace["x"])) == 8, "equal scores must not cover one another"
    assert [len(t["y"]) for t in points(drawn["figure-metric-finished"])] == [8, 8, 8, 7]


def test_differences_are_those_of_the_verdict(drawn: dict[str, Figure], results: Results) -> None:
    assert results.verdict is not None
    shown = points(drawn["figure-differences"])[::-1]  # from the top
    for row, trace in zip(results.verdict.comparisons, shown, strict=True):
        assert trace["x"] == pytest.approx(row.differences, rel=1e-5)
    zone = drawn["figure-differences"].layout["shapes"][0]
    assert (zone["x0"], zone["x1"]) == (-0.3, 0.3)
    bars = [t for t in drawn["figure-differences"].traces if "error_x" in t][::-1]
    for row, bar in zip(results.verdict.comparisons, bars, strict=True):
        assert bar["x"][0] - bar["error_x"]["arrayminus"][0] == pytest.approx(
            row.interval.low, rel=1e-4
        )
        assert bar["x"][0] + bar["error_x"]["array"][0] == pytest.approx(
            row.interval.high, rel=1e-4
        )
    assert [len(t["x"]) for t in points(drawn["figure-differences-finished"])] == [7, 8, 8]


def test_without_failures_no_figure_comes_twice(recorded: Callable[..., Results]) -> None:
    names = list(named(draw(recorded())))
    assert names[4:] == ["figure-metric", "figure-differences"]


def test_a_void_study_has_scores_but_no_differences(recorded: Callable[..., Results]) -> None:
    names = list(named(draw(recorded(headers={("step", 3): {"data": "other"}}))))
    assert names[4:] == ["figure-metric"]


def test_an_incomplete_study_has_curves_only(recorded: Callable[..., Results]) -> None:
    names = list(named(draw(recorded(without=(("step", 3),)))))
    assert names == ["figure-lr", "figure-loss", "figure-grad-norm", "figure-momentum-norm"]


def test_an_arm_keeps_its_colour_in_every_figure(drawn: dict[str, Figure]) -> None:
    for figure in drawn.values():
        for trace in figure.traces:
            if trace.get("name") == "cosine" and "line" in trace and not trace.get("fill"):
                assert trace["line"]["color"] == COLOURS[0]


def test_many_arms_stay_apart() -> None:
    look = styles([f"arm{index}" for index in range(25)], "arm0")
    assert look["arm0"].colour == GREY
    assert len({(style.colour, style.dash) for style in look.values()}) == 25


def test_names_are_not_markup_for_plotly(recorded: Callable[..., Results]) -> None:
    results = recorded()
    assert results.verdict is not None
    verdict = replace(results.verdict, metric="<a href='x'>loss</a>")
    figure = named(draw(replace(results, verdict=verdict)))["figure-metric"]
    assert figure.layout["yaxis"]["title"]["text"].startswith("&lt;a href=")


def test_many_diverged_runs_take_one_name_in_the_legend(results: Results) -> None:
    diverged = tuple(
        replace(run, record=replace(run.record, status="diverged"))
        if run.arm in ("step", "cosine")
        else run
        for run in results.runs
    )
    figure = named(draw(replace(results, runs=diverged, verdict=None)))["figure-loss"]
    apart = [trace for trace in figure.traces if "diverged" in trace["name"]]
    assert len(apart) == 16
    told = [trace["name"] for trace in apart if trace["showlegend"]]
    assert told == ["cosine, 8 runs: diverged", "step, 8 runs: diverged"]
    assert {trace.get("hoverinfo") for trace in apart} == {"skip"}
    assert "16 diverged runs are drawn apart" in figure.caption


def test_the_baseline_is_grey_wherever_it_stands() -> None:
    look = styles(["a", "base", "b"], "base")
    assert [look[arm].colour for arm in ("a", "base", "b")] == [COLOURS[0], GREY, COLOURS[1]]
