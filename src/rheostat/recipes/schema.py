"""The published JSON Schemas (draft 2020-12) of recipes and of study files.

Generated from the signatures, so that they allow what the checks allow. They say all that can
be said about one value at a time; what holds between keys (a floor below its peak, arms that
differ) is left to the checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeAlias

import annotated_types as at
from pydantic import StringConstraints

from rheostat.core.hyper import Argument, Positive, arguments_of
from rheostat.core.registry import Component, component, components
from rheostat.recipes.reader import STEPS, as_data
from rheostat.recipes.recipe import NONFINITE

Schema: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Text: TypeAlias = Annotated[str, StringConstraints(pattern=r"\S")]

STUDY_TEXTS = {
    "study": Argument("study", Text),
    "question": Argument("question", Text),
    "hypothesis": Argument("hypothesis", Text),
    "why": Argument("why", Text),
}
METRIC_KEYS = {"name": Argument("name", Text), "margin": Argument("margin", Positive)}
ARM_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""Names of directories are made of it."""
SEED = Argument("seeds", Annotated[int, at.Ge(0), at.Le(2**63 - 1)])
MOST_SEEDS = 10_000

_MEANINGS = {
    "study": "the title",
    "question": "what is asked",
    "hypothesis": "what is expected, stated before anything runs",
    "why": "why it is asked",
    "name": "the metric, one of the workload's",
    "margin": "the difference that would matter, in the unit of the metric",
    "nonfinite": "what a NaN or infinite gradient does",
    "steps": "the updates of a run: the horizon of schedules that state none",
}
_SCHEDULE: Schema = {"$ref": "#/$defs/schedule"}


def recipe_schema() -> Schema:
    """The schema of a recipe: one object per optimizer, any number in it a number or a schedule."""
    return {
        "$schema": DIALECT,
        "title": "Rheostat recipe",
        "description": "An optimizer, its hyperparameters and their schedules.",
        "oneOf": [_optimizer(of) for of in components("optimizer")],
        "$defs": {"schedule": _schedules()},
    }


def study_schema() -> Schema:
    """The schema of a study file.

    The shared recipe and the arms are recipes in part; whether the two together make a whole one
    is for the checks to say.
    """
    part: Schema = {"$ref": "#/$defs/part"}
    properties: Schema = {
        **{name: _described(argument) for name, argument in STUDY_TEXTS.items()},
        "workload": {"description": "what is trained and measured", "oneOf": _workloads()},
        "recipe": {"description": "what all arms share", **part},
        "arms": {
            "description": "what is compared: a name, and the keys that differ from the recipe",
            "type": "object",
            "minProperties": 2,
            "propertyNames": {"pattern": f"^{ARM_NAME}$"},
            "additionalProperties": part,
        },
        "baseline": {
            "description": "the arm to compare the others with",
            "type": "string",
            "pattern": f"^{ARM_NAME}$",
        },
        "seeds": {"description": "how many (0, 1, …), or which", "oneOf": _seeds()},
        "steps": _described(STEPS),
        "metric": {
            "description": "what is judged",
            **_object({name: _described(key) for name, key in METRIC_KEYS.items()}, METRIC_KEYS),
        },
    }
    required = [name for name in properties if name != "recipe"]
    return {
        "$schema": DIALECT,
        "title": "Rheostat study",
        **_object(properties, required),
        "$defs": {"schedule": _schedules(), "part": _part()},
    }


def _optimizer(of: Component) -> Schema:
    properties: Schema = {
        "optimizer": _names(of),
        **_arguments(of, _schedulable),
        NONFINITE.name: _described(NONFINITE),
        STEPS.name: _described(STEPS),
    }
    return _component(of, properties, ["optimizer", *_required(of)])


def _schedules() -> Schema:
    # A schedule's steps are the horizon of the run where they are not written.
    return {
        "oneOf": [
            _component(
                of,
                {"schedule": _names(of), **_arguments(of, _as_it_is)},
                ["schedule", *(name for name in _required(of) if name != "steps")],
            )
            for of in components("schedule")
        ]
    }


def _workloads() -> list[Schema]:
    found = components("workload")
    bare = [name for of in found if not _required(of) for name in _names(of)["enum"]]
    objects = [
        _component(
            of,
            {"workload": _names(of), **_arguments(of, _as_it_is)},
            ["workload", *_required(of)],
        )
        for of in found
    ]
    return [{"enum": bare}, *objects] if bare else objects


def _part() -> Schema:
    """An object of keys that belong to some optimizer."""
    optimizers = [_optimizer(of)["properties"] for of in components("optimizer")]
    properties: dict[str, list[Schema]] = {}
    for name, schema in (pair for each in optimizers for pair in each.items()):
        bare = {key: part for key, part in schema.items() if key not in ("default", "description")}
        variants = properties.setdefault(name, [])
        if bare not in variants:
            variants.append(bare)
    return _object({name: _any_of(variants) for name, variants in properties.items()}, [])


def _seeds() -> list[Schema]:
    return [
        {"type": "integer", "minimum": 2, "maximum": MOST_SEEDS},
        {
            "type": "array",
            "items": _plain(SEED),
            "minItems": 2,
            "maxItems": MOST_SEEDS,
            "uniqueItems": True,
        },
    ]


def _component(of: Component, properties: Schema, required: Iterable[str]) -> Schema:
    return {"title": of.ref, "description": of.summary, **_object(properties, required)}


def _object(properties: Mapping[str, Schema], required: Iterable[str]) -> Schema:
    made: Schema = {"type": "object", "properties": dict(properties)}
    needed = list(required)
    return {**made, **({"required": needed} if needed else {}), "additionalProperties": False}


def _any_of(variants: list[Schema]) -> Schema:
    return variants[0] if len(variants) == 1 else {"anyOf": variants}


def _names(of: Component) -> Schema:
    """How the component may be named: the newest version of a name also goes without it."""
    newest = component(of.name).version == of.version
    return {"enum": [of.name, of.ref] if newest else [of.ref]}


def _required(of: Component) -> list[str]:
    return [name for name, argument in arguments_of(of.factory).items() if argument.required]


def _arguments(of: Component, shape: Callable[[Argument, Schema], Schema]) -> Schema:
    meanings = _meanings(of.doc)
    return {
        name: _with_notes(shape(argument, _plain(argument)), argument, meanings.get(name))
        for name, argument in arguments_of(of.factory).items()
    }


def _as_it_is(argument: Argument, schema: Schema) -> Schema:
    del argument
    return schema


def _schedulable(argument: Argument, schema: Schema) -> Schema:
    """The schema with a schedule in the place of any number."""
    if not argument.number:
        return schema
    if argument.scalar:
        return _any_of([schema, _SCHEDULE])
    if "prefixItems" in schema:
        return {**schema, "prefixItems": [_any_of([s, _SCHEDULE]) for s in schema["prefixItems"]]}
    return {**schema, "items": _any_of([schema["items"], _SCHEDULE])}


def _described(argument: Argument) -> Schema:
    return _with_notes(_plain(argument), argument, _MEANINGS[argument.name])


def _plain(argument: Argument) -> Schema:
    return argument.adapter.json_schema()


def _with_notes(schema: Schema, argument: Argument, meaning: str | None) -> Schema:
    notes: Schema = {"description": meaning} if meaning else {}
    if not argument.required:
        notes["default"] = as_data(argument.check(argument.default)[0])
    return {**notes, **schema}


def _meanings(doc: str) -> dict[str, str]:
    """The lines `name: meaning` of a card; a line that is indented goes on with the one before."""
    found: dict[str, str] = {}
    last = ""
    for line in doc.splitlines():
        match = re.fullmatch(r"(\w+): (.+)", line)
        if match:
            last = match[1]
            found[last] = match[2].strip()
        elif last and line.startswith(" "):
            found[last] += f" {line.strip()}"
        else:
            last = ""
    return found
