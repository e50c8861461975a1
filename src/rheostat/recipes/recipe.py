"""`Recipe`: an optimizer, its hyperparameters and their schedules, as data.

Checked against the registered signatures before anything runs, every problem at once and each
with its place; completed (every default and version written out), and hashed by content.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from rheostat.core.errors import InputError
from rheostat.core.hyper import Argument
from rheostat.core.registry import component
from rheostat.recipes.document import Document, Problem, open_document, refuse
from rheostat.recipes.reader import STEPS, Reader, live
from rheostat.record.durable import content_hash

if TYPE_CHECKING:
    from torch import nn

    from rheostat.optimizers.loop import Optimizer

NonFinite: TypeAlias = Literal["skip", "raise", "propagate"]
"""What a NaN or infinite gradient does; see `rheostat.optimizers.guard`."""

NONFINITE = Argument("nonfinite", NonFinite, "skip")
OWN_KEYS = ("optimizer", NONFINITE.name, STEPS.name)
"""The keys of a recipe that are no hyperparameters."""


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `Recipe.load` makes one; the fields are those of its canonical form.

    `hyperparameters` are plain data in the order of the signature, a schedule in them a mapping.
    `steps` is the horizon in updates, None until it is known; only then are schedules complete.
    `document` is what the recipe was read from.
    """

    optimizer: str
    hyperparameters: Mapping[str, Any] = field(hash=False)
    nonfinite: NonFinite
    steps: int | None
    document: Document = field(compare=False, repr=False)

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any] | Document | Recipe) -> Recipe:
        """A recipe from a file (a `str` is a path) or a mapping; a Recipe is returned as it is.

        Raises:
            InputError: one line for every problem, with file, line, column and key.
        """
        if isinstance(source, Recipe):
            return source
        recipe, problems = read_recipe(open_document(source, "recipe"), None)
        return _sound(recipe, problems)

    def bind(self, steps: int) -> Recipe:
        """This recipe for a run of so many updates: the horizon of schedules that state none.

        Raises:
            InputError: a horizon that is written and differs, a schedule that does not fit.
        """
        checked, faults = STEPS.check(steps)
        if faults:
            raise InputError(f"bind: steps={steps!r}: {faults[0].message}")
        recipe, problems = read_recipe(self.document, checked)
        return _sound(recipe, problems)

    def canonical(self) -> dict[str, Any]:
        """The recipe written out in full; loading it gives the same recipe, with the same hash."""
        return {
            "optimizer": self.optimizer,
            **copy.deepcopy(dict(self.hyperparameters)),
            "nonfinite": self.nonfinite,
            **({} if self.steps is None else {"steps": self.steps}),
        }

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical form, 64 hexadecimal digits."""
        return content_hash(self.canonical())

    def build(self, model: nn.Module | Iterable[Any]) -> Optimizer:
        """The optimizer on a module (or on whatever torch.optim takes).

        Raises:
            InputError: a schedule that needs a horizon and has none; a model without parameters.
        """
        from rheostat.optimizers.build import optimizer

        arguments = live(component(self.optimizer, "optimizer"), self.hyperparameters)
        return optimizer(self.optimizer, model, nonfinite=self.nonfinite, **arguments)


def _sound(recipe: Recipe | None, problems: list[Problem]) -> Recipe:
    refuse(problems)
    assert recipe is not None
    return recipe


def read_recipe(document: Document, steps: int | None) -> tuple[Recipe | None, list[Problem]]:
    """The recipe in a document for a run of `steps` updates (None: not known yet), or None and
    everything that is wrong with it."""
    reader = Reader(document, steps)
    recipe = _recipe(reader)
    return (None if reader.problems else recipe), reader.problems


def _recipe(reader: Reader) -> Recipe | None:
    given = reader.mapping((), "{optimizer: sgd, lr: 0.1}")
    if given is None:
        return None
    if "steps" in given:
        reader.steps = reader.horizon(STEPS, ("steps",), given["steps"]) or reader.steps
    nonfinite: NonFinite = reader.value(NONFINITE, ("nonfinite",), given.get("nonfinite", "skip"))
    rule = reader.component(("optimizer",), "optimizer")
    if rule is None:
        # Which keys it takes is unknown, but a schedule is a schedule under any key.
        for name, value in given.items():
            if isinstance(value, dict) and "schedule" in cast("dict[str, Any]", value):
                reader.schedule(Argument(name, float), (name,))
        return None
    values = reader.arguments((), given, rule, OWN_KEYS, reader.scheduled)
    if not reader.problems and not reader.waiting:
        try:
            rule.factory(**live(rule, values))
        except InputError as error:
            reader.report((), str(error))
    return Recipe(rule.ref, values, nonfinite, reader.steps, reader.document)
