"""The options that say whose components there are; a command that takes them need do no more."""

from __future__ import annotations

from typing import Annotated

import typer


def _leave_out(chosen: bool) -> bool:
    if chosen:
        from rheostat.core.registry import leave_plugins_out

        leave_plugins_out()
    return chosen


def _bring_in(modules: list[str] | None) -> list[str] | None:
    from rheostat.core.plugins import import_plugin

    for module in modules or ():
        import_plugin(module)
    return modules


NoPlugins = Annotated[
    bool,
    typer.Option("--no-plugins", callback=_leave_out, help="Leave installed plug-ins out."),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        callback=_bring_in,
        help="Import a module of yours that registers components; may be given again.",
    ),
]
