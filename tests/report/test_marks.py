"""Marks: where they stand, what they say, and that thinning hides nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from tests.references import audited
from tests.report.regimes import with_regime

from rheostat.lab.results import Results
from rheostat.record.run import RunRecord
from rheostat.regimes.account import Outcome
from rheostat.report.figures import draw
from rheostat.report.marks import BACK, PLACES, SIGNS, TOLD, Mark, on_curve, told, traces
from rheostat.report.plot import Figure, Json
from rheostat.report.run_page import borders, curve, run_page
from rheostat.report.timeline import OTHERS, VERDICTS, Entry, timeline


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return RunRecord.read(audited.write_run(tmp_path_factory.mktemp("audited") / "run"))


@pytest.fixture(scope="module")
def entries(run: RunRecord) -> list[Entry]:
    return timeline(run)


def entry(batch: int, verdict: str = "accepted") -> Entry:
    outcome = Outcome(2.0, 1.0)
    where = batch, None, None
    return Entry(*where, "plateau", verdict, "lr", "1 → <2>", "why & how", {}, outcome)


def marks_of(figure: Figure) -> list[Json]:
    return [t for t in figure.traces if str(t.get("legendgroup", "")).startswith("mark ")]


def test_every_kind_of_entry_has_a_sign_of_its_own() -> None:
    assert set(SIGNS) == {*VERDICTS, *OTHERS, BACK}
    assert len(set(SIGNS.values())) == len(SIGNS)


def test_a_mark_says_who_what_why_and_what_followed_and_injects_nothing() -> None:
    assert told(Mark(entry(7), 0.0, "a<b, seed 3")).split("<br>") == [
        "batch 7, a&lt;b, seed 3: plateau, accepted: lr 1 → &lt;2&gt;",
        "why &amp; how",
        "loss before and after: 2 → 1 (−50 %)",
    ]


def test_marks_lie_on_the_curve_and_where_it_has_a_gap_on_the_last_value() -> None:
    values = np.array([1.0, 2.0, np.nan, np.inf, 5.0])
    found = on_curve([entry(batch) for batch in range(5)], np.arange(5), values)
    assert [mark.y for mark in found] == [1.0, 2.0, 2.0, 2.0, 5.0]
    assert on_curve([entry(0)], np.arange(2), np.full(2, np.nan)) == []


def test_thinning_counts_what_it_puts_together() -> None:
    many = [Mark(entry(batch), 1.0) for batch in range(PLACES * 10)]
    (trace,) = traces(many, PLACES * 10)
    assert len(trace["x"]) == PLACES
    for at, text in zip(trace["x"], trace["text"], strict=True):
        assert text.count("why &amp; how") == TOLD
        assert text.endswith(f"and {10 - TOLD} more up to batch {at + 9}")
    (one,) = traces(many[:1], PLACES * 10)
    assert one["marker"]["size"][0] < min(trace["marker"]["size"])
    kinds = traces([Mark(entry(3, kind), 1.0) for kind in ("undone", "accepted")], 10)
    assert [trace["name"] for trace in kinds] == ["accepted", "undone"]


def test_a_study_marks_its_arms_with_a_regime_and_no_others(results: Results) -> None:
    plain = {figure.name: figure for figure in draw(results)}
    assert not any(marks_of(figure) for figure in plain.values())
    assert "yaxis2" not in plain["figure-loss"].layout
    found = with_regime(results, "cosine")
    drawn = {figure.name: figure for figure in draw(found)}
    for figure in drawn.values():
        go.Figure({"data": figure.traces, "layout": figure.layout})  # raises on what it knows not
    loss, rates = drawn["figure-loss"], drawn["figure-lr"]
    assert loss.layout["yaxis2"]["ticktext"] == ["cosine"]
    assert loss.layout["yaxis2"]["domain"][1] < loss.layout["yaxis"]["domain"][0]
    said = " ".join(text for trace in marks_of(loss) for text in trace["text"])
    assert set(re.findall(r"cosine, seed (\d)", said)) == set("01234567")
    assert "constant" not in said
    assert {trace["yaxis"] for trace in marks_of(loss)} == {"y2"}
    # On the learning rates only what moved them, each where its own run was.
    assert {trace["name"] for trace in marks_of(rates)} <= {*SIGNS} - {"refused", "kept"}
    by_seed = {run.seed: run.record for run in found.of_arm("cosine")}
    places = [
        (text, at, y)
        for trace in marks_of(rates)
        for text, at, y in zip(trace["text"], trace["x"], trace["y"], strict=True)
    ]
    assert places
    for text, at, y in places:
        seed = int(re.findall(r"seed (\d)", text)[0])
        assert y == by_seed[seed].series["lr"][at]


def test_every_decision_of_a_study_is_counted_in_the_rug(results: Results) -> None:
    found = with_regime(results, "cosine", "step", often=60)
    (figure,) = [figure for figure in draw(found) if figure.name == "figure-loss"]
    counted = 0
    for trace in marks_of(figure):
        assert len(trace["x"]) <= 2 * PLACES
        for text in trace["text"]:
            more = re.findall(r"and (\d+) more", text)
            counted += len(re.findall(r"batch \d+, ", text)) + (int(more[0]) if more else 0)
    assert counted == 2 * 8 * 60


def test_a_run_that_ended_at_once_is_drawn(recorded: Callable[..., Results]) -> None:
    found = recorded(steps=1)
    assert draw(with_regime(found, "cosine", often=3))


def test_the_page_of_a_run_has_curves_marks_and_the_timeline(
    run: RunRecord, entries: list[Entry]
) -> None:
    text = run_page(run, entries)
    for words in ("Learning rate", "Gradient norm", "Gradient spike", "What happened, by batch"):
        assert words in text
    assert "<title>run · Rheostat</title>" in text
    assert text.count("<tr>") == len(entries) + 1
    assert "segment</h3>" not in text
    assert run_page(run, entries) == text


def test_marks_of_a_run_stand_at_what_they_are_about(run: RunRecord, entries: list[Entry]) -> None:
    def batches(name: str) -> list[int]:
        figure = curve(run, name, entries, 0)
        assert figure is not None
        go.Figure({"data": figure.traces, "layout": figure.layout})
        return sorted(at for trace in marks_of(figure) for at in trace["x"])

    assert batches("loss") == [entry.batch for entry in entries]
    assert batches("lr") == [entry.batch for entry in entries if entry.subject == "lr"]
    assert batches("grad_norm") == []
    seen = replace(entries[0], evidence={"gradient_spike": 9.0})
    figure = curve(run, "gradient_spike", [seen], 0)
    assert figure is not None
    assert [trace["x"] for trace in marks_of(figure)] == [[60]]


def test_a_series_without_a_number_is_left_out(run: RunRecord) -> None:
    series = {**run.series, "loss": np.full(run.steps.size, np.nan)}
    assert curve(replace(run, series=series), "loss", [], 0) is None


def test_going_back_shows_its_border_and_what_was_undone(entries: list[Entry]) -> None:
    line, stretch = borders(entries)
    assert (line["x0"], line["x1"]) == (audited.BACK, audited.BACK)
    assert (stretch["x0"], stretch["x1"]) == (audited.BACK - 20, audited.BACK)
    dry = [
        replace(e, account=replace(e.account, dry=True)) for e in entries if e.account is not None
    ]
    assert borders(dry) == []
