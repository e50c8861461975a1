"""The conditions of a study: what it varies beside its arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNDISTURBED = "undisturbed"
"""The condition of a study of faults in which nothing goes wrong."""

KEYS = ("faults", "sweep", "evaluate_every", "target", "judge")
"""The keys of a study file that say them."""


def names_of(canonical: Mapping[str, Any]) -> tuple[str, ...]:
    """The conditions of a plan in the order of its file; a plain study has one, without a name."""
    if "faults" in canonical:
        return (UNDISTURBED, *canonical["faults"])
    if "sweep" in canonical:
        sweep = canonical["sweep"]
        return tuple(f"{sweep['key']}={value:g}" for value in sweep["values"])
    return ("",)
