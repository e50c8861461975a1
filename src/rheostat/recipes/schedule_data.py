"""Arguments as data, and the objects that they stand for: schedules, and chains of transforms."""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

from rheostat.core.component import Component
from rheostat.core.errors import InputError
from rheostat.core.hyper import arguments_of
from rheostat.core.registry import component
from rheostat.core.schedule import Schedule
from rheostat.recipes.document import KeyPath

if TYPE_CHECKING:
    from rheostat.core.transform import Transform


@cache
def nesting(annotation: Any) -> Literal["one", "many"] | None:
    """Whether an argument takes a schedule, several of them, or none."""
    if annotation is Schedule:
        return "one"
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return nesting(parts[0])
    if origin in (typing.Union, types.UnionType):
        return next((found for part in parts if (found := nesting(part))), None)
    if origin in (tuple, list, Sequence) and nesting(parts[0]):
        return "many"
    return None


def takes_chain(annotation: Any) -> bool:
    """Whether an argument is a rule: in a recipe a list of transforms."""
    # Schedules are read where torch is not loaded; then no annotation is that of a transform.
    loaded = sys.modules.get("rheostat.core.transform")
    return loaded is not None and annotation is loaded.Transform


def combines(of: Component) -> bool:
    """Whether a schedule is made of others: then its `steps` are its own, and not the horizon."""
    return any(nesting(each.annotation) for each in arguments_of(of.factory).values())


def live(of: Component, values: Mapping[str, Any], horizon: int | None = None) -> dict[str, Any]:
    """Read arguments as the factory takes them: mappings that describe schedules are Schedules, and
    lists of transforms the chains of them.

    `horizon` stands in where a schedule still waits for that of the run.

    Raises:
        InputError: a schedule that waits for its horizon.
    """
    known = arguments_of(of.factory)
    made: dict[str, Any] = {}
    for name, value in values.items():
        if takes_chain(known[name].annotation):
            made[name] = _chain(value, horizon)
        elif known[name].number or nesting(known[name].annotation):
            made[name] = _live(name, value, horizon)
        else:
            made[name] = value
    return made


def _chain(pieces: Sequence[Mapping[str, Any]], horizon: int | None) -> Transform:
    from rheostat.core.transform import chain, named

    found: list[Transform] = []
    for piece in pieces:
        of = component(piece["transform"], "transform")
        values = {key: part for key, part in piece.items() if key not in ("transform", "named")}
        made: Transform = of.factory(**live(of, values, horizon))
        found.append(named(piece["named"], made) if "named" in piece else made)
    return chain(*found)


def _live(name: str, value: Any, horizon: int | None) -> Any:
    if isinstance(value, list):
        return tuple(_live(name, part, horizon) for part in cast("list[Any]", value))
    if not isinstance(value, dict):
        return value
    given = cast("dict[str, Any]", value)
    of = component(given["schedule"], "schedule")
    steps = arguments_of(of.factory).get("steps")
    arguments = {key: part for key, part in given.items() if key != "schedule"}
    if steps is not None and steps.required and "steps" not in given:
        if horizon is None:
            raise InputError(
                f"{name}: {of.ref} needs a horizon; give the number of steps of the run: as steps "
                "in the recipe, as attach(…, steps=…), or as --steps"
            )
        arguments["steps"] = horizon
    return of.factory(**live(of, arguments, horizon))


def says_its_unit(value: Any) -> bool:
    """Whether a schedule, or one inside it, is written with what it counts."""
    if isinstance(value, list):
        return any(map(says_its_unit, cast("list[Any]", value)))
    if not isinstance(value, dict):
        return False
    given = cast("dict[str, Any]", value)
    if str(given.get("schedule", "")).partition("@")[0] == "in_unit":
        return True
    return any(map(says_its_unit, given.values()))


def refusal(path: KeyPath, value: Mapping[str, Any]) -> tuple[KeyPath, dict[str, Any], str] | None:
    """The innermost schedule that its factory refuses: the path to it, its arguments, and why;
    None where the schedule at the path can be made."""
    for inner, part in _schedules_inside(path, value):
        if found := refusal(inner, part):
            return found
    arguments = {key: part for key, part in value.items() if key != "schedule"}
    of = component(value["schedule"], "schedule")
    try:
        of.factory(**live(of, arguments))
    except InputError as error:
        return path, arguments, str(error)
    return None


def _schedules_inside(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    listed = isinstance(value, list)
    pairs: Any = enumerate(cast("list[Any]", value)) if listed else value.items()
    for key, part in pairs:
        if isinstance(part, dict) and "schedule" in part:
            yield (*path, key), cast("Mapping[str, Any]", part)
        elif isinstance(part, list):
            yield from _schedules_inside((*path, key), cast("list[Any]", part))


def blamed(path: KeyPath, arguments: Mapping[str, Any], message: str) -> KeyPath:
    """The path to the argument that a component's refusal begins with, `cosine: floor=1 is …`; that
    of the component where it names none."""
    found = re.match(r"[\w/@.]+: (\w+)(?=[=:\[])", message)
    return (*path, found[1]) if found and found[1] in arguments else path
