"""Every recipe in the museum loads as what it was."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from rheostat.recipes.recipe import Recipe

HALL = Path(__file__).parent / "recipes"


def exhibits() -> set[str]:
    spec = importlib.util.spec_from_file_location("museum_recipes", HALL.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return set(module.exhibits())


def within(old: Any, new: Any) -> bool:
    """Whether all that was said is said still; there may be more, from later releases."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and within(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(within, old, new))
    return type(old) is type(new) and old == new


def test_there_is_one_of_each() -> None:
    lacking = exhibits() - {path.stem for path in HALL.glob("*.json")}
    assert not lacking, "run .venv/bin/python tests/museum/recipes.py"


@pytest.mark.parametrize("path", sorted(HALL.glob("*.json")), ids=lambda path: path.stem)
def test_it_loads_as_what_it_was(path: Path) -> None:
    kept = json.loads(path.read_text("utf-8"))
    recipe = Recipe.load(kept["recipe"])
    assert recipe.hash == kept["hash"]
    assert within(kept["recipe"], recipe.canonical())
