"""Components, their arguments and schedules out of a document, checked against the signatures.

Nothing stops at the first problem: a `Reader` notes each with its place, and whoever uses one
refuses them all at once.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, Literal, cast

import numpy as np

from rheostat.core.component import Component
from rheostat.core.errors import InputError, MachineError, closest, nearest
from rheostat.core.hyper import Argument, Count, arguments_of
from rheostat.core.registry import component, components
from rheostat.core.schedule import Schedule
from rheostat.recipes.document import Document, KeyPath, Problem, quoted
from rheostat.recipes.parts import as_data

STEPS = Argument("steps", Count)
"""The horizon of a run, in updates; a schedule that takes an argument of this name follows it."""

SAMPLES = 100_000
"""At how many steps a schedule is held against the range of its hyperparameter, at most."""


class Reader:
    """Reads values of a document; what is wrong with them gathers in `problems`.

    `steps` is the horizon of the run where it is known, and `waiting` says that a schedule was
    read that cannot be complete without it.
    """

    def __init__(self, document: Document, steps: int | None = None) -> None:
        self.document = document
        self.steps = steps
        self.converted = False
        self.waiting = False
        self.problems: list[Problem] = []

    def over(self, document: Document) -> Reader:
        """A reader of another view of the same file, whose problems gather here."""
        reader = Reader(document, self.steps)
        reader.problems = self.problems
        return reader

    def report(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        """Note a problem with the value at a path, or with the key that holds it."""
        self.problems.append(self.document.problem(path, message, key=key))

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
            self.report(
                path, f"{written} differs from the {self.steps} steps of the run; leave it out"
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
            found = component(ref, kind)
            arguments_of(found.factory)
        except (InputError, MachineError) as error:  # a library that is missing, a broken plug-in
            self.report(path, str(error))
            return None
        return found

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
                values[name] = read(known[name], (*path, name), value)
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
        if "schedule" not in given:
            close = difflib.get_close_matches("schedule", given, n=1)
            if close:
                self.unknown((*path, close[0]), ["schedule"])
            else:
                self.report(
                    path, "'schedule' is missing; a schedule is {schedule: cosine, peak: 0.1}"
                )
            return None
        of = self.component((*path, "schedule"), "schedule")
        if of is None:
            return None
        known = arguments_of(of.factory)
        free = inside or combines(of)
        read = self._free_part if free else self._part
        before, waited = len(self.problems), self.waiting
        self.waiting = False
        absent = () if combines(of) else ("steps",)
        converted, self.converted = self.converted, self.converted or of.name == "in_unit"
        values = self.arguments(path, given, of, ["schedule"], read, absent)
        self.converted = converted
        own = "steps" in known and "steps" not in given and not combines(of)
        if own and converted:
            # The run's horizon counts updates, and what this one counts is declared, not guessed.
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
        if not waiting and not inside:
            self._try_out(argument, path, of, values)
        return {"schedule": of.ref, **values}

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
        self, argument: Argument, path: KeyPath, of: Component, values: Mapping[str, Any]
    ) -> None:
        """Make the schedule and hold it against the range of what it is for."""
        try:
            made: Schedule = of.factory(**live(of, values))
            last = self.steps or made.horizon or SAMPLES
            steps = np.unique(np.linspace(0, last, min(last + 1, SAMPLES)).round())
            with np.errstate(all="ignore"):  # what is not finite is reported, not warned of
                curve = made.values(steps)
        except InputError as error:
            self.report(path, str(error))
            return
        for extreme in (int(curve.argmin()), int(curve.argmax())):
            _, faults = argument.check(float(curve[extreme]))
            if faults:
                at = f"{of.ref} gives {curve[extreme]:g} at step {steps[extreme]:.0f}"
                self.report(path, f"{at}; it {faults[0].message}")
                return


@cache
def nesting(annotation: Any) -> Literal["one", "many"] | None:
    """Whether an argument takes a schedule, several of them, or none."""
    if annotation is Schedule:
        return "one"
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return nesting(parts[0])
    if origin in (typing.Union, types.UnionType):
        return next((found for part in parts if (found := nesting(part))), None)
    if origin in (tuple, list, Sequence) and nesting(parts[0]):
        return "many"
    return None


def combines(of: Component) -> bool:
    """Whether a schedule is made of others: then its `steps` are its own, and not the horizon."""
    return any(nesting(each.annotation) for each in arguments_of(of.factory).values())


def live(of: Component, values: Mapping[str, Any], horizon: int | None = None) -> dict[str, Any]:
    """Read arguments as the factory takes them: mappings that describe schedules are Schedules.

    `horizon` stands in where a schedule still waits for that of the run.

    Raises:
        InputError: a schedule that waits for its horizon.
    """
    known = arguments_of(of.factory)
    return {
        name: _live(name, value, horizon)
        if known[name].number or nesting(known[name].annotation)
        else value
        for name, value in values.items()
    }


def _live(name: str, value: Any, horizon: int | None) -> Any:
    if isinstance(value, list):
        return tuple(_live(name, part, horizon) for part in cast("list[Any]", value))
    if not isinstance(value, dict):
        return value
    given = cast("dict[str, Any]", value)
    of = component(given["schedule"], "schedule")
    steps = arguments_of(of.factory).get("steps")
    arguments = {key: part for key, part in given.items() if key != "schedule"}
    if steps is not None and steps.required and "steps" not in given:
        if horizon is None:
            raise InputError(
                f"{name}: {of.ref} needs a horizon; give the number of steps of the run"
            )
        arguments["steps"] = horizon
    return of.factory(**live(of, arguments, horizon))
