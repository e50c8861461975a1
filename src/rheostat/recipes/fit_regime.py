"""What of a regime does not fit the recipe around it: one check a function, as in `fit`.

A check gets the whole recipe as it runs: a regime is about all of its rules together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rheostat.core.controller import Controller
from rheostat.core.errors import nearest
from rheostat.core.registry import component, components
from rheostat.core.schedule import Schedule
from rheostat.recipes.build import Served, is_foreign
from rheostat.recipes.look import Found, Look
from rheostat.recipes.parts import Parts, Piece
from rheostat.recipes.regimes import controllers_of
from rheostat.signals.noise import REPORTED as NOISE

RESTARTS, GROWS, MOVES = "restart_trigger", "batch_growth", "hand_over"


@dataclass(frozen=True)
class Watch:
    """A recipe with its regime: each controller with the piece that it is made of."""

    parts: Parts
    looks: Sequence[Look]
    controllers: Sequence[tuple[Piece, Controller]]

    def named(self, name: str) -> Iterator[Piece]:
        """The pieces of the controllers of this name."""
        return (p for p, _ in self.controllers if p.ref.partition("@")[0] == name)

    def values(self, hyperparameter: str) -> list[Any]:
        """What each rule that has a hyperparameter has for it.

        "momentum" is the first of `betas`, where a rule has those.
        """
        found: list[Any] = []
        for look in self.looks:
            held = look.match.rule.hyperparameters
            if hyperparameter == "momentum" and "betas" in held:
                found.append(held["betas"][0])
            elif hyperparameter in held:
                found.append(held[hyperparameter])
        return found


RegimeCheck: TypeAlias = Callable[[Watch], Found]


def watch_of(parts: Parts, lines: Sequence[Served]) -> Watch:
    """The recipe and its regime. Raises PlacedError where a controller refuses its arguments."""
    pieces = parts.regime.controllers if parts.regime else ()
    made = controllers_of(parts.regime) if parts.regime else []
    looks = [Look(line.match, line.rule, line.places, parts) for line in lines]
    return Watch(parts, looks, list(zip(pieces, made, strict=True)))


def _nothing_to_act_on(watch: Watch) -> Found:
    for piece, controller in watch.controllers:
        wanted = controller.acts_on
        there = {name: watch.values(name) for name in wanted}
        if not wanted or any(values for name, values in there.items() if not _off(name, values)):
            continue
        zero = any(there.values())
        names = " or ".join(wanted)
        state = "which is 0 in every rule" if zero else "which no rule of the recipe has"
        remedy = _REMEDIES.get(wanted[0], "leave it out")
        yield piece.path, f"{piece.ref} changes {names}, {state}; {remedy}"


_REMEDIES = {
    "max_norm": "clip: {global_norm: 1.0} has one",
    "blend": "a blend in the chain has one",
    "weight_decay": "give it a value",
}


def _off(name: str, values: Sequence[Any]) -> bool:
    """Whether factors on these values do nothing."""
    return name == "weight_decay" and not any(isinstance(v, Schedule) or v != 0 for v in values)


def _nothing_to_restart(watch: Watch) -> Found:
    for piece in watch.named(RESTARTS):
        plans = [look.schedules["lr"] for look in watch.looks if "lr" in look.schedules]
        curves = [look.curve("lr") for look in watch.looks if "lr" in look.schedules]
        if not plans:
            why = "and lr is constant; give it a schedule"
        elif strange := [plan.unit for plan in plans if plan.unit != "updates"]:
            why = f"and lr is scheduled in {strange[0]}; schedules in updates can restart"
        elif all(np.ptp(curve) == 0 for curve in curves):
            why = "and lr is scheduled to be constant; give it a schedule that falls"
        else:
            continue
        yield piece.path, f"{piece.ref} begins the schedule of lr again, {why}"


def _nobody_to_grow(watch: Watch) -> Found:
    for piece in watch.named(GROWS):
        if is_foreign(watch.parts):
            yield (
                piece.path,
                (
                    f"{piece.ref} makes batches larger by accumulation, and another library's loop "
                    "has none of ours; leave it out, or take an optimizer of ours"
                ),
            )


def _same_again(watch: Watch) -> Found:
    pieces = [piece for piece, _ in watch.controllers]
    for index, piece in enumerate(pieces):
        if piece in pieces[:index]:
            first = pieces.index(piece)
            yield piece.path, f"is {piece.ref} as in place {first}, word for word; leave it out"


def _idle_bounds(watch: Watch) -> Found:
    regime = watch.parts.regime
    if regime is None or regime.replay is not None:
        return
    changed = [name for _, controller in watch.controllers for name in controller.acts_on]
    changed += ["lr"] if watch.parts.safeguards is not None else []
    for name in regime.terms["bounds"]["own"]:
        if name not in changed:
            path = ("regime", "terms", "bounds", "own", name)
            yield (
                path,
                f"bounds {name}, which nothing in the regime changes; {_meant(name, changed)}",
            )


def _meant(name: str, known: Sequence[str]) -> str:
    return nearest(name, known) if known else "leave it out"


def _no_such_signal(watch: Watch) -> Found:
    known = {of.name for of in components("signal")}
    for piece, controller in watch.controllers:
        for signal in controller.needs:
            if signal not in known:
                key = next((key for key, value in piece.values.items() if value == signal), None)
                path = piece.path if key is None else (*piece.path, key)
                yield path, f"no signal is named {signal!r}; {nearest(signal, known)}"


def _two_movers(watch: Watch) -> Found:
    for piece in watch.named(MOVES):
        share: str = piece.values["hyperparameter"]
        if any(isinstance(value, Schedule) for value in watch.values(share)):
            what = f"{piece.ref} moves {share}, which follows a schedule"
            yield piece.path, f"{what}; leave one of the two out"


def _no_noise(watch: Watch) -> Found:
    known = {of.name for of in components("signal")}
    alone = not is_foreign(watch.parts) and watch.parts.settings["accumulate"] == 1
    for piece, controller in watch.controllers:
        needs = [component(name, "signal").factory() for name in controller.needs if name in known]
        if alone and any({*signal.reported} & {*NOISE} for signal in needs):
            yield (
                piece.path,
                (
                    f"{piece.ref} compares gradients of two batch sizes, and with accumulate: 1 an "
                    "update has one; accumulate two or more, or report them yourself"
                ),
            )


def _nothing_to_begin_from(watch: Watch) -> Found:
    for piece, controller in watch.controllers:
        if controller.keeps_start and watch.parts.safeguards is None:
            what = f"{piece.ref} goes back to the start, and no states are kept"
            yield piece.path, f"{what}; safeguards: true keeps them"


def _restarts_of_a_changed_plan(watch: Watch) -> Found:
    care = watch.parts.safeguards
    for piece in watch.named(RESTARTS):
        if care is not None and care["on_time"]:
            yield (
                piece.path,
                (
                    f"{piece.ref} begins the schedule of lr again, and not one that was changed in "
                    "mid-run, as on_time does after a roll back; leave one of the two out"
                ),
            )


def _nothing_to_end_on_time(watch: Watch) -> Found:
    care = watch.parts.safeguards
    plans = [plan for look in watch.looks for plan in look.schedules.values()]
    if care is None or not care["on_time"] or any(plan.unit == "updates" for plan in plans):
        return
    units = sorted({plan.unit for plan in plans})
    why = f"all are in {' and '.join(units)}" if units else "there is none"
    what = f"schedules in updates end with the run after a roll back, and {why}"
    yield ("safeguards", "on_time"), f"{what}; leave on_time out"


def _climbing(watch: Watch) -> Found:
    if watch.parts.settings.get("maximize"):
        what = "regimes take a loss that rises for one that fails, and with maximize it should rise"
        yield ("maximize",), f"{what}; let the loss be what is to fall, and leave maximize out"


REGIME_CHECKS: Mapping[str, RegimeCheck] = {
    "RH020": _nothing_to_act_on,
    "RH021": _nothing_to_restart,
    "RH022": _nobody_to_grow,
    "RH023": _same_again,
    "RH024": _idle_bounds,
    "RH025": _no_such_signal,
    "RH026": _two_movers,
    "RH027": _no_noise,
    "RH028": _nothing_to_begin_from,
    "RH029": _restarts_of_a_changed_plan,
    "RH030": _nothing_to_end_on_time,
    "RH031": _climbing,
}
"""Code -> what finds it in a recipe with a regime."""
