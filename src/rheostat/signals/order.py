"""Which signals a monitor has: made, named, and each behind those that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from rheostat.core.errors import InputError
from rheostat.core.registry import component
from rheostat.core.signal import Signal

Signals: TypeAlias = Sequence[str | Signal] | Mapping[str, str | Signal]
"""Signals, or their names: in a list, or by names of one's own."""


def named(signals: Signals) -> dict[str, Signal]:
    """Signals by the name that their values go under, each behind those that it needs; a needed one
    that is not among them is added.

    A signal in a list goes under the name of its component, one in a mapping under its key.

    Raises:
        InputError: an unknown signal, a name given twice, a circle, one that looks at another more
            often than that is measured.
    """
    if isinstance(signals, Mapping):
        given = list(signals.items())
    elif isinstance(cast("object", signals), str | Signal):
        raise InputError("the monitor takes a list of signals; put it in [ ]")
    else:
        given = [(base_name(one), one) for one in signals]
    made: dict[str, Signal] = {}
    for name, one in given:
        if name in made:
            raise InputError(
                f"two signals are named {name!r}; give them as a mapping, each under its own name"
            )
        made[name] = component(one, "signal").factory() if isinstance(one, str) else one
    waiting = list(made.values())
    while waiting:
        for need in waiting.pop().needs:
            if need not in made:
                made[need] = component(need, "signal").factory()
                waiting.append(made[need])
    for name, one in made.items():
        for need in one.needs:
            if one.every % made[need].every:
                raise InputError(
                    f"the signal {name} is measured every {_updates(one.every)} and looks at "
                    f"{need}, measured every {_updates(made[need].every)}; give both the same every"
                )
    ordered: dict[str, Signal] = {}
    for name in made:
        _place(name, made, ordered, ())
    return ordered


def _updates(count: int) -> str:
    return "update" if count == 1 else f"{count} updates"


def base_name(one: str | Signal) -> str:
    """What a signal is called in a list: its component, without the version."""
    return (one if isinstance(one, str) else one.name).partition("@")[0]


def _place(
    name: str, made: Mapping[str, Signal], ordered: dict[str, Signal], above: tuple[str, ...]
) -> None:
    if name in above:
        circle = " → ".join((*above[above.index(name) :], name))
        raise InputError(f"signals need one another in a circle: {circle}")
    if name in ordered:
        return
    for need in made[name].needs:
        _place(need, made, ordered, (*above, name))
    ordered[name] = made[name]
