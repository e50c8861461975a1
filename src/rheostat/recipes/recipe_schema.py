"""The published JSON Schema (draft 2020-12) of recipes.

Generated from the signatures, so that it allows what the checks allow. It says all that can be
said about one value at a time; what holds between keys (a floor below its peak, what a line of a
policy takes over from the recipe) is left to the checks. Every object lists its keys, without
`unevaluatedProperties`, because editors complete from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import PydanticUserError

from rheostat.core.component import Component
from rheostat.core.errors import MachineError
from rheostat.core.hyper import Argument, arguments_of
from rheostat.core.registry import component, components
from rheostat.recipes.codes import CODES
from rheostat.recipes.grammar import (
    CLIPS,
    FORMAT,
    HORIZONS,
    LR_FACTOR,
    MIN_DIM,
    OPTIONAL,
    PATTERN,
    SETTINGS,
)
from rheostat.recipes.parts import LR, as_data
from rheostat.recipes.pieces import MOST, NAMED
from rheostat.recipes.reader import STEPS
from rheostat.recipes.regime_keys import WATCHING
from rheostat.recipes.regime_schema import regime, safeguards
from rheostat.recipes.schedule_data import combines, nesting, takes_chain

Schema: TypeAlias = dict[str, Any]
Shape: TypeAlias = Callable[[Argument, Schema], Schema]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MEANINGS = {
    "format": "the version of the format of recipes",
    "base": "a file in this folder that this one is laid over; null takes a key of it away",
    "chain": "transforms, first to last, in place of an optimizer",
    "before": "transforms before every rule, which measure over all parameters together",
    "clip": "one clip before every rule, after what is in before",
    "policy": "who gets another rule than the one below: the first line that matches serves",
    "match": "which parameters: every key that is given must fit",
    "role": "what a parameter is for",
    "name": "shell patterns of parameter names",
    "min_dim": "the least number of dimensions",
    "optional": "whether the line may find no parameter",
    "lr_factor": "what the learning rate of the line is multiplied by, whoever schedules it",
    "lr": "the step size of a chain in which no transform has one",
    "named": "a prefix for the names of its state and hyperparameters, where two of a kind meet",
    "seed": "of the noise that rules draw",
    "nonfinite": "what a NaN or infinite gradient does",
    "accumulate": "gradients of so many steps are averaged for one update",
    "precision": "how half-precision parameters are kept",
    "mode": "how rules run",
    "maximize": "go up the gradient",
    "steps": "the updates of a run: the horizon of schedules that state none",
    "horizon": "the same with its unit, which every schedule of the recipe then counts",
    "silence": "codes of checks that are not to be told of",
    "regime": "controllers, which change hyperparameters within bounds while training runs",
    "safeguards": "states to go back to where training breaks, and when",
}
_SCHEDULE: Schema = {"$ref": "#/$defs/schedule"}
_TRANSFORM: Schema = {"$ref": "#/$defs/transform"}
_FOREIGN: Schema = {"type": "string", "pattern": "/"}


def recipe_schema() -> Schema:
    """The schema of a recipe: one object an optimizer, one for chains, one for what has a base."""
    return {
        "$schema": DIALECT,
        "title": "Rheostat recipe",
        "description": "An optimizer, its hyperparameters and their schedules.",
        "type": "object",
        **chosen("base", _over_a_base(), _rules(_own(), foreign=True)),
        "not": {"required": [STEPS.name, "horizon"]},
        "$defs": definitions(),
    }


def definitions() -> Schema:
    """What recipes refer to; a study's schema has it too."""
    keys = {f"key_{name}": schema for name, schema in _keys().items()}
    return {
        "schedule": _schedules(),
        "transform": _listed("transform", {NAMED.name: described(NAMED)}),
        "controller": _listed("controller", {}, as_it_is),
        "clip": _clips(),
        **keys,
    }


def part() -> Schema:
    """An object of keys that belong to some recipe."""
    return closed({**_own(), **_rule_keys(), **_any_argument()}, [])


def _keys() -> Schema:
    """The keys of a recipe that are no hyperparameters, each with what it holds."""
    transforms: Schema = {"type": "array", "items": _TRANSFORM}
    transforms["maxItems"] = MOST
    settings = {name: described(argument) for name, argument in SETTINGS.items()}
    horizon = closed({unit: plain(argument) for unit, argument in HORIZONS.items()}, [])
    horizon |= {"minProperties": 1, "maxProperties": 1}
    line: Schema = {"type": "object", **_rules(_line_keys(), ["match"], _inheriting())}
    return {
        "format": described(FORMAT),
        "before": told("before", transforms),
        "clip": told("clip", {"$ref": "#/$defs/clip"}),
        "policy": told("policy", {"type": "array", "maxItems": MOST, "items": line}),
        **settings,
        "steps": described(STEPS),
        "horizon": told("horizon", horizon),
        "silence": told("silence", {"type": "array", "items": {"enum": list(CODES)}}),
        "regime": told("regime", regime()),
        "safeguards": told("safeguards", safeguards()),
    }


def _own() -> Schema:
    names = ["format", "before", "clip", "policy", *SETTINGS, "steps", "horizon", "silence"]
    names += WATCHING
    return {name: {"$ref": f"#/$defs/key_{name}"} for name in names}


def _line_keys() -> Schema:
    before = {name: {"$ref": f"#/$defs/key_{name}"} for name in ("before", "clip")}
    return {"match": _match(), **before, LR_FACTOR.name: described(LR_FACTOR)}


def _match() -> Schema:
    from rheostat.core.roles import ROLES

    def some(item: Schema) -> Schema:
        return {"anyOf": [item, {"type": "array", "items": item}]}

    keys: Schema = {
        "role": told("role", some({"enum": list(ROLES)})),
        "name": told("name", some(plain(PATTERN))),
        MIN_DIM.name: described(MIN_DIM),
        OPTIONAL.name: described(OPTIONAL),
    }
    return told("match", closed(keys, []))


def _rules(
    keys: Schema,
    needed: Sequence[str] = (),
    otherwise: Schema | None = None,
    *,
    foreign: bool = False,
) -> Schema:
    """A chain or an optimizer, each with these keys besides, or else something else."""
    own = {key: schema for key, schema in _rule_keys().items() if key != "optimizer"}
    chain = {"title": "chain", **closed({**keys, **own}, [*needed, "chain"])}
    rules = by_name("optimizer", keys, needed, foreign=foreign)
    if otherwise is not None:
        rules = chosen("optimizer", rules, otherwise)
    return chosen("chain", chain, rules)


def chosen(key: str, then: Schema, otherwise: Schema) -> Schema:
    """One schema for what has the key, another for what has not.

    A choice by name, in place of `oneOf`, says what is wrong with the one that was meant, and
    takes no time to find it.
    """
    return {"if": {"required": [key]}, "then": then, "else": otherwise}


def by_name(
    kind: str,
    keys: Schema,
    needed: Sequence[str] = (),
    *,
    foreign: bool = False,
    waiting: Sequence[str] = (),
    shape: Shape | None = None,
) -> Schema:
    """The components of a kind, chosen by the key that names one.

    `keys` are allowed besides, `needed` are required, and `waiting` are arguments that need not
    be written although they have no default. Another library's has any arguments, which are
    checked when it is loaded.
    """
    found = _present(kind)
    names: Schema = {"enum": [name for of in found for name in names_of(of)["enum"]]}
    choices = [
        {
            "if": {"properties": {kind: names_of(of)}, "required": [kind]},
            "then": component_schema(
                of,
                {**keys, kind: names_of(of), **arguments(of, shape)},
                [*needed, kind, *(n for n in required(of) if n not in waiting or combines(of))],
            ),
        }
        for of in found
    ]
    return {
        "type": "object",
        "properties": {kind: any_of([names, _FOREIGN]) if foreign else names},
        "required": [*needed, kind],
        "allOf": choices,
    }


def _rule_keys() -> Schema:
    chain: Schema = {"type": "array", "minItems": 1, "maxItems": MOST}
    chain["items"] = _TRANSFORM
    names = [name for of in _present("optimizer") for name in names_of(of)["enum"]]
    return {
        "optimizer": any_of([{"enum": names}, _FOREIGN]),
        "chain": told("chain", chain),
        LR.name: _noted(schedulable(LR, plain(LR)), LR, MEANINGS["lr"]),
    }


def _inheriting() -> Schema:
    """A line of a policy that names no rule: it has that of the recipe, with other arguments."""
    made = closed({**_line_keys(), **_any_argument()}, ["match"])
    return {"title": "the rule below, changed", **made}


def _any_argument() -> Schema:
    """The arguments of all optimizers, each in any of its forms."""
    found: dict[str, list[Schema]] = {}
    for of in _present("optimizer"):
        for name, schema in arguments(of).items():
            bare = {key: v for key, v in schema.items() if key not in ("default", "description")}
            variants = found.setdefault(name, [])
            if bare not in variants:
                variants.append(bare)
    return {name: any_of(variants) for name, variants in found.items()}


def _over_a_base() -> Schema:
    """What is laid over a base holds parts of values, so that only its keys are checked here."""
    base = told("base", {"type": "string", "pattern": r"\.(ya?ml|toml|json)$"})
    anything: Schema = {}
    known = dict.fromkeys((*_own(), *_rule_keys(), *_any_argument()), anything)
    return {"title": "over a base", **closed({"base": base, **known}, ["base"])}


def _schedules() -> Schema:
    # A schedule's steps are the horizon of the run where they are not written.
    return by_name("schedule", {}, foreign=True, waiting=["steps"], shape=as_it_is)


def _listed(kind: str, keys: Schema, shape: Shape | None = None) -> Schema:
    """An item of a list of components: a name alone, or a mapping, with these keys besides."""
    bare = [n for of in _present(kind) if not required(of) for n in names_of(of)["enum"]]
    named = by_name(kind, keys, shape=shape)
    return {"if": {"type": "string"}, "then": {"enum": bare}, "else": named}


def _clips() -> Schema:
    kinds: Schema = {}
    for kind, name in CLIPS.items():
        of = component(name, "transform")
        known = arguments(of)
        first = known[next(iter(known))]
        short = {key: value for key, value in first.items() if key != "default"}
        kinds[kind] = any_of([short, closed(known, required(of))])
    return {**closed(kinds, []), "minProperties": 1, "maxProperties": 1}


# -- components --------------------------------------------------------------------------------


def _present(kind: str) -> list[Component]:
    """The components of a kind that can be made from data; broken plug-ins are left out."""
    found: list[Component] = []
    for of in components(kind):
        try:
            known = arguments_of(of.factory)
        except MachineError:
            continue
        if all(_is_data(argument) for argument in known.values() if argument.required):
            found.append(of)
    return found


def _is_data(argument: Argument) -> bool:
    if nesting(argument.annotation) or takes_chain(argument.annotation):
        return True
    try:
        argument.adapter.json_schema()
    except PydanticUserError:  # a function, which no file can hold
        return False
    return True


def component_schema(of: Component, properties: Schema, needed: Iterable[str]) -> Schema:
    """An object with the arguments of a component."""
    return {"title": of.ref, "description": of.summary, **closed(properties, needed)}


def closed(properties: Mapping[str, Schema], needed: Iterable[str]) -> Schema:
    """An object of these keys and no others."""
    made: Schema = {"type": "object", "properties": dict(properties)}
    listed = list(needed)
    return {**made, **({"required": listed} if listed else {}), "additionalProperties": False}


def any_of(variants: list[Schema]) -> Schema:
    """One of these, or the only one."""
    return variants[0] if len(variants) == 1 else {"anyOf": variants}


def names_of(of: Component) -> Schema:
    """How the component may be named: the newest version of a name also goes without it."""
    newest = component(of.name).version == of.version
    return {"enum": [of.name, of.ref] if newest else [of.ref]}


def required(of: Component) -> list[str]:
    """The arguments without a default."""
    return [name for name, argument in arguments_of(of.factory).items() if argument.required]


def arguments(of: Component, shape: Shape | None = None) -> Schema:
    """The arguments of a component by name, each number a number or a schedule."""
    form = schedulable if shape is None else shape
    return {
        name: _noted(form(argument, plain(argument)), argument, _meaning(of, name))
        for name, argument in arguments_of(of.factory).items()
        if _is_data(argument)
    }


def _meaning(of: Component, name: str) -> str | None:
    """What the card says of an argument, its unit and what is usual."""
    entry = of.card.arguments.get(name)
    if entry is None:
        return None
    usual = f". Usual {entry.common} {entry.unit}".rstrip() if entry.common else ""
    return f"{entry.meaning.rstrip('.')}{usual}."


def as_it_is(argument: Argument, schema: Schema) -> Schema:
    """The schema, with nothing scheduled."""
    del argument
    return schema


def schedulable(argument: Argument, schema: Schema) -> Schema:
    """The schema with a schedule in the place of any number."""
    if not argument.number:
        return schema
    if argument.scalar:
        return any_of([schema, _SCHEDULE])
    if "prefixItems" in schema:
        return {**schema, "prefixItems": [any_of([s, _SCHEDULE]) for s in schema["prefixItems"]]}
    return {**schema, "items": any_of([schema["items"], _SCHEDULE])}


def described(argument: Argument) -> Schema:
    """An argument of ours with its meaning and default."""
    return _noted(plain(argument), argument, MEANINGS[argument.name])


def told(name: str, schema: Schema) -> Schema:
    """A schema with the meaning of a key."""
    return {"description": MEANINGS[name], **schema}


def plain(argument: Argument) -> Schema:
    """The type of an argument."""
    if takes_chain(argument.annotation):
        return {"type": "array", "minItems": 1, "maxItems": MOST, "items": _TRANSFORM}
    nested = nesting(argument.annotation)
    if nested is None:
        return argument.adapter.json_schema()
    made = _SCHEDULE if nested == "one" else {"type": "array", "minItems": 1, "items": _SCHEDULE}
    return made if argument.required else any_of([made, {"type": "null"}])


def _noted(schema: Schema, argument: Argument, meaning: str | None) -> Schema:
    notes: Schema = {"description": meaning} if meaning else {}
    if not argument.required and not nesting(argument.annotation):
        notes["default"] = as_data(argument.check(argument.default)[0])
    return {**notes, **schema}
