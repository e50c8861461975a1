"""Checkpoints: list, verify, show, diff, migrate, convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rheostat.cli.app import Json, app, print_json
from rheostat.core.errors import InputError

if TYPE_CHECKING:
    from rheostat.checkpoint.load import Checkpoint
    from rheostat.recipes.bundle import Bundle
    from rheostat.recipes.recipe import Recipe as Loaded

checkpoint_app = typer.Typer(
    help="Look at checkpoints: of a run's directory, of their own, or one of them.",
    rich_markup_mode=None,
)
app.add_typer(checkpoint_app, name="checkpoint")

Directory = Annotated[
    Path, typer.Argument(help="a run, a directory of checkpoints, or one checkpoint")
]
Names = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="May be given again; see the guide.")
]
Recipe = Annotated[Path | None, typer.Option(help="The recipe of the run that goes on.")]
Steps = Annotated[int | None, typer.Option(help="The horizon of that recipe, in updates.")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FACTORY", help="A function of yours that makes the model; it is imported."
    ),
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


@checkpoint_app.command(
    "migrate", epilog="Example: rheostat checkpoint migrate runs/a --rename encoder.=backbone."
)
def checkpoint_migrate(
    directory: Directory,
    target: Annotated[
        Path | None, typer.Argument(help="a directory of checkpoints; by default the same")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="A name, or a prefix with its dot.")
    ] = None,
    drop: Names = None,
    add: Names = None,
    replace_rule: Names = None,
    insert: Names = None,
    remove: Names = None,
    take_here: Names = None,
    take_saved: Names = None,
    recipe: Recipe = None,
    steps: Steps = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Save the newest good checkpoint again, changed as said, beside it; nothing is overwritten.

    Names can be changed as they are; for whatever else the model is needed, and the recipe where
    that is another one. What each change means: docs/guide/checkpoints.md.
    """
    from rheostat.checkpoint.generations import hold
    from rheostat.checkpoint.save import write
    from rheostat.optimizers.changes import from_data
    from rheostat.recipes.changed import changed_checkpoint

    pairs = [pair.partition("=") for pair in rename or ()]
    if wrong := [old for old, equals, _ in pairs if not equals]:
        raise InputError(f"--rename {wrong[0]}: should be OLD=NEW")
    data: dict[str, Any] = {
        "rename": {old: new for old, _, new in pairs},
        "drop": drop,
        "add": add,
        "replace_rule": replace_rule,
        "insert": insert,
        "remove": remove,
        "take_here": take_here,
        "take_saved": take_saved,
    }
    changes = [from_data({kind: names}) for kind, names in data.items() if names]
    found = _load(directory)
    if not changes:
        typer.echo(f"{found.path} is of the newest format, and no change was asked for")
        return
    changed = changed_checkpoint(found, changes, _bundle(found, recipe, steps, model))
    if changed is found:
        typer.echo(f"{found.path} was made by these changes; nothing is left to do")
        return
    place = found.path.parent if target is None else target
    with hold(place):
        score = found.manifest.score
        made = write(place, found.step, changed.tensors, changed.documents, score=score)
    if as_json:
        print_json({"path": str(made), "changes": [change.data() for change in changes]})
    else:
        typer.echo(f"wrote {made}")


@checkpoint_app.command("convert", epilog="Example: rheostat checkpoint convert old.pt runs/a")
def checkpoint_convert(
    source: Annotated[Path, typer.Argument(help="what torch.save wrote; with --to, a checkpoint")],
    target: Annotated[Path, typer.Argument(help="a directory of checkpoints; with --to, a file")],
    to: Annotated[
        str | None, typer.Option(help="torch, or an optimizer's key: its state dict.")
    ] = None,
    of: Annotated[
        str | None,
        typer.Option("--from", help="The key of the optimizer whose state dict it is."),
    ] = None,
    recipe: Recipe = None,
    steps: Steps = None,
    model: Model = None,
    weights: Annotated[
        Path | None, typer.Option(help="The model's state dict: safetensors or torch.")
    ] = None,
    trainer: Annotated[
        bool, typer.Option("--trainer", help="The file is of the Hugging Face Trainer.")
    ] = False,
    step: Annotated[int | None, typer.Option(help="The updates so far.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a torch file into a checkpoint, reading plain data only, or a checkpoint into one.

    With --from torch/AdamW (or another key that `rheostat list` shows), --recipe and --model, an
    optimizer's state dict becomes a checkpoint from which a run of that recipe goes on; with --to
    torch/AdamW and --model a run's optimizer becomes such a state dict.
    """
    from rheostat.checkpoint.foreign import from_torch, to_torch

    made = target
    if of is not None and to is None:
        made = _imported(source, target, of, _recipe(recipe, steps), model, weights, trainer, step)
    elif to is None:
        made = from_torch(source, target, step or 0)
    elif to == "torch":
        to_torch(_load(source), target)
    elif "/" in to and model is not None:
        from rheostat.integrations.convert import state_to_file
        from rheostat.recipes.models import model_of

        state_to_file(_load(source), target, to, model_of(model))
    else:
        raise InputError(f"--to {to}: should be 'torch', or a key such as torch/AdamW with --model")
    if as_json:
        print_json({"path": str(made)})
    else:
        typer.echo(f"wrote {made}")


def _imported(
    source: Path,
    target: Path,
    key: str,
    recipe: Loaded | None,
    model: str | None,
    weights: Path | None,
    trainer: bool,
    step: int | None,
) -> Path:
    from rheostat.integrations.convert import read_weights, run_from_state
    from rheostat.integrations.trainer_file import trainer_names
    from rheostat.recipes.models import model_of

    if recipe is None or model is None or weights is None:
        raise InputError(f"--from {key} needs --recipe, --model and --weights")
    net = model_of(model)
    try:
        net.load_state_dict(read_weights(weights))
    except RuntimeError as error:  # torch says what differs over several lines
        said = " ".join(str(error).split())
        raise InputError(f"{weights} does not fit the model: {said}") from None
    names = trainer_names(net) if trainer else net
    return run_from_state(source, target, key, recipe, net, names=names, step=step)


def _recipe(file: Path | None, steps: int | None) -> Loaded | None:
    from rheostat.recipes.recipe import Recipe as Loaded

    if file is None:
        return None
    return Loaded.load(file) if steps is None else Loaded.load(file).bind(steps)


def _bundle(
    found: Checkpoint, recipe: Path | None, steps: int | None, model: str | None
) -> Bundle | None:
    """The model, and the recipe over it, that a checkpoint is to fit; None without a model."""
    from rheostat.recipes.bundle import Bundle
    from rheostat.recipes.models import model_of
    from rheostat.recipes.recipe import Recipe as Loaded

    if model is None:
        if recipe is not None:
            raise InputError(f"--recipe {recipe} needs the model: --model MODULE:FACTORY")
        return None
    if "recipe" not in found.documents:
        raise InputError(f"{found.path} is no checkpoint of a run: it has no recipe.json")
    net = model_of(model)
    loaded = _recipe(recipe, steps) or Loaded.load(found.documents["recipe"]["canonical"])
    return Bundle(loaded, net, loaded.build(net), {})


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
