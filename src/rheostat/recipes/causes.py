"""Why two recorded runs part: what differs in what they were given, and what that can have done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from rheostat.core.durable import JsonObject, canonical_json
from rheostat.recipes.diff import ABSENT, differences
from rheostat.recipes.document import show
from rheostat.record.environment import PACKAGES
from rheostat.record.run import FACTS, RunRecord

Cause = Literal[
    "model",
    "recipe",
    "seed",
    "batch",
    "plan",
    "hyperparameters",
    "updates",
    "version",
    "threads",
    "settings",
    "machine",
    "kernel",
    "unknown",
    "length",
]

CAUSES: Mapping[Cause, str] = {
    "model": "other model",
    "recipe": "other recipe",
    "seed": "other seed",
    "batch": "other batch",
    "plan": "other change of plan",
    "hyperparameters": "other hyperparameters, written by hand",
    "updates": "updates that no step of the run made",
    "version": "other version",
    "threads": "other thread count",
    "settings": "other settings of torch or of the process",
    "machine": "other machine",
    "kernel": "nondeterministic kernel",
    "unknown": "unknown",
    "length": "other length",
}

RESULTS = ("loss", "grad_norm", "weights", "momentum_norm")
"""What comes out of a step, in the order in which it does; all other series go into it."""

_GROUPS: Mapping[Cause, tuple[str, ...]] = {
    "version": ("python", *PACKAGES, "code"),
    "threads": ("threads",),
    "settings": ("deterministic", "matmul_precision", "cudnn_benchmark"),
    "machine": ("machine", "cpu_capability", "devices"),
}
"""Cause -> the keys of the recorded environment that are of it, in the order they are asked."""

_OWN = (
    *("recipe", "recipe_hash", "parameters", "weights", "tensors", "restarts", "environment"),
    FACTS,
)
"""Keys of the header that are not the user's."""


_LONG = 80
"""Characters of a value that are told."""


def cause_of(one: RunRecord, other: RunRecord, row: int, what: str) -> tuple[Cause, str]:
    """Why the runs part in `what` at a row, and the evidence."""
    if what == "batch":
        return "batch", f"the batch of step {row} is another one"
    recipes = list(recipe_differences(one, other))
    if what not in (*RESULTS, "checkpoint"):
        return _cause_of_plan(one, other, row, recipes)
    if recipes:
        return "recipe", recipes[0]
    if line := _differing_event(one, other, "unrecorded", row):
        return "updates", line
    if line := _differing_draws(one, other, row):
        return "seed", line
    environment = dict(_differing_environment(one, other))
    for cause in _GROUPS:
        if cause in environment:
            return cause, environment[cause]
    if told := _facts(one, other):
        return ("settings" if told[0].startswith("variables") else "machine"), told[0]
    if not all(one.batches[: row + 1]) or not all(other.batches[: row + 1]):
        return "unknown", (
            "all that is recorded is the same, but the batches are not recorded "
            "(run.step(batch=…)): another batch, or a nondeterministic kernel"
        )
    return "kernel", (
        "recipe, weights, batches, random numbers, versions, threads and machine are the same"
    )


def recipe_differences(one: RunRecord, other: RunRecord) -> Iterator[str]:
    """A line for each key of the recipes that differs."""
    if one.header.get("recipe_hash") != other.header.get("recipe_hash"):
        yield from lines(one.header.get("recipe", {}), other.header.get("recipe", {}))


def unlike(one: RunRecord, other: RunRecord) -> list[str]:
    """All that differs in what the runs were given: recipe, environment, what the user noted."""
    given = [{k: v for k, v in run.header.items() if k not in _OWN} for run in (one, other)]
    found = [f"recipe: {line}" for line in recipe_differences(one, other)]
    environments = one.header.get("environment", {}), other.header.get("environment", {})
    return [*found, *lines(*environments), *_facts(one, other), *lines(*given)]


def _cause_of_plan(
    one: RunRecord, other: RunRecord, row: int, recipes: list[str]
) -> tuple[Cause, str]:
    """Why a hyperparameter differs."""
    if recipes:
        return "recipe", recipes[0]
    for kind in ("replan", "restart", "unrecorded"):
        if line := _differing_event(one, other, kind, row):
            return ("updates" if kind == "unrecorded" else "plan"), line
    return "hyperparameters", "the recipes are the same, and no change of plan is recorded"


def _differing_event(one: RunRecord, other: RunRecord, kind: str, row: int) -> str:
    """The first event of a kind, up to a row, that one run has and the other has not."""
    until = int(one.steps[row]) if one.steps.size else 0
    said = [
        [
            f"{kind} at step {event.fields['step']}: {canonical_json(event.fields)[:120]}"
            for event in run.events
            if event.kind == kind and event.fields.get("step", 0) <= until
        ]
        for run in (one, other)
    ]
    for mine, theirs, which in ((*said, "first"), (*reversed(said), "second")):
        for line in mine:
            if line not in theirs:
                return f"only in the {which}: {line}"
    return ""


def _differing_draws(one: RunRecord, other: RunRecord, row: int) -> str:
    """Whether the random generators were in other states: at the start, or since a step."""
    starts = [run.header.get(FACTS, {}).get("rng", "") for run in (one, other)]
    states = [{start, *run.rng[: row + 1]} for start, run in zip(starts, (one, other), strict=True)]
    if all(len(seen) == 1 for seen in states):
        return ""  # nothing was drawn from them: no matter in which state they are
    if starts[0] != starts[1]:
        told = lines(seeds(one), seeds(other))
        return "; ".join(["the random generators differ before the first step", *told])
    pairs = zip(one.rng[: row + 1], other.rng[: row + 1], strict=True)
    for i, (mine, theirs) in enumerate(pairs):
        if mine != theirs:
            return f"other random numbers were drawn from step {int(one.steps[i])} on"
    return ""


def _differing_environment(one: RunRecord, other: RunRecord) -> Iterator[tuple[Cause, str]]:
    mine, theirs = one.header.get("environment", {}), other.header.get("environment", {})
    for cause, keys in _GROUPS.items():
        sides = [{k: side[k] for k in keys if k in side} for side in (mine, theirs)]
        if told := list(lines(*sides)):
            yield cause, "; ".join(told)


def _facts(one: RunRecord, other: RunRecord) -> list[str]:
    """Variables of the process and the processor, where they differ."""
    sides = [
        {key: run.header.get(FACTS, {}).get(key, {}) for key in ("variables", "processor")}
        for run in (one, other)
    ]
    return list(lines(*sides))


def seeds(run: RunRecord) -> JsonObject:
    facts = run.header.get(FACTS, {})
    return {"seed of torch": facts["seed"]} if "seed" in facts else {}


def _short(value: Any) -> str:
    said = str(value)
    return said if len(said) <= _LONG else f"{said[:_LONG]}…"


def lines(one: Any, other: Any) -> Iterator[str]:
    for found in differences(one, other):
        sides = ((found.left, "first"), (found.right, "second"))
        said = [
            f"not in the {n}" if side is ABSENT else f"{_short(side)} in the {n}"
            for side, n in sides
        ]
        yield f"{show(found.path)}: {', '.join(said)}"
