"""Audit: what happened to a run, or to many."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rheostat.cli.app import Json, StoreOption, app, print_json
from rheostat.cli.plugins import NoPlugins, Plugin
from rheostat.core.errors import InputError, MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rheostat.record.run import RunRecord
    from rheostat.report.audit import Filter
    from rheostat.report.timeline import Entry

_Names = list[str] | None
_AGAIN = "; may be given again."


@app.command(
    epilog="Example: rheostat audit runs/a --controller plateau, "
    "or: rheostat audit --all --where 'study=digits*' --by arm"
)
def audit(
    runs: Annotated[
        _Names, typer.Argument(metavar="RUN...", help="directories, or ids of the store")
    ] = None,
    hyperparameter: Annotated[_Names, typer.Option(help=f"Only what is about it{_AGAIN}")] = None,
    controller: Annotated[
        _Names,
        typer.Option("--controller", "--who", help=f"Only what it did; user, arbiter too{_AGAIN}"),
    ] = None,
    verdict: Annotated[
        _Names, typer.Option(help=f"Only accepted, bounded, refused, undone, skipped …{_AGAIN}")
    ] = None,
    first: Annotated[int | None, typer.Option("--from", help="From this batch on.")] = None,
    last: Annotated[int | None, typer.Option("--to", help="Up to this batch.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All runs of the store, as a table.")
    ] = False,
    where: Annotated[
        _Names,
        typer.Option(
            metavar="KEY=PATTERN", help=f"Only runs whose header has this, dotted keys{_AGAIN}"
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="KEY", help="Group the table by a key of the header.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Draw one run, with its decisions, into this file.")
    ] = None,
    store: StoreOption = None,
    as_json: Json = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Say what changed in a run, when, from what to what, who changed it, why, and what the loss
    did next. Several runs, or --all, give a table of what was decided how often, and with what
    after it: medians of the loss in the window before a decision and in the window after it.
    """
    from rheostat.record.find import run_directories, run_directory
    from rheostat.report.audit import Filter

    if every == bool(runs):
        raise InputError("audit: name the runs, or give --all; one of the two")
    found = [run_directory(run, store) for run in runs or ()] or run_directories(store)
    who, subjects, verdicts = (
        tuple(names or ()) for names in (controller, hyperparameter, verdict)
    )
    asked = Filter(who, subjects, verdicts, first, last)
    if every or len(found) > 1 or by or where:
        if html is not None:
            raise InputError("audit: --html draws one run")
        _many(found, asked, where or [], by, as_json)
    else:
        _one(found[0], asked, html, as_json)


def _one(directory: Path, asked: Filter, html: Path | None, as_json: bool) -> None:
    from rheostat.record.run import RunRecord
    from rheostat.report.audit import data, lines, undecided, watched
    from rheostat.report.timeline import timeline

    record = RunRecord.read(directory)
    entries = timeline(record)
    if not entries and html is None and not watched(record):
        raise InputError(f"{directory}: there is nothing to audit: {undecided(record)}")
    _check(asked, [record], entries)
    shown = asked.chosen(entries)
    if html is not None:
        from rheostat.report.run_page import write_run

        write_run(record, shown, html)
    if as_json:
        print_json(data(record, entries, shown))
    else:
        typer.echo("\n".join(lines(record, entries, shown)))


def _many(
    directories: Sequence[Path], asked: Filter, where: Sequence[str], by: str | None, as_json: bool
) -> None:
    from rheostat.core.controller import spelled
    from rheostat.report.audit import counted
    from rheostat.report.patterns import Where, check_key, patterns, table

    conditions = [Where.read(text) for text in where]
    runs, faults = _read(directories)
    headers = [record.header for record, _ in runs]
    for option, key in [*(("--where", one.key) for one in conditions), ("--by", by)]:
        if key is not None:
            check_key(option, key, headers)
    runs = [run for run in runs if all(one.holds(run[0].header) for one in conditions)]
    _check(asked, [record for record, _ in runs], [entry for _, told in runs for entry in told])
    rows = patterns([(record, asked.chosen(entries)) for record, entries in runs], by)
    if as_json:
        told = [spelled(asdict(row)) for row in rows]
        print_json({"runs": len(runs), "by": by, "patterns": told, "faults": faults})
    else:
        for fault in faults:
            typer.echo(f"rheostat: {fault}", err=True)
        decided = counted(sum(row.decisions for row in rows), "decision")
        counts = f"{decided} in {counted(len(runs), 'run')}"
        typer.echo("\n".join([counts, *(["", *table(rows, by)] if rows else [])]))
    if faults:
        raise typer.Exit(1)


def _read(directories: Sequence[Path]) -> tuple[list[tuple[RunRecord, list[Entry]]], list[str]]:
    """The runs that can be read, with their timelines, and what is wrong with the others."""
    from rheostat.record.run import RunRecord
    from rheostat.report.timeline import timeline

    found: list[tuple[RunRecord, list[Entry]]] = []
    faults: list[str] = []
    for directory in directories:
        try:
            record = RunRecord.read(directory)
            found.append((record, timeline(record)))
        except (InputError, MachineError) as error:
            faults.append(str(error))
    return found, faults


def _check(asked: Filter, records: Sequence[RunRecord], entries: Sequence[Entry]) -> None:
    """Refuse names that are nobody's."""
    if asked:
        from rheostat.core.registry import components

        controllers = [component.name for component in components("controller")]
        who = [*controllers, "arbiter", "safeguard", "user", "plan", "run"]
        asked.check(entries, who, [name for record in records for name in record.series])
