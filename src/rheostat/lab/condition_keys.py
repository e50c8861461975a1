"""The keys of a study file about what it varies beside its arms, and about what is judged.

A study file without these keys has one condition, which has no name. `faults` runs every arm
undisturbed and under each of them; `sweep` runs every arm at each value of one key of its recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast

from rheostat.core.errors import InputError, nearest
from rheostat.core.hyper import Argument, Count, arguments_of, check_arguments
from rheostat.lab.conditions import UNDISTURBED
from rheostat.recipes.document import quoted
from rheostat.recipes.reader import Reader
from rheostat.recipes.recipe import Recipe
from rheostat.recipes.schema import ARM_NAME

Judge: TypeAlias = Literal["metric", "recovery", "width", "search"]

EVALUATE = Argument("evaluate_every", Count)
TARGET = Argument("target", float)
JUDGE = Argument("judge", Judge, "metric")
KEY = Argument("key", str)
VALUE = Argument("values", float)
NEEDS: Mapping[str, tuple[str, ...]] = {
    "metric": (),
    "recovery": ("faults", "evaluate_every"),
    "width": ("sweep",),
    "search": ("sweep", "evaluate_every", "target"),
}
"""What is judged -> the keys without which it means nothing."""


def read_conditions(
    reader: Reader, given: Mapping[str, Any], arms: Mapping[str, Any] | None
) -> dict[str, Any]:
    """These keys in their canonical form, those that are given; problems gather in the reader."""
    found: dict[str, Any] = {}
    for argument in (EVALUATE, TARGET, JUDGE):
        if argument.name in given:
            found[argument.name] = reader.value(argument, (argument.name,), given[argument.name])
    if "faults" in given:
        found["faults"] = _faults(reader)
    if "sweep" in given:
        found["sweep"] = _sweep(reader, arms or {})
    if {"faults", "sweep"} <= set(given):
        reader.report(("sweep",), "a study varies faults or a number, not both", key=True)
    for need in NEEDS.get(str(found.get("judge") or "metric"), ()):
        if given.get(need) in (None, {}):
            reader.report(("judge",), f"{found['judge']} cannot be judged without {need!r}")
    return found


def _faults(reader: Reader) -> dict[str, Any]:
    from rheostat.lab.faults import FAULTS

    given = reader.mapping(("faults",), "{spike: {fault: lr_spike, at: 0.4}, …}") or {}
    found: dict[str, Any] = {}
    for name in given:
        here = ("faults", name)
        if not re.fullmatch(ARM_NAME, name) or name == UNDISTURBED:
            message = f"should be 1 to 64 letters, digits, _ and -, and not {UNDISTURBED!r}"
            reader.report(here, message, key=True)
        one = reader.mapping(here, "{fault: lr_spike, at: 0.4}")
        if one is None:
            continue
        kind = str(one.get("fault"))
        if kind not in FAULTS:
            message = f"no fault is named {quoted(one.get('fault'))}; {nearest(kind, FAULTS)}"
            reader.report((*here, "fault"), message)
            continue
        values = {key: value for key, value in one.items() if key != "fault"}
        if (whole := checked(reader, here, FAULTS[kind], values)) is not None:
            found[name] = {"fault": kind, **whole}
    return found


def checked(
    reader: Reader, here: tuple[str, ...], factory: Any, values: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The arguments of a factory, defaults filled in; None, and problems noted, where wrong."""
    known = arguments_of(factory)
    before = len(reader.problems)
    for key, value in values.items():
        if key in known:
            reader.value(known[key], (*here, key), value)
        else:
            reader.unknown((*here, key), known)
    for key, argument in known.items():
        if argument.required and key not in values:
            reader.report(here, f"{key!r} is missing")
    return None if len(reader.problems) > before else check_arguments(factory, values, here[-1])


def _sweep(reader: Reader, arms: Mapping[str, Any]) -> dict[str, Any] | None:
    given = reader.mapping(("sweep",), "{key: lr.peak, values: [0.001, 0.01]}")
    if given is None:
        return None
    for key in given:
        if key not in ("key", "values"):
            reader.unknown(("sweep", key), ("key", "values"))
    key = reader.value(KEY, ("sweep", "key"), given.get("key"))
    written = given.get("values")
    listed = cast("list[Any]", written) if isinstance(written, list) else []
    if len(listed) < 2:
        shown = quoted(cast("object", written))
        reader.report(("sweep", "values"), f"{shown} should be a list of 2 or more numbers")
        return None
    values = [
        reader.value(VALUE, ("sweep", "values", index), value) for index, value in enumerate(listed)
    ]
    if key is None or None in values:
        return None
    if len({f"{value:g}" for value in values}) < len(values):
        reader.report(("sweep", "values"), "holds a value twice; each counts once")
    for name, arm in arms.items():
        if "contestant" in arm:
            reader.report(("arms", name), "a sweep is over recipes, and this is a contestant")
            continue
        try:
            for value in values:
                Recipe.load(arm, {key: value})
        except InputError as error:
            reader.report(("sweep", "key"), f"arm {name}: {error}")
    return {"key": key, "values": values}
