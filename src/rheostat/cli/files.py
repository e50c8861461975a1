"""Files that people write: validate, explain, diff, migrate, schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rheostat.cli.app import Json, StoreOption, app, print_json
from rheostat.cli.plugins import NoPlugins, Plugin
from rheostat.core.errors import InputError

if TYPE_CHECKING:
    from rheostat.recipes.document import Problem
    from rheostat.recipes.recipe import Recipe

File = Annotated[Path, typer.Argument(help="a recipe: YAML, TOML or JSON")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Put a value in place; may be given again."),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FACTORY", help="A function of yours that makes the model; it is imported."
    ),
]


@app.command(epilog="Example: rheostat validate recipe.yaml --set lr=1e-3")
def validate(
    file: Annotated[Path, typer.Argument(help="a recipe or a study file")],
    settings: Set = None,
    model: Model = None,
    as_json: Json = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Check a recipe or a study file before anything runs."""
    from rheostat.recipes.document import as_problems, refuse

    try:
        about, problems = _examined(file, settings, model)
    except InputError as error:
        if not as_json:
            raise
        print_json({"valid": False, "problems": as_problems(error)})
        raise typer.Exit(error.exit_code) from None
    errors = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        told = [problem.data() for problem in problems]
        print_json({"valid": not errors, "problems": told, **about})
        raise typer.Exit(InputError.exit_code if errors else 0)
    for problem in problems:
        if problem.severity == "warning":
            typer.echo(f"warning: {problem.line}")
    refuse(errors)
    typer.echo(f"{file}: a valid {about['kind']}, hash {about['hash'][:12]}")


def _examined(
    file: Path, settings: list[str] | None, model: str | None
) -> tuple[dict[str, Any], list[Problem]]:
    """What a file holds, its hash and its canonical form, and all that is to be said of it."""
    from rheostat.lab.plan import load_any
    from rheostat.lab.study_file import warnings_of
    from rheostat.recipes.formats import open_document
    from rheostat.recipes.layers import open_recipe, read_overrides
    from rheostat.recipes.models import model_of
    from rheostat.recipes.recipe import examine

    data = open_document(file, "document").data
    if isinstance(data, dict) and {"study", "arms"} & set(cast("dict[str, Any]", data)):
        if settings or model:
            raise InputError(f"{file}: a study is checked as it stands, without --set and --model")
        kind, canonical, digest = load_any(file)
        told = warnings_of(open_document(file, "study"))
        return {"kind": kind, "hash": digest, "canonical": canonical}, told
    opened = open_recipe(file, read_overrides(settings or ()))
    recipe, problems = examine(opened, model=model_of(model) if model else None)
    problems.sort(key=lambda problem: problem.position)
    if recipe is None:
        return {"kind": "recipe"}, problems
    return {"kind": "recipe", "hash": recipe.hash, "canonical": recipe.canonical()}, problems


@app.command(epilog="Example: rheostat explain recipe.yaml --model net:build --steps 10000")
def explain(
    file: File,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FACTORY",
            help="A function of yours that makes the model, on the meta device if it is large.",
        ),
    ],
    steps: Annotated[int | None, typer.Option(help="The horizon, in updates.")] = None,
    ranks: Annotated[int, typer.Option(help="Processes that share the parameters.")] = 1,
    html: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
    settings: Set = None,
    as_json: Json = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Say who gets which rule, learning rate and decay, what it costs, and how it goes."""
    from rheostat.core.durable import write_file
    from rheostat.recipes.explain import explain as explained
    from rheostat.recipes.explain_words import as_data, as_page, as_text
    from rheostat.recipes.models import model_of

    recipe = _recipe(file, settings)
    bound = recipe if steps is None else recipe.bind(steps)
    made = explained(bound, model_of(model), ranks=ranks)
    if html is not None:
        write_file(html, as_page(made).encode())
    if as_json:
        print_json(as_data(made))
    else:
        typer.echo(as_text(made))


@app.command(
    epilog="Example: rheostat diff before.yaml after.yaml, or: rheostat diff runs/a runs/b"
)
def diff(
    left: Annotated[str, typer.Argument(help="a recipe, or a run: its directory or its id")],
    right: Annotated[str, typer.Argument(help="another of the kind")],
    store: StoreOption = None,
    as_json: Json = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Show where two recipes differ, with every default written out, or where two runs part: the
    first step, the first tensor and the cause. Exit code 1 where they do."""
    from rheostat.recipes.diff import differences
    from rheostat.recipes.layers import ENDINGS

    recipes = [Path(s).is_file() or Path(s).suffix in ENDINGS for s in (left, right)]
    if not any(recipes):
        from rheostat.cli.runs import diff_runs

        if diff_runs(left, right, store, as_json):
            raise typer.Exit(1)
        return
    if not all(recipes):
        raise InputError(f"diff: {left} and {right}: two recipes or two runs, not one of each")
    one, two = (_recipe(Path(side)).canonical() for side in (left, right))
    found = list(differences(one, two))
    if as_json:
        print_json([difference.data() for difference in found])
    else:
        for difference in found:
            typer.echo("\n".join(difference.lines))
    if found:
        raise typer.Exit(1)


@app.command(epilog="Example: rheostat migrate recipe.yaml > newest.json")
def migrate(
    file: File,
    write: Annotated[bool, typer.Option("--write", help="Write it into the file (JSON).")] = False,
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Rewrite a recipe in the newest format and versions; the difference goes to standard error."""
    import json

    from rheostat.core.durable import write_file
    from rheostat.recipes.diff import differences
    from rheostat.recipes.migrate import migrated

    recipe = _recipe(file)
    newest = migrated(recipe)
    for difference in differences(recipe.canonical(), newest):
        typer.echo("\n".join(difference.lines), err=True)
    text = json.dumps(newest, indent=2, ensure_ascii=False) + "\n"
    if not write:
        typer.echo(text, nl=False)
        return
    if file.suffix == ".toml":
        raise InputError(f"{file}: TOML is not written; give the output a place: > recipe.json")
    write_file(file, text.encode())


@app.command(epilog="Example: rheostat schema study > study.schema.json")
def schema(
    kind: Annotated[str, typer.Argument(help="recipe or study")] = "recipe",
    _no_plugins: NoPlugins = False,
    _plugin: Plugin = None,
) -> None:
    """Print the JSON Schema of recipes or of study files."""
    from rheostat.recipes.recipe_schema import recipe_schema
    from rheostat.recipes.schema import study_schema

    makers = {"recipe": recipe_schema, "study": study_schema}
    if kind not in makers:
        raise InputError(f"schema: {kind!r}: should be 'recipe' or 'study'")
    print_json(makers[kind]())


def _recipe(file: Path, settings: list[str] | None = None) -> Recipe:
    from rheostat.recipes.layers import read_overrides
    from rheostat.recipes.recipe import Recipe

    return Recipe.load(file, read_overrides(settings or ()))
