"""The published JSON Schema (draft 2020-12) of study files; see `recipe_schema` for recipes."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import annotated_types as at
from pydantic import StringConstraints

from rheostat.core.hyper import Argument, Positive
from rheostat.core.registry import components
from rheostat.recipes.reader import STEPS
from rheostat.recipes.recipe_schema import (
    DIALECT,
    Schema,
    arguments,
    as_it_is,
    chosen,
    closed,
    component_schema,
    definitions,
    names_of,
    part,
    plain,
    required,
)

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
    "steps": "the updates of every run",
}


def study_schema() -> Schema:
    """The schema of a study file.

    The shared recipe and the arms are recipes in part; whether the two together make a whole one
    is for the checks to say.
    """
    of_recipe: Schema = {"$ref": "#/$defs/part"}
    properties: Schema = {
        **{name: _told(argument) for name, argument in STUDY_TEXTS.items()},
        "workload": {"description": "what is trained and measured", "oneOf": _workloads()},
        "recipe": {"description": "what all arms share", **of_recipe},
        "arms": {
            "description": "what is compared: a name, and the keys that differ from the recipe",
            "type": "object",
            "minProperties": 2,
            "propertyNames": {"pattern": f"^{ARM_NAME}$"},
            "additionalProperties": chosen("contestant", _named("contestant"), of_recipe),
        },
        "baseline": {
            "description": "the arm to compare the others with",
            "type": "string",
            "pattern": f"^{ARM_NAME}$",
        },
        "seeds": {"description": "how many (0, 1, …), or which", "oneOf": _seeds()},
        "steps": _told(STEPS),
        "metric": {
            "description": "what is judged",
            **closed({name: _told(key) for name, key in METRIC_KEYS.items()}, METRIC_KEYS),
        },
    }
    needed = [name for name in properties if name != "recipe"]
    properties |= _conditions()
    return {
        "$schema": DIALECT,
        "title": "Rheostat study",
        **closed(properties, needed),
        "$defs": {**definitions(), "part": part()},
    }


def _conditions() -> Schema:
    """What a study may vary beside its arms; which faults and contestants there are, and what they
    take, is for the checks to say."""
    sweep: Schema = {
        "key": {"type": "string"},
        "values": {"type": "array", "items": {"type": "number"}, "minItems": 2},
    }
    return {
        "faults": {
            "description": "every arm runs undisturbed and under each of these: a name, the fault",
            "type": "object",
            "propertyNames": {"pattern": f"^{ARM_NAME}$"},
            "additionalProperties": _named("fault"),
        },
        "sweep": {
            "description": "every arm runs at each of these values of a key of its recipe",
            **closed(sweep, sweep),
        },
        "evaluate_every": {
            "description": "updates from one validation to the next; without it only at the end",
            "type": "integer",
            "minimum": 1,
        },
        "target": {"description": "the metric that a search is to reach", "type": "number"},
        "judge": {
            "description": "what the verdict is about",
            "enum": ["metric", "recovery", "width", "search"],
        },
    }


def _named(kind: str) -> Schema:
    return {"type": "object", "properties": {kind: {"type": "string"}}, "required": [kind]}


def _workloads() -> list[Schema]:
    found = components("workload")
    bare = [name for of in found if not required(of) for name in names_of(of)["enum"]]
    objects = [
        component_schema(
            of,
            {"workload": names_of(of), **arguments(of, as_it_is)},
            ["workload", *required(of)],
        )
        for of in found
    ]
    return [{"enum": bare}, *objects] if bare else objects


def _seeds() -> list[Schema]:
    return [
        {"type": "integer", "minimum": 2, "maximum": MOST_SEEDS},
        {
            "type": "array",
            "items": plain(SEED),
            "minItems": 2,
            "maxItems": MOST_SEEDS,
            "uniqueItems": True,
        },
    ]


def _told(argument: Argument) -> Schema:
    return {"description": _MEANINGS[argument.name], **plain(argument)}
