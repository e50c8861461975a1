"""Files that people write: validate, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rheostat.cli.app import Json, app, print_json
from rheostat.core.errors import InputError


@app.command(epilog="Example: rheostat validate recipe.yaml")
def validate(
    file: Annotated[Path, typer.Argument(help="a recipe or a study file")],
    as_json: Json = False,
) -> None:
    """Check a recipe or a study file before anything runs."""
    from rheostat.lab.plan import load_any

    kind, canonical, digest = load_any(file)
    if as_json:
        print_json({"kind": kind, "hash": digest, "canonical": canonical})
    else:
        typer.echo(f"{file}: a valid {kind}, hash {digest[:12]}")


@app.command(epilog="Example: rheostat schema study > study.schema.json")
def schema(
    kind: Annotated[str, typer.Argument(help="recipe or study")] = "recipe",
) -> None:
    """Print the JSON Schema of recipes or of study files."""
    from rheostat.recipes.schema import recipe_schema, study_schema

    makers = {"recipe": recipe_schema, "study": study_schema}
    if kind not in makers:
        raise InputError(f"schema: {kind!r}: should be 'recipe' or 'study'")
    print_json(makers[kind]())
