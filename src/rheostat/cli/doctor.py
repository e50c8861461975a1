"""`doctor`: what in this environment would keep a run from replaying."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rheostat.cli.app import Json, app, print_json


@app.command(epilog="Example: rheostat doctor runs/a")
def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="a recorded run to compare this environment with")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what here would keep a run from replaying to the same bits. Exit code 1 for a finding."""
    from rheostat.recipes.environments import obstacles

    found = obstacles(run)
    if as_json:
        print_json(found)
    else:
        for one in found:
            typer.echo(f"{one['subject']}: {one['found']}; {one['remedy']}")
        if not found:
            typer.echo("nothing here keeps a run from replaying")
    if found:
        raise typer.Exit(1)
