"""What there is: list, show, check."""

from __future__ import annotations

from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rheostat.cli.app import Json, app, print_json
from rheostat.cli.plugins import NoPlugins, Plugin
from rheostat.core.errors import InputError, MachineError

if TYPE_CHECKING:
    from rheostat.core.component import BrokenPlugin, Component


@app.command("list", epilog="Example: rheostat list optimizer 'ada*'")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="optimizer, schedule, …; all by default")
    ] = None,
    pattern: Annotated[
        str, typer.Argument(help="a shell pattern for names; 'torch/*' for another library's")
    ] = "*",
    tag: Annotated[
        list[str] | None, typer.Option(help="Only what has this tag; may be given again.")
    ] = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="Only rules for matrices.")] = False,
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Only what uses curvature.")
    ] = False,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Only what takes sparse gradients.")
    ] = False,
    state_bytes: Annotated[
        float | None,
        typer.Option(help="Only optimizers with at most so many bytes of state a parameter."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each card there, and an index.")
    ] = None,
    as_json: Json = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """List the components there are."""
    from rheostat.core.component import SHELVES, broken_plugins
    from rheostat.core.plugins import libraries
    from rheostat.core.registry import components

    if kind is not None and kind not in SHELVES and pattern == "*" and set(kind) & set("*?[/"):
        kind, pattern = None, kind
    tags = {*(tag or ()), *(["matrix"] * matrix), *(["second-order"] * second_order)}
    found = [
        c
        for c in components(kind, pattern)
        if _works(c)
        and tags <= set(c.card.tags)
        and ((not sparse and state_bytes is None) or _able(c, sparse, state_bytes))
    ]
    filtered = bool(tags) or sparse or state_bytes is not None
    broken = [b for b in broken_plugins() if not filtered and fnmatchcase(b.name, pattern)]
    if not found and not broken:
        what = f"matches {pattern!r}{' and the options' if filtered else ''}"
        raise InputError(f"no {kind or 'component'} {what}; `rheostat list` shows all")
    if markdown is not None:
        _write(markdown, found)
        return
    if as_json:
        print_json([_row(c) for c in found] + [_broken_row(b) for b in broken])
        return
    width = max(len(name) for name in (*(c.ref for c in found), *(b.name for b in broken)))
    for c in found:
        gone = f" (deprecated: {c.deprecated})" if c.deprecated else ""
        whose = f" [{c.plugin}]" if c.plugin else ""
        typer.echo(f"{c.kind:<10} {c.ref:<{width}}  {c.summary}{gone}{whose}")
    for b in broken:
        word = "refused" if "/" in b.name else "broken"
        typer.echo(f"{word:<10} {b.name:<{width}}  {b.reason} [{b.plugin}]")
    if kind in (None, "optimizer", "schedule") and pattern == "*" and not filtered:
        for library in libraries():
            typer.echo(f"{'':<10} {library + '/…':<{width}}  rheostat list '{library}/*'")


def _works(component: Component) -> bool:
    """Whether a plug-in's component can be made, which only its import tells; ours all can."""
    if component.plugin is None:
        return True
    try:
        return bool(component.factory)
    except MachineError:
        return False  # and is listed among the broken


def _able(component: Component, sparse: bool, state_bytes: float | None) -> bool:
    from rheostat.cli.cards import traits_of

    traits = traits_of(component)
    if traits is None or (sparse and not traits.sparse):
        return False
    return state_bytes is None or traits.state_bytes <= state_bytes


def _row(component: Component) -> dict[str, Any]:
    return {
        "kind": component.kind,
        "name": component.name,
        "version": component.version,
        "summary": component.summary,
        "tags": list(component.card.tags),
        "plugin": component.plugin,
        "deprecated": component.deprecated,
        "broken": None,
    }


def _broken_row(plugin: BrokenPlugin) -> dict[str, Any]:
    return {
        "kind": None,
        "name": plugin.name,
        "version": None,
        "summary": "",
        "tags": [],
        "plugin": plugin.plugin,
        "deprecated": None,
        "broken": plugin.reason,
    }


def _write(folder: Path, found: list[Component]) -> None:
    from rheostat.cli.cards import as_markdown

    folder.mkdir(parents=True, exist_ok=True)
    rows = ["# Catalogue", "", "| name | kind | what |", "| --- | --- | --- |"]
    for c in found:
        page = f"{c.name.replace('/', '-')}@{c.version}.md"
        (folder / page).write_text(as_markdown(c), encoding="utf-8")
        rows.append(f"| [{c.ref}]({page}) | {c.kind} | {c.summary.replace('|', chr(92) + '|')} |")
    (folder / "README.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
    typer.echo(f"{len(found)} cards in {folder}")


@app.command(epilog="Example: rheostat show adamw@1")
def show(
    name: Annotated[str, typer.Argument(help="a component, with or without @VERSION")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Show a component's card: what it computes, its arguments, costs and limits, its source."""
    from rheostat.cli.cards import as_data, as_markdown, as_text
    from rheostat.core.registry import component

    found = component(name)
    if as_json:
        print_json(as_data(found))
    elif markdown:
        typer.echo(as_markdown(found), nl=False)
    else:
        typer.echo(as_text(found))


@app.command(epilog="Example: rheostat check lion")
def check(
    name: Annotated[str, typer.Argument(help="an optimizer, with or without @VERSION")],
    as_json: Json = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Examine an optimizer against the contract, clause by clause."""
    from rheostat.conformance.check import check as examine_all
    from rheostat.core.registry import component

    if "/" in (ref := component(name, "optimizer").ref):
        raise InputError(f"check: {ref} is its library's own, and the contract is not asked of it")
    findings = examine_all(ref)
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
