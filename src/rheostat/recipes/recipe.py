"""`Recipe`: everything about an optimizer as data.

Checked against the registered signatures before anything runs, every problem at once and each
with its place; completed (every default and version written out), and hashed by content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheostat.core.durable import content_hash
from rheostat.core.errors import InputError
from rheostat.recipes.document import Document, Problem, refuse
from rheostat.recipes.grammar import FORMAT, SETTINGS, read_parts
from rheostat.recipes.layers import open_recipe
from rheostat.recipes.parts import LR, Parts, Rule
from rheostat.recipes.reader import STEPS, Reader

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rheostat.optimizers.loop import Optimizer
    from rheostat.recipes.build import PlacedError

PROVISIONAL = (10_000, 10_000_000)
"""Horizons to try, in place of one that is not known yet, for what does not depend on it."""


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `Recipe.load` makes one.

    `parts` is what it says, `warnings` what it says and might not mean, `document` what it was
    read from.
    """

    parts: Parts
    document: Document = field(compare=False, repr=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    @classmethod
    def load(
        cls,
        source: str | Path | Mapping[str, Any] | Document | Recipe,
        overrides: Mapping[str, Any] | None = None,
    ) -> Recipe:
        """A recipe from a file (a `str` is a path) or a mapping; a Recipe is returned as it is.

        Args:
            source: what to read. A file may name a `base` beside it.
            overrides: dotted paths and values that take the place of what is there, such as
                ``{"lr": 1e-3, "policy.0.lr": 1e-4}``.

        Raises:
            InputError: one line for every problem, with file, line, column and key.
        """
        if isinstance(source, Recipe):
            if not overrides:
                return source
            source = source.document
        recipe, problems = read_recipe(open_recipe(source, overrides), None)
        refuse(problems)
        assert recipe is not None
        return recipe

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Recipe:
        """The recipe of an optimizer that was built in Python: ours, or another library's.

        Raises:
            InputError: a piece that no registered component made, or whose arguments no file can
                hold; the message names it.
        """
        from rheostat.recipes.origins import recipe_of

        return cls.load(recipe_of(optimizer))

    def bind(self, steps: int) -> Recipe:
        """This recipe for a run of so many updates: the horizon of schedules that state none.

        Raises:
            InputError: a horizon that is written and differs, a schedule that does not fit.
        """
        checked, faults = STEPS.check(steps)
        if faults:
            raise InputError(f"bind: steps={steps!r}: {faults[0].message}")
        recipe, problems = read_recipe(self.document, checked)
        refuse(problems)
        assert recipe is not None
        return recipe

    def check(self, model: nn.Module) -> list[Problem]:
        """What might not fit this model: warnings that the recipe alone gives no reason for.

        Raises:
            InputError: what does not fit it: a parameter that the policy leaves out, a rule that
                cannot serve what it is given.
        """
        found = _on_model(self.parts, self.document, model)
        refuse(problem for problem in found if problem.severity == "error")
        return found

    @property
    def steps(self) -> int | None:
        """The horizon in updates; None until it is known, and where it counts something else."""
        return self.parts.steps

    def canonical(self) -> dict[str, Any]:
        """The recipe written out in full; loading it gives the same recipe, with the same hash."""
        return {FORMAT.name: FORMAT.default, **self.parts.data()}

    @property
    def hash(self) -> str:
        """SHA-256 of what the recipe says, 64 hexadecimal digits.

        Of its canonical form without what is at its default, because a version of a component says
        what its defaults are: an argument that is added later changes no hash, nor does a code
        that is silenced.
        """
        return content_hash(self.parts.essence({n: a.default for n, a in SETTINGS.items()}))

    def build(self, model: nn.Module | Iterable[Any]) -> Optimizer:
        """The optimizer on a module (or on whatever torch.optim takes).

        Raises:
            InputError: a schedule that needs a horizon and has none; a model without parameters,
                or with some that the policy leaves out.
        """
        from rheostat.recipes.build import on_model

        return on_model(self.parts, model)


def read_recipe(document: Document, steps: int | None) -> tuple[Recipe | None, list[Problem]]:
    """The recipe in a document for a run of `steps` updates (None: not known yet), or None and
    everything that is wrong with it."""
    recipe, problems = examine(document, steps)
    return recipe, [problem for problem in problems if problem.severity == "error"]


def examine(
    document: Document, steps: int | None = None, model: nn.Module | None = None
) -> tuple[Recipe | None, list[Problem]]:
    """The recipe in a document, None where it is not sound, and all that there is to say of it, on
    a model too if there is one: errors and warnings."""
    reader = Reader(document, steps)
    parts = read_parts(reader)
    problems = reader.problems
    if parts is None:
        return None, problems
    parts, found = _fitted(reader, parts)
    warnings = tuple(problem for problem in found if problem.severity == "warning")
    problems += found
    broken = any(problem.severity == "error" for problem in problems)
    if model is not None:
        try:
            problems += _on_model(parts, document, model)
        except InputError:
            if not broken:  # or it is a consequence of what has been told
                raise
    return None if broken else Recipe(parts, document, warnings), problems


def _fitted(reader: Reader, parts: Parts) -> tuple[Parts, list[Problem]]:
    """The parts with the step sizes of their chains, and what does not fit together."""
    from rheostat.recipes.build import PlacedError, lines_of
    from rheostat.recipes.fit import problems_of

    document = reader.document
    for horizon in (None, *PROVISIONAL) if reader.waiting else (None,):
        try:
            parts = _with_rates(parts, horizon)
            lines = lines_of(parts, horizon)
        except PlacedError as error:
            # Where something is wrong already, defaults stand in its place, and this may be theirs.
            if not reader.waiting and not reader.problems:
                return parts, [_placed(document, error)]
            continue
        try:
            return parts, problems_of(parts, lines, document)
        except PlacedError as error:  # of a controller
            return parts, [] if reader.problems else [_placed(document, error)]
    return parts, []


def _placed(document: Document, error: PlacedError) -> Problem:
    return document.problem(error.path, str(error), code=error.code)


def _on_model(parts: Parts, document: Document, model: nn.Module) -> list[Problem]:
    """What does not fit the model.

    Raises:
        InputError: a schedule that no provisional horizon suits.
    """
    from rheostat.recipes.build import PlacedError, is_foreign, library_optimizer, lines_of
    from rheostat.recipes.fit import problems_on

    horizons = (None, *PROVISIONAL)
    for horizon in horizons:
        try:
            lines = lines_of(parts, horizon)
            if is_foreign(parts):
                library_optimizer(parts, model, horizon)
        except PlacedError as error:
            if horizon == horizons[-1]:
                return [_placed(document, error)]
            continue
        return problems_on(parts, lines, document, model)
    raise AssertionError


def _with_rates(parts: Parts, horizon: int | None) -> Parts:
    """The parts with the default step size, where a chain has neither one of its own nor an lr."""
    from rheostat.recipes.build import has_step_size

    def rated(rule: Rule) -> Rule:
        if rule.optimizer or rule.lr is not None or has_step_size(rule, horizon):
            return rule
        return replace(rule, lr=LR.default)

    lines = tuple(replace(line, rule=rated(line.rule)) for line in parts.lines)
    return replace(parts, rule=rated(parts.rule), lines=lines)
