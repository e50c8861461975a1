"""Studies: run, report, list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rheostat.cli.app import Json, StoreOption, app, console, group, print_json
from rheostat.cli.plugins import NoPlugins, Plugin
from rheostat.core.errors import MachineError

if TYPE_CHECKING:
    from rheostat.lab.results import Results
    from rheostat.record.store import Store

study_app = group("study", "Run and read studies: honest comparisons of recipes.")
app.add_typer(study_app)


@study_app.command("run", epilog="Example: rheostat study run examples/warm_restarts.yaml")
def study_run(
    file: Annotated[Path, typer.Argument(help="a study file")],
    store: StoreOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes, one thread each [the cores there are].")
    ] = None,
    as_json: Json = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Run what is missing of a study, then judge it.

    Interrupt it as you like: the same command goes on where it was.
    """
    from rheostat.lab.execute import available_cores, execute
    from rheostat.lab.plan import Plan
    from rheostat.lab.study_file import warnings_of
    from rheostat.recipes.formats import open_document
    from rheostat.record.store import Store
    from rheostat.report.progress import study_progress

    plan = Plan.load(file)
    for problem in warnings_of(open_document(file, "study")):
        typer.echo(f"warning: {problem.line}", err=True)
    with Store.open(store) as opened:
        with study_progress(console(stderr=True)) as progress:
            faults = execute(
                plan, opened, available_cores() if workers is None else workers, progress
            )
        for fault in faults:
            typer.echo(f"rheostat: {fault}", err=True)
        _report(opened, opened.study(plan.hash).id, as_json, None)
    if faults:
        raise typer.Exit(1)


@study_app.command("report", epilog="Example: rheostat study report warm-restarts")
def study_report(
    study: Annotated[str, typer.Argument(help="a study's id, or the beginning of it")],
    store: StoreOption = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the HTML file.")] = None,
    as_json: Json = False,
) -> None:
    """Make a study's report again from the record, without torch."""
    from rheostat.record.store import Store

    with Store.open(store, writable=False) as opened:
        _report(opened, opened.study(study).id, as_json, output)


@study_app.command("list", epilog="Example: rheostat study list --store /data/rheostat")
def study_list(store: StoreOption = None, as_json: Json = False) -> None:
    """List the studies of a store."""
    from rheostat.record.store import Store

    with Store.open(store, writable=False) as opened:
        studies = opened.studies()
        counts = {study.id: len(opened.runs(study.id)) for study in studies}
    if as_json:
        print_json(
            [
                {
                    "id": s.id,
                    "title": s.title,
                    "created": s.created,
                    "revision": s.revision,
                    "runs": counts[s.id],
                }
                for s in studies
            ]
        )
        return
    for s in studies:
        typer.echo(f"{s.id}  {s.created}  {counts[s.id]} runs  {s.title}")
    if not studies:
        typer.echo("no studies yet; `rheostat study run FILE` makes one")


def _report(store: Store, study: str, as_json: bool, output: Path | None) -> None:
    from rheostat.lab.results import load_results
    from rheostat.report.terminal import print_study

    results = load_results(store, study)
    path = output or store.study_directory(study) / "report.html"
    try:
        if not as_json:
            print_study(results, console())  # first: a full disk must not keep the answer back
    finally:
        _write(results, path, chosen=output is not None)  # also where the reader has left
    if as_json:
        verdict = results.verdict and asdict(results.verdict)
        gaps = [f"{arm}, seed {seed}" for arm, seed in results.missing]
        found = {"study": study, "plan_hash": results.plan_hash, "verdict": verdict}
        beside = {"resilience": results.resilience, "sweep": results.sweep}
        found |= {name: asdict(part) for name, part in beside.items() if part is not None}
        print_json({**found, "missing": gaps, "problems": results.problems, "report": str(path)})
    else:
        typer.echo(f"report: {path}")
    if results.problems:
        first, *more = results.problems
        others = f" (and {len(more)} more)" if more else ""
        raise MachineError(f"the record does not verify: {first}{others}; {results.remedy}")
    if results.verdict is None or results.verdict.void:
        raise typer.Exit(1)


def _write(results: Results, path: Path, *, chosen: bool) -> None:
    from rheostat.report.html import write_study

    try:
        write_study(results, path)
    except MachineError as error:
        advice = "" if chosen else "; --output FILE writes the report to another place"
        raise MachineError(f"{error}{advice}") from error
