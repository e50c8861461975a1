"""The application that commands join, and the options and the printing that they share."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def group(name: str | None, about: str) -> typer.Typer:
    """A group of commands; alone, without one of them, it prints its help."""
    made = typer.Typer(
        name=name,
        help=about,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_help)
    return made


def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata  # a third of what `--help` takes

        typer.echo(f"rheostat {importlib.metadata.version('rheostat')}")
        raise typer.Exit


app = group(
    "rheostat", "Optimizers, learning-rate schedules and training regimes as composable parts."
)


@app.callback()
def _root(
    context: typer.Context,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    _help(context)


Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="PLACE", help="A folder or an SQLAlchemy URL [.rheostat]."),
]


def print_json(value: Any) -> None:
    """Print a value for programs to read, in JSON's own escapes where the output has no UTF-8."""
    utf = getattr(sys.stdout, "encoding", "utf-8").lower().startswith("utf")
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not utf))


def console(*, stderr: bool = False) -> Console:
    """A console whose reader may leave: what rich makes an exit code of its own, `main` handles."""
    from rich.console import Console

    class Patient(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Patient(stderr=stderr)
