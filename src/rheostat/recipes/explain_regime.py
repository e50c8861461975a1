"""What a regime may do to a run, before anything runs: who changes what, how far, by which signals,
and what the safeguards keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rheostat.core.controller import Controller
from rheostat.core.registry import component
from rheostat.core.signal import Signal
from rheostat.recipes.build import Served
from rheostat.recipes.fit_regime import watch_of
from rheostat.recipes.parts import Parts, RegimePart


@dataclass(frozen=True)
class Acting:
    """One controller: `written` is it with its arguments, `changes` each hyperparameter that it may
    change with its bounds, `idle` those that no rule has, `signals` what it reads."""

    written: str
    changes: tuple[str, ...]
    idle: tuple[str, ...]
    signals: tuple[str, ...]


@dataclass(frozen=True)
class Watching:
    """What watches over a run.

    Attributes:
        controllers: in their order.
        terms: the arbiter's, in words.
        signals: what has to be measured, and what that costs.
        replay: the run whose decisions are done again; then there are no controllers.
        dry_run: whether it only says what it would do.
        safeguards: when states are kept, and what becomes of a run that breaks; empty for none.
        copies: of weights and state, at most.
        copy_bytes: of one of them; None where the optimizer does not say what it keeps.
    """

    controllers: tuple[Acting, ...]
    terms: tuple[str, ...]
    signals: Mapping[str, str]
    replay: str | None
    dry_run: bool
    safeguards: str
    copies: int
    copy_bytes: int | None


def watching(
    parts: Parts, lines: Sequence[Served], written: Sequence[str], copy_bytes: int | None
) -> Watching | None:
    """What watches over the run of a recipe; None where nothing does.

    `written` are its controllers in words, `copy_bytes` those of its weights and state.
    """
    care = parts.safeguards
    if parts.regime is None and care is None:
        return None
    regime = parts.regime or RegimePart(())
    watch = watch_of(parts, lines)
    signals: dict[str, Signal] = {}
    for name in [need for _, one in watch.controllers for need in one.needs]:
        _add(name, signals)
    if care is not None:
        _add("gradient_norm", signals)
    acting = tuple(
        _acting(
            controller,
            text,
            regime.terms,
            {name for name in controller.acts_on if watch.values(name)},
        )
        for (_, controller), text in zip(watch.controllers, written, strict=True)
    )
    start = any(controller.keeps_start for _, controller in watch.controllers)
    return Watching(
        controllers=acting,
        terms=_terms(regime.terms) if acting else (),
        signals={name: _cost(signal) for name, signal in signals.items()},
        replay=regime.replay,
        dry_run=regime.dry_run,
        safeguards="" if care is None else _care(care),
        copies=0 if care is None else care["keep"] + 1 + start,
        copy_bytes=None if care is None else copy_bytes,
    )


def _add(name: str, found: dict[str, Signal]) -> None:
    """A signal, behind those that it is made of."""
    if name not in found:
        signal: Signal = component(name, "signal").factory()
        for need in signal.needs:
            _add(need, found)
        found[name] = signal


def _cost(signal: Signal) -> str:
    told = f"; the loop reports {', '.join(signal.reported)}" if signal.reported else ""
    return f"{signal.cost}{told}"


def _acting(
    controller: Controller, written: str, terms: Mapping[str, Any], there: set[str]
) -> Acting:
    return Acting(
        written=written,
        changes=tuple(
            _bounded(name, terms["bounds"]) for name in controller.acts_on if name in there
        ),
        idle=tuple(name for name in controller.acts_on if name not in there),
        signals=controller.needs,
    )


def _bounded(name: str, bounds: Mapping[str, Any]) -> str:
    low, high = bounds["own"].get(name, (bounds["floor"], bounds["ceiling"]))
    of = "1 − momentum" if name == "momentum" else name
    return f"{of} × {_factor(low)} to {_factor(high)}"


def _factor(value: float) -> str:
    """A factor as people say it: 1/64."""
    inverse = round(1 / value)
    return f"1/{inverse}" if inverse > 1 and value * inverse == 1 else f"{value:g}"


def _terms(terms: Mapping[str, Any]) -> tuple[str, ...]:
    rate, cooldown = terms["bounds"]["rate"], terms["cooldown"]
    large, window, history = terms["trial_from"], terms["window"], terms["history"]
    return (
        f"factors move by {rate:g} octaves an update at most, {cooldown} updates apart",
        f"{large:g} octaves at once are tried: {window} losses against a forecast of {history}",
        f"{terms['budget']:g} octaves in all; then back to the plan",
    )


def _care(care: Mapping[str, Any]) -> str:
    waits = f", and at most {care['wait']} without updates while the data is bad"
    return (
        f"a state every {care['every']} steps, good after {care['survive']} without alarm; back to "
        f"the newest good one where {care['streak']} losses in a row are not finite, "
        f"{care['persist']} lie {care['z']:g} spreads above their trend, or half of the progress "
        f"is lost; then lr × {care['backoff']:g} for {care['hold']} steps"
        f"{waits if care['wait'] else ''}{'; schedules end on time' if care['on_time'] else ''}"
    )
