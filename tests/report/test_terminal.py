"""The terminal: plain in a pipe, narrow enough, complete, loud where it must be."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from rheostat.lab.results import Results
from rheostat.report.terminal import WIDTH, print_study


def printed(results: Results, *, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    print_study(results, Console(file=stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_everything_is_said(results: Results) -> None:
    text = words_of(printed(results))
    assert "Which learning-rate schedule is better on digits" in text
    assert "hypothesis: Cosine annealing ends higher" in text
    assert "accuracy (%, higher is better)" in text
    assert results.verdict is not None
    for row in results.verdict.comparisons:
        assert words_of(row.sentence) in text
    assert "0.00781 0.0234" in text, "p as tested and after Holm"
    assert "exact sign-flip" in text
    assert "step 83.94 33.92 55.58 to 112.30 t 8 1" in text
    assert "cosine_restarts +0.04 −0.07 to +0.15 6 2 0 equivalent" in text
    assert words_of(results.verdict.rule) in text
    assert "9,421 batches, all equal" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_too_long(results: Results, width: int) -> None:
    lines = printed(results, width=width).splitlines()
    assert max(map(len, lines)) <= min(width, WIDTH)


def test_a_pipe_gets_neither_colours_nor_boxes(results: Results) -> None:
    text = printed(results)
    assert "\x1b" not in text
    assert not set(text) & set("─━│┃┏╇└")


def test_a_terminal_gets_colours(results: Results) -> None:
    stream = io.StringIO()
    print_study(
        results, Console(file=stream, width=90, force_terminal=True, color_system="standard")
    )
    assert "\x1b[1;32mbetter" in stream.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_poor_encoding_is_no_error(results: Results, encoding: str) -> None:
    text = printed(results, encoding=encoding)
    assert "-11.65" in text
    assert "?" not in text.replace("real?", "").replace("the difference real?", "")


def test_texts_are_not_markup(recorded: Callable[..., Results]) -> None:
    results = recorded()
    plan = {**results.plan, "question": "[red]why[/red] :smile: [/nonsense]?"}
    assert "[red]why[/red] :smile: [/nonsense]?" in printed(replace(results, plan=plan))


def test_a_void_study_is_loud_and_has_no_verdict(recorded: Callable[..., Results]) -> None:
    text = words_of(printed(recorded(headers={("step", 3): {"weights": "0" * 16}})))
    assert "VOID: seed 3: arms constant and step start from different initial weights" in text
    assert "like with like: No: seed 3" in text
    assert "better than" not in text
    assert "Holm p" not in text


def test_an_incomplete_study_says_what_is_missing(recorded: Callable[..., Results]) -> None:
    text = words_of(printed(recorded(without=(("step", 3), ("cosine", 1)))))
    assert "INCOMPLETE: 2 of 32 runs are missing (cosine seed 1, step seed 3)" in text
    assert "no verdict" in text
    assert "Arms:" not in text


def test_problems_of_the_record_are_loud(results: Results) -> None:
    broken = replace(results, problems=("run step.1: its row in the index was changed",))
    text = words_of(printed(broken))
    assert "THE RECORD DOES NOT VERIFY: 1 thing is not as written" in text
    assert "- run step.1: its row in the index was changed" in text
    assert "DOES NOT VERIFY" not in printed(results)


def test_a_narrow_terminal_loses_nothing(results: Results) -> None:
    text = printed(results, width=40)
    assert max(map(len, text.splitlines())) <= 40
    for part in (
        "cosine_restarts",
        "  difference: +0.04",
        "  95 % interval: −0.07 to +0.15",
        "  verdict: equivalent",
        "  TOST Holm p: ",
        "  failed: 1",
    ):
        assert part in text
    wide = words_of(printed(results))
    for paragraph in ("question: ", "rule: "):
        assert wide[wide.index(paragraph) :][:120] in words_of(text)


def test_many_problems_do_not_push_the_answer_away(results: Results) -> None:
    problems = tuple(f"run {index}: its row in the index was changed" for index in range(40))
    text = printed(replace(results, problems=problems, remedy="do this"))
    assert text.count("its row in the index") == 10
    assert "- and 30 more; the report and --json list them all" in text
    assert "What to do: do this." in words_of(text)
