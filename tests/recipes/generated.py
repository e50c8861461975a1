"""Recipes by chance: good ones of the whole grammar, and what chance makes of them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

from rheostat.core.component import Component
from rheostat.core.hyper import Argument, arguments_of
from rheostat.core.registry import components
from rheostat.recipes.schedule_data import nesting, takes_chain

NUMBERS = [0.5, 0.25, 0.75, 1, 2, 3, 0.0, 0.125, -0.5, 10, 1e-3]
WORDS = ["quintic", "bfloat16", "float32", "original", "adam", "sgd", "loss", "update_norm"]
JUNK: list[Any] = [None, True, False, "fast", "", "0.1", "cosine", -1, -0.5, 0, 1, 2, 2.5, 7]
JUNK += [[], {}, ["plateau"], {"controllers": ["early_stop"]}, {"keep": 3}]
JUNK += [[0.5], [0.9, 0.99], [0.9, "x"], [1, 2, 3], {"schedule": "cosine"}, [None], {"peak": 0.1}]
JUNK += [{"schedule": "constant", "peak": 0.5}, {"schedule": "nothing"}, [[]], {"global_norm": 1}]
RULES: list[Any] = ["scale_by_adam", {"transform": "trace", "momentum": 0.5, "named": "t"}]
RULES += [{"transform": "scale_by_adam", "b2": {"schedule": "constant", "peak": 0.5}, "named": "a"}]
UNITS = ["updates", "updates", "samples", "tokens", "epochs"]
KEYS = [
    "regime",
    "safeguards",
    "terms",
    "controller",
    "replay",
    "clip",
    "peak",
    "lr",
    "steps",
    "betas",
    "policy",
    "chain",
    "before",
    "match",
    "optimizer",
]


def good_recipe(rng: random.Random) -> dict[str, Any]:
    """A recipe of any shape that is allowed value by value; the whole need not fit together."""
    made = {**_some(rng, _settings(rng)), **_rule(rng, chain=rng.random() < 0.3)}
    if rng.random() < 0.3:
        made["before"] = [_piece(rng) for _ in range(rng.randint(0, 2))]
    if rng.random() < 0.3:
        made["clip"] = rng.choice(
            [{"global_norm": 1.0}, {"norm": 2}, {"value": 0.5}, {"agc": {}}, {"percentile": 5}]
        )
    made |= _some(rng, {"regime": _regime(rng), "safeguards": _safeguards(rng)})
    if rng.random() < 0.4:
        made["policy"] = [_line(rng, made) for _ in range(rng.randint(0, 2))]
    return made


def spoilt(recipe: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The recipe with one value replaced, one key misspelt, added or taken away, anywhere."""
    made = copy.deepcopy(recipe)
    place = rng.choice(list(_mappings(made)))
    key = rng.choice(list(place) or ["lr"])
    change = rng.randrange(4)
    if change == 0 or not place:
        place[key] = copy.deepcopy(rng.choice(JUNK))
    elif change == 1:
        place[f"{key}x"] = place.pop(key)
    elif change == 2:
        place[rng.choice(KEYS)] = copy.deepcopy(rng.choice(JUNK))
    else:
        del place[key]
    return made


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _mappings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _mappings(part)


def _settings(rng: random.Random) -> dict[str, Any]:
    horizon = rng.choice([{"steps": 40}, {"horizon": {rng.choice(UNITS): 40}}])
    return {
        "seed": rng.randrange(9),
        "nonfinite": rng.choice(["skip", "raise", "propagate"]),
        "accumulate": rng.choice([1, 2, 2.0]),
        "precision": rng.choice(["plain", "master", "stochastic"]),
        "mode": rng.choice(["auto", "eager"]),
        "maximize": rng.random() < 0.5,
        "silence": rng.choice([[], ["RH003"], ["RH001", "RH009"]]),
        "format": 1,
        **horizon,
    }


def _regime(rng: random.Random) -> Any:
    controllers = [_listed(rng, "controller", _plain) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.5:
        return controllers
    if rng.random() < 0.2:
        return {"replay": rng.choice(["runs/a", "0f3c"])}
    terms = {"budget": 12, "cooldown": rng.choice([1, 5.0]), "growth": 2.5, "rollbacks": 0}
    bounds = {"floor": rng.choice([0.1, 1]), "ceiling": 4, "own": {"momentum": [1.0, 4]}}
    whole = {
        "controllers": controllers,
        "terms": _some(rng, {**terms, "bounds": _some(rng, bounds)}),
        "dry_run": rng.random() < 0.5,
    }
    return _some(rng, whole)


def _safeguards(rng: random.Random) -> Any:
    care = {"every": rng.choice([1, 50.0]), "keep": 3, "z": 4, "backoff": 1, "bad_batches": "keep"}
    return rng.choice([True, False, _some(rng, care)])


def _line(rng: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    match = {
        "role": rng.choice(["norm", ["bias", "head"], []]),
        "name": rng.choice(["a*", ["b*", "c*"]]),
        "min_dim": rng.randrange(3),
        "optional": True,
    }
    line: dict[str, Any] = {"match": _some(rng, match)}
    if rng.random() < 0.7 or "chain" in whole:
        line |= _rule(rng, chain=rng.random() < 0.3)
    if rng.random() < 0.3:
        line["lr_factor"] = 0.5
    return line


def _rule(rng: random.Random, *, chain: bool) -> dict[str, Any]:
    if chain:
        made: dict[str, Any] = {"chain": [_piece(rng) for _ in range(rng.randint(1, 3))]}
        return made | ({"lr": _number(rng, Argument("lr", float))} if rng.random() < 0.5 else {})
    of = _any(rng, "optimizer")
    return {"optimizer": _name(rng, of), **_arguments(rng, of, _number)}


def _piece(rng: random.Random) -> Any:
    made = _listed(rng, "transform", _number)
    if isinstance(made, dict) and rng.random() < 0.5:
        made["named"] = f"p{rng.randrange(99)}"
    return made


def _listed(rng: random.Random, kind: str, number: Callable[[random.Random, Argument], Any]) -> Any:
    """An item of a list: a name alone where that is enough, or a mapping."""
    of = _any(rng, kind)
    given = _arguments(rng, of, number)
    if not given and not any(a.required for a in arguments_of(of.factory).values()):
        return _name(rng, of)
    return {kind: _name(rng, of), **given}


def _number(rng: random.Random, argument: Argument) -> Any:
    return _schedule(rng) if rng.random() < 0.2 else _plain(rng, argument)


def _schedule(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    found = [of for of in components("schedule") if of.ours and (depth < 2 or not _nests(of))]
    of = rng.choice(found)
    made: dict[str, Any] = {"schedule": _name(rng, of)}
    for name, argument in arguments_of(of.factory).items():
        if nesting(argument.annotation) == "one":
            made[name] = _schedule(rng, depth + 1)
        elif nesting(argument.annotation) == "many":
            made[name] = [_schedule(rng, depth + 1) for _ in range(2)]
        elif argument.required and (name != "steps" or _nests(of)):
            made[name] = _plain(rng, argument)
    return made


def _nests(of: Component) -> bool:
    return any(nesting(argument.annotation) for argument in arguments_of(of.factory).values())


def _arguments(
    rng: random.Random, of: Component, number: Callable[[random.Random, Argument], Any]
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, argument in arguments_of(of.factory).items():
        if takes_chain(argument.annotation):
            made[name] = rng.sample(RULES, rng.randint(1, 2))
        elif argument.required or rng.random() < 0.3:
            value = number(rng, argument) if argument.scalar else _plain(rng, argument)
            if value is not None:
                made[name] = value
    return made


def _plain(rng: random.Random, argument: Argument) -> Any:
    """A value that the type allows; None where none is found."""
    candidates: list[Any] = [*NUMBERS, *WORDS, True, [0.5, 0.5], [0.5, 0.5, 0.5], [1, 2], [0.5, 2]]
    candidates += [[0, 10], [0.25, 0.5]]
    rng.shuffle(candidates)
    return next((value for value in candidates if not argument.check(value)[1]), None)


def _any(rng: random.Random, kind: str) -> Component:
    return rng.choice([of for of in components(kind) if of.ours])


def _name(rng: random.Random, of: Component) -> str:
    return rng.choice([of.name, of.ref])


def _some(rng: random.Random, given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if rng.random() < 0.3}
