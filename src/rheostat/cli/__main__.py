"""The console script."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any, NoReturn, TextIO

import typer
from typer.main import get_command

# Importing them is what makes their commands known.
from rheostat.cli import audit, catalogue, checkpoint, doctor, files, new, study  # noqa: F401  # pyright: ignore[reportUnusedImport]
from rheostat.cli.app import app
from rheostat.core.errors import MachineError, RheostatError

_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a file behind the standard output refuses with; whatever else fails there is a bug."""


def main() -> NoReturn:
    """The console script: errors on one line, exit codes as documented."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    warnings.formatwarning = _warning_line
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where a program has put its own
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(sys.argv[1:])
    except (KeyboardInterrupt, typer.Abort):
        code = 130
        _say("interrupted; what was recorded is kept, and the same command goes on")
    except RheostatError as error:
        code = error.exit_code
        _say(f"rheostat: {error}")
    except typer.TyperException as error:
        code = error.exit_code
        _say(f"rheostat: {error.format_message()} (see rheostat --help)")
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Call the command: not by its `main`, which has exit codes of its own for broken pipes."""
    command = get_command(app)
    code = 0
    try:
        try:
            with command.make_context("rheostat", arguments) as context:
                command.invoke(context)
        except typer.Exit as stop:
            code = stop.exit_code
        if sys.stdout:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader left (`| head`): not an error, but the interpreter would complain at exit.
        _silence(sys.stdout)
        return 0
    except OSError as error:
        if isinstance(error, RheostatError) or error.filename or error.errno not in _OUTPUT:
            raise
        _silence(sys.stdout)
        raise MachineError(
            f"cannot write the output: {error.strerror}; send it elsewhere or free some space"
        ) from error


def _warning_line(message: Warning | str, *_: Any) -> str:
    """A warning as errors are: one line, and no line of code."""
    return f"rheostat: warning: {message}\n"


def _say(line: str) -> None:
    """Print a line to stderr, if that is possible."""
    try:
        typer.echo(line, err=True)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """What is still buffered goes nowhere, so that nothing fails again when Python ends."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _on_sigterm(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
