"""`doctor`: what in this environment would keep a run from replaying."""

from __future__ import annotations

from typing import Annotated

import typer

from rheostat.cli.app import Json, StoreOption, app, print_json


@app.command(epilog="Example: rheostat doctor runs/a")
def doctor(
    run: Annotated[
        str | None,
        typer.Argument(help="a recorded run to compare with: its directory or its id"),
    ] = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Say what here would keep a run from replaying to the same bits. Exit code 1 for a finding."""
    from rheostat.recipes.environments import obstacles
    from rheostat.record.find import run_directory

    found = obstacles(None if run is None else run_directory(run, store))
    if as_json:
        print_json([one._asdict() for one in found])
    else:
        for one in found:
            typer.echo(f"{one.subject}: {one.found}; {one.remedy}")
        if not found:
            typer.echo("nothing here keeps a run from replaying")
    if found:
        raise typer.Exit(1)
