"""The command line: parse, call, print. What a command needs is imported when it runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rheostat.core.errors import InputError, RheostatError

if TYPE_CHECKING:
    from rheostat.record.store import Store

app = typer.Typer(
    name="rheostat",
    help="Optimizers, learning-rate schedules and training regimes as composable parts.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
study_app = typer.Typer(
    help="Run and read studies: honest comparisons of recipes.",
    rich_markup_mode=None,
)
app.add_typer(study_app, name="study")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="PLACE", help="A folder or an SQLAlchemy URL [.rheostat]."),
]


@app.command("list", epilog="Example: rheostat list optimizer 'ada*'")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="optimizer, schedule, …; all by default")
    ] = None,
    pattern: Annotated[str, typer.Argument(help="a shell pattern for names")] = "*",
    as_json: Json = False,
) -> None:
    """List the components there are."""
    from rheostat.core.registry import components

    found = components(kind, pattern)
    if as_json:
        rows = [
            {"kind": c.kind, "name": c.name, "version": c.version, "summary": c.summary}
            for c in found
        ]
        _print_json(rows)
        return
    if not found:
        raise InputError(f"no {kind or 'component'} matches {pattern!r}; `rheostat list` shows all")
    width = max(len(c.ref) for c in found)
    for c in found:
        typer.echo(f"{c.kind:<10} {c.ref:<{width}}  {c.summary}")


@app.command(epilog="Example: rheostat show adamw@1")
def show(
    name: Annotated[str, typer.Argument(help="a component, with or without @VERSION")],
    as_json: Json = False,
) -> None:
    """Show a component's card: what it computes, its arguments, its source."""
    from rheostat.core.registry import component

    found = component(name)
    arguments = {
        parameter.name: None if parameter.default is parameter.empty else parameter.default
        for parameter in found.signature.parameters.values()
    }
    if as_json:
        card = {"kind": found.kind, "name": found.name, "version": found.version, "card": found.doc}
        _print_json({**card, "arguments": arguments})
        return
    typer.echo(f"{found.ref}  ({found.kind})\n\n{found.doc}\n")
    for parameter in found.signature.parameters.values():
        needed = parameter.default is parameter.empty
        typer.echo(f"  {parameter.name} = {'(required)' if needed else parameter.default!r}")


@app.command(epilog="Example: rheostat check lion")
def check(
    name: Annotated[str, typer.Argument(help="an optimizer, with or without @VERSION")],
    as_json: Json = False,
) -> None:
    """Examine an optimizer against the contract, clause by clause."""
    from rheostat.conformance.check import check as examine_all

    findings = examine_all(name)
    broken = [finding for finding in findings if finding.outcome == "broken"]
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        marks = {"holds": "ok", "broken": "BROKEN", "not applicable": "n/a"}
        for finding in findings:
            typer.echo(f"{marks[finding.outcome]:<7} {finding.sentence}")
            if finding.found:
                typer.echo(f"        {finding.found}")
        typer.echo(f"{len(findings)} clauses, {len(broken)} broken")
    if broken:
        raise typer.Exit(1)


@app.command(epilog="Example: rheostat validate recipe.yaml")
def validate(
    file: Annotated[Path, typer.Argument(help="a recipe or a study file")],
    as_json: Json = False,
) -> None:
    """Check a recipe or a study file before anything runs."""
    from rheostat.lab.plan import load_any

    kind, canonical, digest = load_any(file)
    if as_json:
        _print_json({"kind": kind, "hash": digest, "canonical": canonical})
    else:
        typer.echo(f"{file}: a valid {kind}, hash {digest[:12]}")


@app.command(epilog="Example: rheostat schema study > study.schema.json")
def schema(
    kind: Annotated[str, typer.Argument(help="recipe or study")] = "recipe",
) -> None:
    """Print the JSON Schema of recipes or of study files."""
    from rheostat.recipes.schema import recipe_schema, study_schema

    makers = {"recipe": recipe_schema, "study": study_schema}
    if kind not in makers:
        raise InputError(f"schema: {kind!r}: should be 'recipe' or 'study'")
    _print_json(makers[kind]())


@study_app.command("run", epilog="Example: rheostat study run examples/warm_restarts.yaml")
def study_run(
    file: Annotated[Path, typer.Argument(help="a study file")],
    store: StoreOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes, one thread each [the cores there are].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run what is missing of a study, then judge it.

    Interrupt it as you like: the same command goes on where it was.
    """
    from rich.console import Console

    from rheostat.lab.execute import available_cores, execute
    from rheostat.lab.plan import Plan
    from rheostat.record.store import Store
    from rheostat.report.progress import study_progress

    plan = Plan.load(file)
    with Store.open(store) as opened:
        with study_progress(Console(stderr=True)) as progress:
            faults = execute(
                plan, opened, available_cores() if workers is None else workers, progress
            )
        for fault in faults:
            typer.echo(f"rheostat: {fault}", err=True)
        _report(opened, plan.id, as_json, None)
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

    with Store.open(store) as opened:
        _report(opened, opened.study(study).id, as_json, output)


@study_app.command("list", epilog="Example: rheostat study list --store /data/rheostat")
def study_list(store: StoreOption = None, as_json: Json = False) -> None:
    """List the studies of a store."""
    from rheostat.record.store import Store

    with Store.open(store) as opened:
        studies = opened.studies()
        counts = {study.id: len(opened.runs(study.id)) for study in studies}
    if as_json:
        _print_json(
            [
                {"id": s.id, "title": s.title, "created": s.created, "runs": counts[s.id]}
                for s in studies
            ]
        )
        return
    for s in studies:
        typer.echo(f"{s.id}  {s.created}  {counts[s.id]} runs  {s.title}")
    if not studies:
        typer.echo("no studies yet; `rheostat study run FILE` makes one")


def _report(store: Store, study: str, as_json: bool, output: Path | None) -> None:
    from rich.console import Console

    from rheostat.lab.results import load_results
    from rheostat.report.html import write_study
    from rheostat.report.terminal import print_study

    results = load_results(store, study)
    path = output or store.study_directory(study) / "report.html"
    if not as_json:
        print_study(results, Console())  # first: a full disk must not keep the answer back
    write_study(results, path)
    if as_json:
        verdict = results.verdict and asdict(results.verdict)
        gaps = [f"{arm}, seed {seed}" for arm, seed in results.missing]
        found = {"study": study, "plan_hash": results.plan_hash, "verdict": verdict}
        _print_json({**found, "missing": gaps, "problems": results.problems, "report": str(path)})
    else:
        typer.echo(f"report: {path}")
    if results.verdict is None or results.verdict.void or results.problems:
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _on_sigterm(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> NoReturn:
    """The console script: errors on one line, exit codes as documented."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except RheostatError as error:
        typer.echo(f"rheostat: {error}", err=True)
        code = error.exit_code
    except typer.TyperException as error:
        typer.echo(f"rheostat: {error.format_message()} (see rheostat --help)", err=True)
        code = error.exit_code
    except BrokenPipeError:
        # The reader left (`| head`): not an error, but the interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except typer.Exit as stop:
        code = stop.exit_code
    if code == 130:
        typer.echo("interrupted; what was recorded is kept, and the same command goes on", err=True)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
