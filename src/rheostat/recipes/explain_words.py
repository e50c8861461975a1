"""An explanation as text, as data, and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from rheostat.recipes.explain import Explanation, Row, grouped
from rheostat.recipes.explain_regime import Watching

_UNITS = ("B", "kB", "MB", "GB", "TB")


def as_text(made: Explanation) -> str:
    """For a terminal."""
    parts = [made.title, "", _columns(_head(made), _body(made)), "", *_totals(made), ""]
    for index, line in enumerate(made.lines):
        if any(row.line == index for row in made.rows):
            parts += [f"[{index}] {line.rule}: {' → '.join(line.chain)}"]
            parts += [f"    {piece}" for piece in line.pieces]
            parts += [f"    {line.source}"] if line.source else []
    if made.watching is not None:
        parts += ["", *_watched(made.watching)]
    parts += ["", *(str(preview) + "\n" for preview in made.previews)]
    parts += [f"warning: {warning}" for warning in made.warnings]
    return "\n".join(parts).rstrip()


def as_data(made: Explanation) -> dict[str, Any]:
    """For programs; schedules at their milestones."""
    return {
        "title": made.title,
        "ranks": made.ranks,
        "parameters": [asdict(row) for row in made.rows],
        "lines": [asdict(line) for line in made.lines],
        "totals": _sums(made.rows),
        "schedules": [
            {"title": p.title, "milestones": [m._asdict() for m in p.milestones]}
            for p in made.previews
        ],
        "watching": None if made.watching is None else asdict(made.watching),
        "warnings": list(made.warnings),
    }


def as_page(made: Explanation) -> str:
    """For a browser: a table and a drawing of each schedule."""
    head = "".join(f"<th>{escape(cell)}" for cell in _head(made))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in _body(made))
    told = "".join(f"<p>{escape(line)}" for line in _totals(made))
    rules = "".join(
        f"<h3>[{index}] {escape(line.rule)}: {escape(' → '.join(line.chain))}</h3><ul>"
        + "".join(f"<li>{escape(piece)}" for piece in line.pieces)
        + f"</ul><p>{escape(line.source)}"
        for index, line in enumerate(made.lines)
    )
    watched = _watched(made.watching) if made.watching else ["nothing"]
    guard = "".join(f"<p>{escape(line)}" for line in watched)
    figures = "".join(preview.html() for preview in made.previews)
    warnings = "".join(f"<li>{escape(warning)}" for warning in made.warnings)
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>'
        f"{escape(made.title)}</title><style>{_STYLE}</style><h1>{escape(made.title)}</h1>"
        f"<table><thead><tr>{head}<tbody>{body}</table>{told}<h2>Rules</h2>{rules}"
        f"<h2>Regime and safeguards</h2>{guard}"
        f"<h2>Schedules</h2>{figures or '<p>All hyperparameters are constant.'}"
        f"<h2>Warnings</h2><ul>{warnings or '<li>none'}</ul></html>\n"
    )


def _watched(made: Watching) -> list[str]:
    """Who may change what, by which signals, and what is kept."""
    lines: list[str] = []
    if made.replay is not None:
        lines.append(f"regime: what was decided in {made.replay} is done again")
    for one in made.controllers:
        lines.append(f"regime: {one.written}")
        lines.append(f"    changes {', '.join(one.changes) or 'no hyperparameter'}")
        if one.idle:
            lines.append(f"    no rule has {', '.join(one.idle)}")
        lines.append(f"    reads {', '.join(('the loss', *one.signals))}")
    lines += [f"arbiter: {term}" for term in made.terms]
    if made.dry_run:
        lines.append("arbiter: a dry run: it says what it would do, and changes nothing")
    if made.safeguards:
        lines.append(f"safeguards: {made.safeguards}")
        one, all_ = made.copy_bytes, made.copies
        cost = (
            "of weights and state" if one is None else f"of {size(one)}, {size(one * all_)} in all"
        )
        lines.append(f"    at most {all_} copies {cost}")
    lines += [f"signal {name}: {cost}" for name, cost in made.signals.items()]
    return lines


_STYLE = (
    ":root{color-scheme:light dark}body{font:15px system-ui;max-width:70em;margin:2em auto;"
    "padding:0 1em}table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.2em .6em;text-align:left;border-bottom:1px solid #8884}"
    "figure{max-width:42em;margin:1em 0}pre{overflow-x:auto}"
)


def _head(made: Explanation) -> list[str]:
    state = "state" if made.ranks == 1 else f"state on one of {made.ranks}"
    return ["parameter", "×", "shape", "role", "rule", "lr", "factor", "decay", state]


def _body(made: Explanation) -> list[list[str]]:
    rows: list[list[str]] = []
    for group in grouped(made.rows):
        line = made.lines[group.first.line]
        rows.append(
            [
                group.name,
                str(len(group.rows)),
                "×".join(map(str, group.first.shape)) or "scalar",
                group.first.role,
                f"[{group.first.line}] {line.rule}",
                line.lr,
                f"{line.lr_factor:g}",
                line.decay,
                _size_of_all(row.rank_state for row in group.rows),
            ]
        )
    return rows


def _sums(rows: Sequence[Row]) -> dict[str, Any]:
    known = [row.flops for row in rows if row.flops is not None]
    return {
        "parameters": sum(_count(row) for row in rows),
        "state_bytes": _sum(row.state for row in rows),
        "rank_state_bytes": _sum(row.rank_state for row in rows),
        "moved_bytes": sum(row.moved for row in rows),
        "flops": sum(known),
        "flops_known_of": sum(_count(row) for row in rows if row.flops is not None),
    }


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum; None where one of them is not known."""
    found = list(counts)
    known = [count for count in found if count is not None]
    return sum(known) if len(known) == len(found) else None


def _size_of_all(counts: Iterable[int | None]) -> str:
    found = _sum(counts)
    return "?" if found is None else size(found)


def _count(row: Row) -> int:
    product = 1
    for length in row.shape:
        product *= length
    return product


def _totals(made: Explanation) -> list[str]:
    sums = _sums(made.rows)
    count = sums["parameters"]
    lines = [f"{count:,} weights in {len(made.rows)} parameters"]
    if sums["state_bytes"] is None:
        lines.append("state: not known, for the optimizer is another library's")
    else:
        lines.append(f"state: {size(sums['state_bytes'])}")
        if made.ranks > 1:
            lines[-1] += f", {size(sums['rank_state_bytes'])} on each of {made.ranks} ranks"
    lines.append(f"a step moves at least {size(sums['moved_bytes'])} of memory")
    if sums["flops_known_of"]:
        share = sums["flops_known_of"] / count
        part = "" if share == 1 else f", for the {share:.0%} of weights whose rule says"
        lines.append(f"a step computes about {sums['flops']:.2g} flops{part}")
    return lines


def size(count: float) -> str:
    """Bytes as people say them: 56 GB."""
    power = 0
    while count >= 1000 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {_UNITS[power]}"


def _columns(head: list[str], rows: list[list[str]]) -> str:
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
