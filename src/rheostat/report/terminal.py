"""The answer of a study on a terminal; in a pipe the same as plain text, without colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rheostat.lab.results import Results
from rheostat.lab.verdict import RULE, ArmSummary, Comparison, Verdict
from rheostat.report import conditions, words

WIDTH = 100
"""Columns at most: longer lines are hard to read, however wide the terminal is."""

SHOWN = 10
"""Problems at most; the answer should not scroll away."""

LOUD = "bold red"
STYLES = {"better": "bold green", "worse": "bold red", "equivalent": "bold cyan"}

# What an encoding without them gets in place of the signs of our texts; anything else is "?".
_PLAIN = str.maketrans({"−": "-", "±": "+/-", "–": "-", "×": "x", "…": "...", "·": "-", "σ": "s"})


def print_study(results: Results, console: Console) -> None:
    """Print what a study found: question, arms, comparisons, the answer in words, the rule."""
    page = _Page(console)
    verdict = results.verdict
    page.line(results.plan["study"], "bold")
    page.pair("question", results.plan["question"])
    page.pair("hypothesis", results.plan["hypothesis"])
    if verdict is None:
        page.loud(f"INCOMPLETE: {words.missing(results)}; there is no verdict yet.")
    else:
        page.table(f"Arms: {words.metric(verdict)}", _arms_head(verdict), _arms(verdict))
    if results.parting is not None:
        page.loud(f"VOID: {words.parted(results.parting)}; there is no verdict.")
    if verdict is not None and verdict.comparisons:
        title = f"Differences from {verdict.baseline}: margin {words.margin(verdict)}"
        page.table(title, _differences_head(verdict), _differences(verdict))
        page.table("Tests", _TESTS_HEAD, [_tests(row) for row in verdict.comparisons])
        page.gap()
        for row in verdict.comparisons:
            page.line(row.sentence, STYLES.get(row.outcome, "bold"))
    for table in conditions.tables(results):
        page.table(table.title, table.head, table.rows)
        if table.note:
            page.line(table.note)
    page.pair("like with like", words.fairness(results))
    if results.problems:
        page.loud(f"THE RECORD DOES NOT VERIFY: {words.problems(results)}")
        for problem in results.problems[:SHOWN]:
            page.line(f"- {problem}", LOUD)
        if (more := len(results.problems) - SHOWN) > 0:
            page.line(f"- and {more} more; the report and --json list them all", LOUD)
    page.pair("rule", RULE)


class _Page:
    """A console and what fits on it: at most `WIDTH` columns, only signs that it can encode."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = min(WIDTH, console.width)

    def gap(self) -> None:
        self._console.print()

    def line(self, text: str, style: str = "") -> None:
        self._print(Text(self._fit(text), style=style))

    def pair(self, name: str, text: str) -> None:
        """A paragraph that begins with its name, after a gap."""
        self.gap()
        self._print(Text.assemble((f"{name}: ", "bold"), self._fit(text)))

    def loud(self, text: str) -> None:
        self.gap()
        self.line(text, LOUD)

    def table(self, title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table under its title; the first column is to the left, the last in its colour.

        Where a word of it would not fit on its line, each row becomes a list.
        """
        head = [self._fit(name) for name in head]
        rows = [[self._fit(cell) for cell in row] for row in rows]
        least = [max(map(_longest_word, column)) for column in zip(head, *rows, strict=True)]
        table = Table(
            box=box.SIMPLE_HEAD if self._console.is_terminal else None,
            padding=(0, 1),
            pad_edge=False,
            show_edge=False,
        )
        for index, name in enumerate(head):
            side: Literal["left", "right"] = "left" if index in (0, len(head) - 1) else "right"
            table.add_column(name, justify=side, overflow="fold", min_width=least[index])
        for row in rows:
            cells = [Text(cell) for cell in row]
            cells[-1].stylize(STYLES.get(row[-1], ""))
            table.add_row(*cells)
        self.gap()
        self.line(title, "bold")
        if sum(least) + 2 * (len(least) - 1) <= self._width:
            self._print(table)
            return
        for row in rows:
            self.line(row[0], "bold")
            for name, cell in zip(head[1:], row[1:], strict=True):
                self._print(Text(f"  {name}: ").append(cell, STYLES.get(cell, "")))

    def _print(self, thing: Text | Table) -> None:
        self._console.print(thing, width=self._width)

    def _fit(self, text: str) -> str:
        encoding = self._console.encoding
        if encoding.lower().startswith("utf"):
            return text
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _arms_head(verdict: Verdict) -> Sequence[str]:
    return ("arm", "mean", "sd", f"{words.level(verdict)} interval", "method", "seeds", "failed")


def _arms(verdict: Verdict) -> list[Sequence[str]]:
    places = words.places(verdict)
    return [_arm(arm, places) for arm in verdict.arms]


def _arm(arm: ArmSummary, places: int) -> Sequence[str]:
    return (
        arm.name,
        words.number(arm.mean, places),
        words.number(arm.sd, places),
        words.interval(arm.interval, places),
        arm.interval.method if arm.interval else "",
        str(len(arm.scores)),
        str(arm.failures),
    )


def _differences_head(verdict: Verdict) -> Sequence[str]:
    return (
        "arm",
        "difference",
        f"{words.level(verdict)} interval",
        "won",
        "lost",
        "tied",
        "verdict",
    )


def _differences(verdict: Verdict) -> list[Sequence[str]]:
    places = words.places(verdict)
    return [
        (
            row.arm,
            words.number(row.mean, places, sign=True),
            words.interval(row.interval, places, sign=True),
            str(row.wins),
            str(row.losses),
            str(row.ties),
            row.outcome,
        )
        for row in verdict.comparisons
    ]


_TESTS_HEAD = ("arm", "p", "Holm p", "TOST p", "TOST Holm p", "test")


def _tests(row: Comparison) -> Sequence[str]:
    numbers = (row.p, row.p_holm, row.tost_p, row.tost_holm)
    return (row.arm, *map(words.p_value, numbers), row.p_method)
