"""Components, their arguments and schedules out of a document, checked against the signatures.

Nothing stops at the first problem: a `Reader` notes each with its place, and whoever uses one
refuses them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import numpy as np

from rheostat.core.component import Component
from rheostat.core.errors import InputError, MachineError, closest, nearest
from rheostat.core.hyper import Argument, Count, arguments_of
from rheostat.core.registry import component, components
from rheostat.core.schedule import Schedule, Unit
from rheostat.recipes.document import Document, KeyPath, Problem, quoted
from rheostat.recipes.parts import as_data
from rheostat.recipes.schedule_data import (
    blamed,
    combines,
    live,
    nesting,
    refusal,
    says_its_unit,
)

STEPS = Argument("steps", Count)
"""The horizon of a run, in updates; a schedule that takes an argument of this name follows it."""

LONGEST = 100
"""Characters of a wrong name that are compared with the real ones."""

SAMPLES = 100_000
"""At how many steps a schedule is held against the range of its hyperparameter, at most."""


class Reader:
    """Reads values of a document; what is wrong with them gathers in `problems`.

    `steps` is the horizon of the run where it is known, and `unit` what it counts, and with it
    every schedule that says nothing else. `waiting` says that a schedule was read that cannot be
    complete without a horizon.
    """

    def __init__(
        self, document: Document, steps: int | None = None, unit: Unit = "updates"
    ) -> None:
        self.document = document
        self.steps = steps
        self.unit: Unit = unit
        self.converted = False
        self.waiting = False
        self.problems: list[Problem] = []

    def over(self, document: Document) -> Reader:
        """A reader of another view of the same file, whose problems gather here."""
        reader = Reader(document, self.steps, self.unit)
        reader.problems = self.problems
        return reader

    def report(self, path: KeyPath, message: str, *, key: bool = False, code: str = "") -> None:
        """Note a problem with the value at a path, or with the key that holds it."""
        self.problems.append(self.document.problem(path, message, key=key, code=code))

    def mapping(self, path: KeyPath, example: str) -> dict[str, Any] | None:
        """The mapping at a path; None, and a problem noted, where something else is there."""
        value = self.document.get(path)
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
        self.report(path, f"{quoted(value)} should be a mapping, such as {example}")
        return None

    def value(self, argument: Argument, path: KeyPath, value: Any) -> Any:
        """A plain value, checked, in its canonical form; None where it is wrong."""
        checked, faults = argument.check(value)
        for fault in faults:
            absent = fault.message == "is required"  # a part of a tuple: there is nothing to quote
            text = fault.message if absent else f"{quoted(fault.found)} {fault.message}"
            self.report((*path, *fault.path), text)
        return None if faults else as_data(checked)

    def horizon(self, argument: Argument, path: KeyPath, value: Any) -> int | None:
        """A written number of steps, which must be that of the run where this is known."""
        written: int | None = self.value(argument, path, value)
        if written is not None and self.steps not in (None, written):
            unit = "steps" if self.unit == "updates" else self.unit
            self.report(
                path, f"{written} differs from the {self.steps} {unit} of the run; leave it out"
            )
        return written

    def component(self, path: KeyPath, kind: str) -> Component | None:
        """The component that the text at a path names."""
        ref = self.document.get(path)
        if not isinstance(ref, str):
            known = nearest("", [c.name for c in components(kind)])
            what = "is missing" if ref is None else f"{quoted(ref)} should be a name"
            self.report(path, f"{what}; {known}")
            return None
        try:
            return _usable(component(ref, kind))
        except (InputError, MachineError) as error:  # a library that is missing, a broken plug-in
            self.report(path, str(error))
            return None

    def meant(self, path: KeyPath, kind: str) -> Component | None:
        """The component that a wrong name at a path most likely means, so that what stands beside
        it can be checked all the same."""
        ref = self.document.get(path)
        name = str(ref).partition("@")[0][:LONGEST]
        library = f"{name.partition('/')[0]}/*" if "/" in name else "*"
        try:
            known = components(pattern=library)
            names = {of.name for of in known if of.kind == kind}
            if name not in names and any(of.name == name for of in known):
                return None  # it means what it says, something of another kind
            close = name if name in names else closest(name, names)
            return _usable(component(close, kind)) if close else None
        except (InputError, MachineError):
            return None

    def any_arguments(
        self, path: KeyPath, given: Mapping[str, Any], kind: str, own: Collection[str]
    ) -> None:
        """Check arguments of nobody knows which component of a kind: a name that none of them has,
        a value that none of them takes."""
        known: dict[str, list[Argument]] = {}
        for of in components(kind):
            if of.ours:
                for name, argument in arguments_of(of.factory).items():
                    known.setdefault(name, []).append(argument)
        for name, value in given.items():
            if name in own:
                continue
            here = (*path, name)
            if name not in known:
                self.unknown(here, [*own, *known], f"unknown key for any {kind}", own)
                continue
            attempts: list[Reader] = []
            for argument in known[name]:
                attempts.append(self.over(self.document))
                attempts[-1].problems = []
                attempts[-1].scheduled(argument, here, value)
                if not attempts[-1].problems:
                    break
            else:
                self.problems += attempts[0].problems

    def arguments(
        self,
        path: KeyPath,
        given: Mapping[str, Any],
        of: Component,
        own: Collection[str],
        read: Callable[[Argument, KeyPath, Any], Any],
        absent: Collection[str] = (),
    ) -> dict[str, Any]:
        """The arguments of a component out of the mapping `given` at a path, defaults filled in.

        `own` are keys of the mapping that are no arguments, `read` reads one value, and `absent`
        are required arguments that need not be written.
        """
        known = arguments_of(of.factory)
        values = {
            name: as_data(argument.check(argument.default)[0])
            for name, argument in known.items()
            if not argument.required
        }
        present = set(absent)
        for name, value in given.items():
            if name in own:
                continue
            if name in known:
                before = len(self.problems)
                made = read(known[name], (*path, name), value)
                if len(self.problems) == before:  # else its default stands in, for further checks
                    values[name] = made
                present.add(name)
            else:
                what = f"unknown key for {of.ref}"
                present.add(self.unknown((*path, name), [*own, *known], what, known) or name)
        for name, argument in known.items():
            if argument.required and name not in present:
                self.report(path, f"{name!r} is missing, which {of.ref} needs")
        return {name: values[name] for name in known if name in values}

    def unknown(
        self,
        path: KeyPath,
        known: Collection[str],
        message: str = "unknown key",
        listed: Collection[str] | None = None,
    ) -> str | None:
        """Note that the key at a path is none of the known ones; return the one it may mean.

        Where there is none, those `listed` are told, by default all.
        """
        meant = closest(str(path[-1]), known)
        shown = nearest("", known if listed is None else listed)
        hint = f"did you mean {meant!r}?" if meant else shown
        self.report(path, f"{message}; {hint}", key=True)
        return meant

    def scheduled(self, argument: Argument, path: KeyPath, value: Any) -> Any:
        """A value that may be a schedule, or a list in which each number may be one."""
        if isinstance(value, dict) and argument.scalar:
            return self.schedule(argument, path)
        if isinstance(value, dict) and "schedule" in value:
            if argument.number:
                self.report(
                    path, "holds several numbers: write a list, in which each may be a schedule"
                )
            else:
                self.report(path, "is not a number, so it cannot follow a schedule")
            return None
        if isinstance(value, list) and any(
            isinstance(part, dict) for part in cast("list[Any]", value)
        ):
            items = cast("list[Any]", value)
            parts = argument.parts(len(items))
            if parts is not None:
                pairs = enumerate(zip(parts, items, strict=True))
                return [self.scheduled(part, (*path, i), item) for i, (part, item) in pairs]
        if (
            isinstance(value, str)
            and argument.scalar
            and value in {c.name for c in components("schedule")}
        ):
            example = f"{{schedule: {value}, peak: …}}"
            self.report(
                path, f"{quoted(value)} is a schedule, so its arguments are missing: {example}"
            )
            return None
        return self.value(argument, path, value)

    def schedule(
        self, argument: Argument, path: KeyPath, *, inside: bool = False
    ) -> dict[str, Any] | None:
        """The schedule at a path, its steps filled in from the horizon, as canonical data.

        One `inside` of another may have steps of its own; the outermost is held against the range
        of the argument.
        """
        given = cast("dict[str, Any]", self.document.get(path))
        before = len(self.problems)
        key = self.key_of(path, given, "schedule")
        if key is None:
            self.report(path, "'schedule' is missing; a schedule is {schedule: cosine, peak: 0.1}")
            return None
        of = self.component((*path, key), "schedule") or self.meant((*path, key), "schedule")
        if of is None:
            return None
        known = arguments_of(of.factory)
        free = inside or combines(of)
        read = self._free_part if free else self._part
        waited, self.waiting = self.waiting, False
        absent = () if combines(of) else ("steps",)
        converted, self.converted = self.converted, self.converted or of.name == "in_unit"
        values = self.arguments(path, given, of, [key], read, absent)
        self.converted = converted
        own = "steps" in known and "steps" not in given and not combines(of)
        if own and converted:
            # What this one counts is declared, and need not be what the run's horizon counts.
            values.pop("steps", None)
            if known["steps"].required:
                self.report(path, "'steps' is missing; inside in_unit a schedule states its own")
        elif own:
            values["steps"] = self.steps
            if self.steps is None:
                self.waiting = True
                del values["steps"]
        sound, waiting = len(self.problems) == before, self.waiting
        self.waiting = waited or waiting
        if not sound:
            return None
        values = {name: values[name] for name in known if name in values}
        made = {"schedule": of.ref, **values}
        if not waiting and not inside:
            self._try_out(argument, path, of, made)
        if inside or self.unit == "updates" or says_its_unit(made):
            return made
        unit = {"unit": self.unit, "per_update": 1.0}
        return {"schedule": component("in_unit", "schedule").ref, "of": made, **unit}

    def _part(self, argument: Argument, path: KeyPath, value: Any) -> Any:
        """One argument of a schedule."""
        if argument.name == "steps":
            return self.horizon(argument, path, value)
        return self._free_part(argument, path, value)

    def _free_part(self, argument: Argument, path: KeyPath, value: Any) -> Any:
        """One argument of a schedule that does not follow the horizon of the run."""
        nested = nesting(argument.annotation)
        if nested is None or value is None:
            return self.value(argument, path, value)
        if nested == "one":
            if isinstance(value, dict):
                return self.schedule(Argument(argument.name, float), path, inside=True)
            self.report(path, f"{quoted(value)} should be a schedule: {{schedule: cosine, …}}")
            return None
        if not isinstance(value, list) or not value:
            self.report(path, f"{quoted(cast('object', value))} should be a list of schedules")
            return None
        return [
            self._free_part(Argument(argument.name, Schedule), (*path, i), part)
            for i, part in enumerate(cast("list[Any]", value))
        ]

    def _try_out(
        self, argument: Argument, path: KeyPath, of: Component, made: Mapping[str, Any]
    ) -> None:
        """Make the schedule and hold it against the range of what it is for."""
        if refused := refusal(path, made):
            self._refused(*refused)
            return
        try:
            values = {name: value for name, value in made.items() if name != "schedule"}
            schedule: Schedule = of.factory(**live(of, values))
            last = self.steps or schedule.horizon or SAMPLES
            steps = np.unique(np.linspace(0, last, min(last + 1, SAMPLES)).round())
            with np.errstate(all="ignore"):  # what is not finite is reported, not warned of
                curve = schedule.values(steps)
        except InputError as error:
            self.report(path, str(error))
            return
        for extreme in (int(curve.argmin()), int(curve.argmax())):
            _, faults = argument.check(float(curve[extreme]))
            if faults:
                at = f"{of.ref} gives {curve[extreme]:g} at step {steps[extreme]:.0f}"
                self.report(path, f"{at}; it {faults[0].message}")
                return

    def _refused(self, path: KeyPath, arguments: Mapping[str, Any], message: str) -> None:
        warmup, steps = arguments.get("warmup"), arguments.get("steps")
        too_long = isinstance(warmup, int) and isinstance(steps, int) and warmup >= steps
        where = (*path, "warmup") if too_long else blamed(path, arguments, message)
        self.report(where, message, code="RH009" if too_long else "")

    def key_of(self, path: KeyPath, given: Mapping[str, Any], key: str) -> str | None:
        """The key itself where the mapping at a path has it, or the one that is a misspelling of
        it, of which a problem is noted; None where there is neither."""
        if key in given:
            return key
        meant = closest(key, given)
        if meant is not None:
            self.unknown((*path, meant), [key])
        return meant


def _usable(of: Component) -> Component:
    """The component, once its signature can be read: importing it may show that it is broken."""
    arguments_of(of.factory)
    return of
