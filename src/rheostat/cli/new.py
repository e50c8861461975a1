"""`new`: a plug-in package to fill in. It installs, is found, and passes its tests as it stands."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from rheostat.cli.app import app
from rheostat.core.errors import InputError, MachineError, nearest

TEMPLATES = Path(__file__).parent / "templates"
"""One folder a kind, and `package` for what all have. NAME and PACKAGE in the names of files, and
`$name` and the like inside them, are filled in."""


def kinds() -> list[str]:
    """The kinds that there is a template for."""
    return sorted(path.name for path in TEMPLATES.iterdir() if path.name != "package")


@app.command(epilog="Example: rheostat new optimizer absolute_mean")
def new(
    kind: Annotated[
        str, typer.Argument(help="optimizer, schedule, signal, controller or workload")
    ],
    name: Annotated[str, typer.Argument(help="the component's name, such as absolute_mean")],
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write it [rheostat-NAME].")
    ] = None,
) -> None:
    """Write a plug-in package with a component to fill in, its entry point and its tests."""
    from rheostat.core.registry import components

    if kind not in kinds():
        raise InputError(f"new: there is no template for {kind!r}; {nearest(kind, kinds())}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(f"new: {name!r}: a name is lower-case letters, digits and _")
    if taken := next((c for c in components() if c.name == name), None):
        raise InputError(f"new: the name {name!r} belongs to {taken.ref}, of kind {taken.kind}")
    place = folder or Path(f"rheostat-{name.replace('_', '-')}")
    if place.exists():
        raise InputError(f"new: {place} exists already; name another with --folder")
    words = {
        "name": name,
        "kind": kind,
        "package": f"rheostat_{name}",
        "distribution": f"rheostat-{name.replace('_', '-')}",
    }
    try:
        for source in (TEMPLATES / "package", TEMPLATES / kind):
            for path in sorted(source.rglob("*.template")):
                inside = str(path.relative_to(source)).removesuffix(".template")
                inside = inside.replace("PACKAGE", words["package"]).replace("NAME", name)
                target = place / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                text = Template(path.read_text("utf-8")).substitute(words)
                target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MachineError(f"cannot write {place}: {error.strerror}") from error
    typer.echo(f"{place}: fill in src/{words['package']}/{name}.py, then:")
    typer.echo(f"  pip install -e {place}\n  rheostat show {name}\n  pytest {place}")
