"""The application that commands join, and the options and the printing that they share."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="rheostat",
    help="Optimizers, learning-rate schedules and training regimes as composable parts.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="PLACE", help="A folder or an SQLAlchemy URL [.rheostat]."),
]


def print_json(value: Any) -> None:
    """Print a value for programs to read."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
