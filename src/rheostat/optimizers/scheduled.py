"""Hyperparameters that a schedule owns, inside param groups of plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule


def has_schedule(value: Any) -> bool:
    """Whether a value is a schedule, or a tuple with one in it."""
    return isinstance(value, Schedule) or (
        isinstance(value, tuple) and any(map(has_schedule, cast("tuple[Any, ...]", value)))
    )


def at_step(value: Any, step: int) -> Any:
    """The value with every schedule in it replaced by what it says at this step."""
    if isinstance(value, tuple):
        return tuple(at_step(part, step) for part in cast("tuple[Any, ...]", value))
    return value(step) if isinstance(value, Schedule) else value


def check_owners(
    index: int, group: Mapping[str, Any], schedules: Mapping[str, Any], *, saved: bool = False
) -> None:
    """Refuse a group in which a scheduled hyperparameter has another value than its schedule's.

    `saved` says that the group comes from a checkpoint.
    """
    for key, value in schedules.items():
        expected = at_step(value, int(group["updates"]))
        if group[key] == expected:
            continue
        if saved:
            raise InputError(
                f"param group {index}: {key} was saved as {group[key]!r} after {group['updates']} "
                f"updates, where this schedule gives {expected!r}; build the optimizer with the "
                "schedule it was saved with"
            )
        raise InputError(
            f"{key} of param group {index} belongs to its schedule, which says {expected!r} after "
            f"{group['updates']} updates; {group[key]!r} was written to it. Build the optimizer "
            "with a plain number to set it by hand."
        )
