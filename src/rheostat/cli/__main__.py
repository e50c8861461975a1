"""The console script."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

# Importing them is what makes their commands known.
from rheostat.cli import catalogue, files, study  # noqa: F401  # pyright: ignore[reportUnusedImport]
from rheostat.cli.app import app
from rheostat.core.errors import RheostatError


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
