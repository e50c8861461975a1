"""A recipe in the newest format and versions."""

from __future__ import annotations

from typing import Any, cast

from rheostat.core.registry import component
from rheostat.recipes.grammar import FORMAT
from rheostat.recipes.layers import NAMING
from rheostat.recipes.recipe import Recipe


def migrated(recipe: Recipe) -> dict[str, Any]:
    """The canonical form with the newest version of every component, in the newest format.

    Raises:
        InputError: a newer version does not take an argument of the older one.
    """
    newest = _newest(recipe.canonical())
    return {**Recipe.load(newest).canonical(), FORMAT.name: FORMAT.default}


def _newest(value: Any) -> Any:
    """The value with every version left out, which means the newest."""
    if isinstance(value, list):
        return [_newest(part) for part in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    given = cast("dict[str, Any]", value)
    return {
        key: component(part.partition("@")[0]).ref
        if key in NAMING and isinstance(part, str)
        else _newest(part)
        for key, part in given.items()
    }
