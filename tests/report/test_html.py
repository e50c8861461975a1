"""The page: what it says, that it says it safely, and that it says it to the byte again."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import plotly.offline
import pytest

from rheostat.core.errors import MachineError
from rheostat.lab.results import Results, load_results
from rheostat.record.store import Store
from rheostat.report.html import page, write_study

EVIL = "<script>alert('x')</script><img src=http://evil.example/x.png onerror=alert(1)>"
VOID = {"link", "meta", "img", "br"}


class Reader(HTMLParser):
    """The page as a browser would take it apart."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.headings: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"script", "style"} & set(self.open):
            return
        self.text += f" {data}"
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    reader.text = " ".join(reader.text.split())
    return reader


def own_part(text: str) -> str:
    """The page without the source of plotly.js, which mentions addresses that it never opens."""
    source = plotly.offline.get_plotlyjs()
    assert text.count(source) == 1
    return text.replace(source, "")


@pytest.fixture(scope="module")
def whole(results: Results) -> Reader:
    return read(own_part(page(results)))


def test_the_answer_comes_first_and_the_evidence_after(whole: Reader) -> None:
    assert whole.headings == [
        "Warm restarts on digits",
        "Question",
        "Answer",
        "cosine",
        "cosine_restarts",
        "step",
        "Hypothesis, stated before the first run",
        "Why it is asked",
        "Arms",
        "Comparisons",
        "Figures",
        "Learning rate",
        "Training loss",
        "Gradient norm",
        "Momentum norm",
        "Final accuracy",
        "Final accuracy, finished runs only",
        "Paired differences from constant",
        "Paired differences from constant, finished pairs only",
        "Was like compared with like?",
        "Provenance",
        "The rule",
        "State of the record",
    ]


def test_the_numbers_are_there(whole: Reader, results: Results) -> None:
    assert results.verdict is not None
    for row in results.verdict.comparisons:
        assert row.sentence in whole.text
    assert results.verdict.rule in whole.text
    assert "step 83.94 33.92 55.58 to 112.30 t 8 1" in whole.text
    assert "cosine better +1.13 +0.96 to +1.31 8 0 0 0.00781 0.0234" in whole.text
    assert "8 seeds won, 0 lost" in whole.text
    assert "margin ±0.3 %" in whole.text


def test_the_provenance_is_there(whole: Reader, results: Results) -> None:
    assert results.plan_hash in whole.text
    assert results.study in whole.text
    assert "git commit 0123456789abcdef0123456789abcdef01234567" in whole.text
    assert "git dirty yes" in whole.text
    assert "torch 2.13.0" in whole.text
    assert "threads 1" in whole.text
    assert "host bench" in whole.text
    for run in results.runs:
        assert run.record.content_hash[:12] in whole.text
        assert run.record.header["recipe_hash"][:12] in whole.text
    assert "2.94 2.50 3.38" in whole.text, "seconds per run"
    assert "9,421 batches, all equal" in whole.text
    assert "all is as it was written" in whole.text


def test_it_can_be_used_without_eyes_or_a_mouse(whole: Reader) -> None:
    tags = [tag for tag, _ in whole.tags]
    assert ("html", {"lang": "en"}) in whole.tags
    assert tags.count("table") == tags.count("caption")
    assert tags.count("figure") == tags.count("figcaption") == 8
    for _, attributes in whole.tags:
        if attributes.get("class") == "plot":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
    assert len(whole.ids) == len(set(whole.ids))


def test_nothing_is_loaded_from_anywhere(results: Results) -> None:
    text = own_part(page(results))
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    seen = read(text)
    for tag, attributes in seen.tags:
        assert "src" not in attributes
        if "href" in attributes:
            assert attributes["href"] == "data:," or attributes["href"].startswith("#"), tag
    policies = [a["content"] for _, a in seen.tags if "Content-Security-Policy" in a.values()]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; ")


def test_everything_is_escaped(recorded: Callable[..., Results]) -> None:
    results = recorded()
    assert results.verdict is not None
    arms = {name: {**recipe, "note": EVIL} for name, recipe in results.plan["arms"].items()}
    texts = dict.fromkeys(("study", "question", "hypothesis", "why"), EVIL)
    first, *rest = results.runs
    facts = {"host": EVIL, "git": {"commit": EVIL}}
    header = {**first.record.header, "facts": facts, "environment": {EVIL: EVIL}}
    evil = replace(first, id=EVIL, record=replace(first.record, header=header))
    rows = [replace(row, sentence=EVIL) for row in results.verdict.comparisons]
    results = replace(
        results,
        plan={**results.plan, **texts, "arms": arms, "workload": {EVIL: EVIL}},
        runs=(evil, *rest),
        problems=(EVIL,),
        verdict=replace(results.verdict, metric=EVIL, unit=EVIL, comparisons=tuple(rows)),
    )
    text = own_part(page(results))
    seen = read(text)
    assert "<script>alert" not in text
    assert not [tag for tag, attributes in seen.tags if tag == "img" or "onerror" in attributes]
    assert [tag for tag, _ in seen.tags].count("script") == 3
    assert seen.text.count("<script>alert('x')</script>") >= 12


def test_the_same_record_gives_the_same_bytes(results: Results, tmp_path: Path) -> None:
    paths = [tmp_path / "one.html", tmp_path / "two.html"]
    with Store.open(results.runs[0].record.directory.parents[3]) as store:
        for path in paths:
            write_study(load_results(store, results.study), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.html", "two.html"}


def test_a_void_study_shows_no_verdict(recorded: Callable[..., Results]) -> None:
    seen = read(own_part(page(recorded(headers={("step", 3): {"weights": "0" * 16}}))))
    assert "Comparison void Seed 3: arms constant and step start from different" in seen.text
    assert "No verdict: the comparison is void." in seen.text
    assert "Comparisons" not in seen.headings
    assert "better than" not in seen.text
    assert "article" not in [tag for tag, _ in seen.tags], "no card of a comparison"
    assert "No: seed 3: arms constant and step" in seen.text


def test_an_incomplete_study_shows_how_far_it_is(recorded: Callable[..., Results]) -> None:
    seen = read(own_part(page(recorded(without=(("step", 3), ("cosine", 1))))))
    assert "2 of 32 runs are missing (cosine seed 1, step seed 3)" in seen.text
    assert "No verdict yet" in seen.text
    assert "step 7 8" in seen.text
    assert "Comparisons" not in seen.headings


def test_a_study_without_any_run_has_a_page(recorded: Callable[..., Results]) -> None:
    arms = ("constant", "cosine", "cosine_restarts", "step")
    none = recorded(without=tuple((arm, seed) for arm in arms for seed in range(8)))
    seen = read(page(none))
    assert "32 of 32 runs are missing" in seen.text
    assert "Figures" not in seen.headings


def test_a_tampered_row_is_loud(recorded: Callable[..., Results], tmp_path: Path) -> None:
    results = recorded()
    connection = sqlite3.connect(tmp_path / "store" / "store.sqlite")
    with connection:
        connection.execute("UPDATE runs SET metric = 99 WHERE id = 'cosine.3'")
    connection.close()
    with Store.open(tmp_path / "store") as store:
        seen = read(own_part(page(load_results(store, results.study))))
    assert seen.headings.index("The record does not verify") < seen.headings.index("Answer")
    assert "run cosine.3: its row in the index was changed" in seen.text
    assert "do not rely on the answer" in seen.text


def test_facts_that_are_missing_are_no_error(recorded: Callable[..., Results]) -> None:
    bare = {"facts": {}, "environment": {}, "recipe_hash": "", "restarts": []}
    results = recorded(headers={("step", seed): bare for seed in range(8)})
    seen = read(own_part(page(results)))
    assert "torch 2.13.0 (24 runs)" in seen.text


def test_a_folder_that_is_not_there_is_one_line(results: Results, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot write"):
        write_study(results, tmp_path / "nowhere" / "report.html")
