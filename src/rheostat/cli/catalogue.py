"""What there is: list, show, check."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from rheostat.cli.app import Json, app, print_json
from rheostat.core.errors import InputError


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
        print_json(rows)
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
        print_json({**card, "arguments": arguments})
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
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"holds": "ok", "broken": "BROKEN", "not applicable": "n/a"}
        for finding in findings:
            typer.echo(f"{marks[finding.outcome]:<7} {finding.sentence}")
            if finding.found:
                typer.echo(f"        {finding.found}")
        typer.echo(f"{len(findings)} clauses, {len(broken)} broken")
    if broken:
        raise typer.Exit(1)
