"""The part of the published schema that is about regimes and safeguards."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import is_dataclass
from typing import Any, TypeAlias, cast

from rheostat.core.card import Card
from rheostat.core.hyper import arguments_of
from rheostat.recipes.parts import standard
from rheostat.recipes.pieces import MOST
from rheostat.recipes.regime_keys import DRY_RUN, REPLAY
from rheostat.regimes.grants import Terms
from rheostat.regimes.safeguard import Care

Schema: TypeAlias = dict[str, Any]


def regime() -> Schema:
    """A list of controllers, them and their terms, or a run to replay."""
    controllers: Schema = {"type": "array", "maxItems": MOST}
    controllers["items"] = {"$ref": "#/$defs/controller"}
    keys = {
        "controllers": {"description": "asked in this order", **controllers},
        "terms": {"description": "how far and how fast they may go", **fields(Terms)},
        DRY_RUN.name: {
            "description": "decide and record, change nothing",
            "default": DRY_RUN.default,
            **DRY_RUN.adapter.json_schema(),
        },
    }
    run = "the run whose decisions are done again: its directory, or its id in a store"
    replay = {REPLAY.name: {"description": run, **REPLAY.adapter.json_schema()}}
    mapping: Schema = {
        "if": {"required": [REPLAY.name]},
        "then": {**_closed(replay), "required": [REPLAY.name]},
        "else": _closed(keys),
    }
    return {"if": {"type": "array"}, "then": controllers, "else": mapping}


def safeguards() -> Schema:
    """Whether there are any, or their terms."""
    return {"anyOf": [{"type": "boolean"}, fields(Care)]}


def fields(of: type) -> Schema:
    """The fields of a dataclass, each with its type, its default, and what its docstring says."""
    known, usual = arguments_of(of), standard(of)
    said = textwrap.dedent((inspect.getdoc(of) or "").partition("Attributes:\n")[2])
    card = Card.parse(said, known)
    return _closed(
        {
            name: {
                "description": card.meaning(name),
                **(
                    fields(cast("type", argument.annotation))
                    if is_dataclass(argument.annotation)
                    else {"default": usual[name], **argument.adapter.json_schema()}
                ),
            }
            for name, argument in known.items()
        }
    )


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}
