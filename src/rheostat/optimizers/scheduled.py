"""Hyperparameters that a schedule owns, inside param groups of plain numbers.

A group counts its progress in every unit (`updates`, `samples` …), and a schedule is read at the
count of its own unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsFloat, cast

from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule
from rheostat.core.transform import Transform

COUNTS = ("samples", "tokens", "epochs", "fraction")
"""The units of progress besides updates, as `consumed` takes them and groups count them."""

START: Mapping[str, Any] = {"updates": 0, **dict.fromkeys(COUNTS, 0.0)}
"""The counts of a group that has not begun."""


def schedules_in(value: Any) -> Iterator[Schedule]:
    """The schedules in a hyperparameter: itself, or parts of a tuple."""
    if isinstance(value, Schedule):
        yield value
    elif isinstance(value, tuple):
        for part in cast("tuple[Any, ...]", value):
            yield from schedules_in(part)


def has_schedule(value: Any) -> bool:
    """Whether a value is a schedule, or a tuple with one in it."""
    return any(True for _ in schedules_in(value))


def log_key(key: str) -> str:
    """The group key of the log of steps at which a hyperparameter's schedule was begun again."""
    return f"{key}.restarts"


def base_key(key: str) -> str:
    """The group key of the base value of a hyperparameter, which whoever writes to it changes."""
    return f"{key}.base"


def bases(schedules: Mapping[str, Any]) -> dict[str, float]:
    """The base values that schedules declare, under their group keys."""
    return {
        base_key(key): value.base
        for key, value in schedules.items()
        if isinstance(value, Schedule) and value.base is not None
    }


def at_counts(value: Any, counts: Mapping[str, Any], key: str = "") -> Any:
    """The value with every schedule in it replaced by what it says at these counts.

    `key` is the hyperparameter's: the base value that stands under it scales the schedule.
    """
    if isinstance(value, tuple):
        parts = enumerate(cast("tuple[Any, ...]", value))
        return tuple(at_counts(part, counts, f"{key}.{i}") for i, part in parts)
    if not isinstance(value, Schedule):
        return value
    try:
        found = value(counts[value.unit])
    except InputError as error:
        raise InputError(f"{key}: at {counts[value.unit]:.10g} {value.unit}: {error}") from None
    written = counts.get(base_key(key), value.base)
    return found if written == value.base else found * (written / value.base)


def whole_count(group: Mapping[str, Any], schedule: Schedule, hyperparameter: str) -> int:
    """Where a schedule of a group is, for a change of plan. Raises InputError in the middle of a
    count."""
    count = group[schedule.unit]
    if count != int(count):
        raise InputError(
            f"plan: {hyperparameter} is at {count:g} {schedule.unit}; a plan changes at a "
            "whole count"
        )
    return int(count)


def check_start(group: Mapping[str, Any]) -> list[str]:
    """The hyperparameters of a group that are scheduled; refuse a schedule that has no value at the
    group's counts, or one that is out of its range. Raises InputError."""
    owned = [key for key, value in group.items() if has_schedule(value)]
    for key in owned:
        at_counts(group[key], group, key)
    return owned


def at_start(rules: Sequence[Transform]) -> dict[str, Any]:
    """The hyperparameters of the rules, as they are where nothing has begun.

    `betas` is there where every rule has it: torch's schedulers that find it cycle that of every
    group, and otherwise `momentum`, which they put where there is none.
    """
    every = [rule.hyperparameters for rule in rules]
    return {
        name: at_counts(value, START, name)
        for numbers in every
        for name, value in numbers.items()
        if name != "betas" or all(name in other for other in every)
    }


def check_owners(
    index: int, group: dict[str, Any], schedules: Mapping[str, Any], *, saved: bool = False
) -> None:
    """Refuse a group in which a scheduled hyperparameter has another value than its schedule's.

    One that a schedule declares as a base value may be written: the base follows.
    `saved` says that the group comes from a checkpoint.
    """
    for key, value in schedules.items():
        expected = at_counts(value, group, key)
        # A tensor holds what is expected where it holds that one number, in its precision.
        if (isinstance(value, tuple) or _is_number(group[key])) and group[key] == expected:
            _check_range(f"param group {index}: {key}", value, expected, group)
            continue
        if saved:
            raise InputError(
                f"param group {index}: {key} was saved as {group[key]!r} after {group['updates']} "
                f"updates, where this schedule gives {expected!r}; build the optimizer with the "
                "schedule it was saved with"
            )
        if base_key(key) in group:
            found = float(group[key]) if _is_number(group[key]) else math.nan
            if not expected or not 0 < found < math.inf:
                raise InputError(
                    f"{key} of param group {index} is a base value times a factor, which gives "
                    f"{expected!r} now; {group[key]!r} was written to it, which no base gives"
                )
            group[base_key(key)] *= found / expected
            group[key] = at_counts(value, group, key)
            continue
        raise InputError(
            f"{key} of param group {index} belongs to its schedule, which says {expected!r} after "
            f"{group['updates']} updates; {group[key]!r} was written to it. Build the optimizer "
            "with a plain number to set it by hand, or declare it as a base value: "
            "schedules.on_base(…)."
        )


def _is_number(value: Any) -> bool:
    """Whether it is one number, or a tensor of one."""
    size: int = getattr(value, "numel", lambda: 1)()
    return size == 1 and isinstance(value, SupportsFloat)


def _check_range(where: str, value: Any, found: Any, counts: Mapping[str, Any]) -> None:
    """Refuse what schedules say now where it is out of the range of what they are given to."""
    if isinstance(value, tuple):
        for i, pair in enumerate(zip(cast("tuple[Any, ...]", value), found, strict=True)):
            _check_range(f"{where}.{i}", *pair, counts)
    elif isinstance(value, Schedule) and value.fault and (wrong := value.fault(found)):
        raise InputError(
            f"{where}: its schedule gives {found:g} at {counts[value.unit]:.10g} {value.unit}; it "
            f"{wrong}"
        )


def check_counted(index: int, group: Mapping[str, Any], schedules: Mapping[str, Any]) -> None:
    """Refuse a step while nobody has said what the one before consumed, where a schedule counts
    that."""
    for key, value in schedules.items():
        for unit in (schedule.unit for schedule in schedules_in(value)):
            if unit in group["uncounted"]:
                raise InputError(
                    f"{key} of param group {index} is scheduled in {unit}, and nobody has said how "
                    f"many the last step took: call consumed({unit}=…) after each step"
                )


def written_plan(schedules: Mapping[str, Any]) -> str:
    """What the schedules are, as JSON; a function of Python's is only said to be one."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(part) for part in cast("tuple[Any, ...]", value)]
        if not isinstance(value, Schedule):
            return value
        try:
            return value.written()
        except InputError:
            return "a function"

    return json.dumps({key: plain(value) for key, value in schedules.items()})
