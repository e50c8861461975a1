"""Checkpoints: list, verify, show, diff, convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rheostat.cli.app import Json, app, print_json
from rheostat.core.errors import InputError

if TYPE_CHECKING:
    from rheostat.checkpoint.load import Checkpoint

checkpoint_app = typer.Typer(
    help="Look at checkpoints: of a run's directory, of their own, or one of them.",
    rich_markup_mode=None,
)
app.add_typer(checkpoint_app, name="checkpoint")

Directory = Annotated[
    Path, typer.Argument(help="a run, a directory of checkpoints, or one checkpoint")
]


@checkpoint_app.command("list", epilog="Example: rheostat checkpoint list runs/a")
def checkpoint_list(directory: Directory, as_json: Json = False) -> None:
    """List the checkpoints there are, oldest first; their content is not verified."""
    from rheostat.checkpoint.damage import DamageError
    from rheostat.checkpoint.verify import read_manifest

    rows: list[dict[str, object]] = []
    for path in _checkpoints(directory):
        try:
            found = read_manifest(path)
        except DamageError as error:
            rows.append({"path": str(path), "damaged": str(error)})
        else:
            facts = {"step": found.step, "written": found.written, "bytes": found.size}
            rows.append({"path": str(path), **facts, "score": found.score})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        if "damaged" in row:
            typer.echo(f"{row['path']}  DAMAGED: {row['damaged']}")
        else:
            score = "" if row["score"] is None else f"  score {row['score']:.6g}"
            typer.echo(f"{row['path']}  {row['written']}  {row['bytes']:>15,} bytes{score}")


@checkpoint_app.command("verify", epilog="Example: rheostat checkpoint verify runs/a")
def checkpoint_verify(directory: Directory, as_json: Json = False) -> None:
    """Compare every byte with the manifests. Exit code 1 where one is damaged."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from rheostat.checkpoint.damage import DamageError
    from rheostat.checkpoint.verify import read_manifest, verify

    rows: list[dict[str, object]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        for path in _checkpoints(directory):
            try:
                task = bar.add_task(path.name, total=read_manifest(path).size)
                found = verify(path, progress=lambda count, task=task: bar.advance(task, count))
            except DamageError as error:
                rows.append({"path": str(path), "whole": False, "found": str(error)})
            else:
                rows.append({"path": str(path), "whole": True, "bytes": found.size})
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            typer.echo(f"ok       {row['path']}" if row["whole"] else f"DAMAGED  {row['found']}")
    if not all(row["whole"] for row in rows):
        raise typer.Exit(1)


@checkpoint_app.command("show", epilog="Example: rheostat checkpoint show runs/a")
def checkpoint_show(directory: Directory, as_json: Json = False) -> None:
    """Show what the newest good checkpoint holds: its tensors and its documents."""
    import json

    found = _load(directory)
    tensors = {
        file: {
            name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            for name, tensor in named.items()
        }
        for file, named in found.tensors.items()
    }
    for line in found.passed_over:
        typer.echo(f"rheostat: passed over: {line}", err=True)
    if as_json:
        facts = {"path": str(found.path), "step": found.step, "written": found.manifest.written}
        documents = {name: json.dumps(document) for name, document in found.documents.items()}
        parsed = {name: json.loads(text, parse_constant=str) for name, text in documents.items()}
        print_json({**facts, "tensors": tensors, "documents": parsed})
        return
    typer.echo(f"{found.path}  step {found.step}  {found.manifest.written}")
    for file, named in tensors.items():
        typer.echo(f"\n{file}: {len(named)} tensors")
        width = max(map(len, named), default=0)
        for name, kind in named.items():
            typer.echo(f"  {name:<{width}}  {kind['dtype']}{kind['shape']}")
    for name, document in found.documents.items():
        typer.echo(f"\n{name}:\n{json.dumps(document, indent=2, ensure_ascii=False)}")


@checkpoint_app.command("diff", epilog="Example: rheostat checkpoint diff runs/a runs/b")
def checkpoint_diff(one: Directory, other: Directory, as_json: Json = False) -> None:
    """Name every tensor and value in which two checkpoints differ. Exit code 1 where any does."""
    from rheostat.checkpoint.compare import differences

    first, second = _load(one), _load(other)
    found = differences(first, second)
    if as_json:
        paths = {"first": str(first.path), "second": str(second.path)}
        print_json({**paths, "differences": found})
    else:
        typer.echo(f"first:  {first.path}\nsecond: {second.path}")
        for line in found:
            typer.echo(line)
        typer.echo(f"{len(found)} differences" if found else "the same to the bit")
    if found:
        raise typer.Exit(1)


@checkpoint_app.command("convert", epilog="Example: rheostat checkpoint convert old.pt runs/a")
def checkpoint_convert(
    source: Annotated[Path, typer.Argument(help="what torch.save wrote; with --to, a checkpoint")],
    target: Annotated[Path, typer.Argument(help="a directory of checkpoints; with --to, a file")],
    to: Annotated[str | None, typer.Option(help="Convert a checkpoint to: torch.")] = None,
    step: Annotated[int, typer.Option(help="The step to note.")] = 0,
    as_json: Json = False,
) -> None:
    """Turn a torch file into a checkpoint, reading plain data only, or a checkpoint into one."""
    from rheostat.checkpoint.foreign import from_torch, to_torch

    if to is None:
        made = from_torch(source, target, step)
    elif to == "torch":
        to_torch(_load(source), target)
        made = target
    else:
        raise InputError(f"--to {to}: should be 'torch'")
    if as_json:
        print_json({"path": str(made)})
    else:
        typer.echo(f"wrote {made}")


def _checkpoints(directory: Path) -> list[Path]:
    """The checkpoints that a user means by `directory`, oldest first."""
    from rheostat.checkpoint import manifest
    from rheostat.checkpoint.generations import FOLDER, generations

    path = directory.resolve()
    if (path / manifest.NAME).exists() or manifest.FOLDER.fullmatch(path.name):
        return [path]
    for place in (path, path / FOLDER):
        if found := generations(place):
            return [generation.path for generation in found]
    raise InputError(f"there is no checkpoint in {directory}")


def _load(directory: Path) -> Checkpoint:
    from rheostat.checkpoint.load import newest, read

    paths = _checkpoints(directory)
    if paths == [directory.resolve()]:
        return read(paths[0])
    found = newest(paths[0].parent)
    if found is None:
        raise InputError(f"there is no checkpoint in {directory}")
    return found
