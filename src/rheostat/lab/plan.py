"""A study's plan: checked as a whole, frozen and hashed before anything runs.

What is frozen is what decides the runs and how they are judged, with the hypothesis. The rest of
a study file is prose (title, question, why, the order of the arms): it may be mended while the
runs stay what they are, and its revisions are recorded.

`Plan.load` reads a study file (`rheostat.lab.study_file` checks it against the registered
components); `Plan.of` takes a recorded plan as it is.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from rheostat.core.durable import content_hash
from rheostat.core.errors import InputError, nearest
from rheostat.core.registry import component
from rheostat.lab import conditions
from rheostat.lab.study_file import read_study
from rheostat.recipes.document import Document
from rheostat.recipes.formats import open_document
from rheostat.recipes.recipe import Recipe

if TYPE_CHECKING:
    from rheostat.lab.workload import Workload


@dataclass(frozen=True)
class RunSpec:
    """One run of a study: an arm under a seed, in a condition where the study has several, and
    the name of its directory."""

    arm: str
    seed: int
    run_id: str
    condition: str = ""


@dataclass(frozen=True)
class Plan:
    """A checked study. `arms` are canonical recipes by name, in the order of the file;
    `margin` and `worst` (the score of a failed run) are in the metric's `unit`."""

    title: str
    question: str
    hypothesis: str
    why: str
    workload: Mapping[str, Any] = field(hash=False)
    arms: Mapping[str, Mapping[str, Any]] = field(hash=False)
    baseline: str
    seeds: tuple[int, ...]
    steps: int
    metric: str
    goal: Literal["maximize", "minimize"]
    margin: float
    worst: float
    unit: str
    alpha: float
    varied: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    """The keys of `rheostat.lab.conditions`, those that the study has."""

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any] | Document) -> Plan:
        """The plan in a study file (a `str` is a path), or in a mapping of the same keys.

        Raises:
            InputError: one line for every problem, with file, line, column and key.
        """
        return cls.of(read_study(open_document(source, "study")))

    @classmethod
    def of(cls, canonical: Mapping[str, Any]) -> Plan:
        """The plan whose canonical form this is. Nothing is checked, and no component loaded."""
        metric, arms = canonical["metric"], canonical["arms"]
        return cls(
            title=canonical["study"],
            question=canonical["question"],
            hypothesis=canonical["hypothesis"],
            why=canonical["why"],
            workload=canonical["workload"],
            arms={name: arms[name] for name in canonical["order"]},
            baseline=canonical["baseline"],
            seeds=tuple(canonical["seeds"]),
            steps=canonical["steps"],
            metric=metric["name"],
            goal=metric["goal"],
            margin=metric["margin"],
            worst=float(metric["worst"]),  # JSON has infinities as text
            unit=metric["unit"],
            alpha=canonical["alpha"],
            varied={key: canonical[key] for key in conditions.KEYS if key in canonical},
        )

    def canonical(self) -> dict[str, Any]:
        """The plan as plain data, with every default and version written out."""
        return {**self.words(), **self.frozen()}

    def words(self) -> dict[str, Any]:
        """The prose, and the order in which the arms are shown."""
        return {
            "study": self.title,
            "question": self.question,
            "why": self.why,
            "order": list(self.arms),
        }

    def frozen(self) -> dict[str, Any]:
        """What the runs and their comparison are bound to; what is hashed."""
        return {
            "hypothesis": self.hypothesis,
            "workload": copy.deepcopy(dict(self.workload)),
            "arms": copy.deepcopy(dict(self.arms)),
            "baseline": self.baseline,
            "seeds": list(self.seeds),
            "steps": self.steps,
            "metric": {
                "name": self.metric,
                "goal": self.goal,
                "margin": self.margin,
                "worst": self.worst,
                "unit": self.unit,
            },
            "alpha": self.alpha,
            **copy.deepcopy(dict(self.varied)),
        }

    @property
    def hash(self) -> str:
        """SHA-256 of what is frozen, 64 hexadecimal digits."""
        return content_hash(self.frozen())

    @property
    def id(self) -> str:
        """A new study's name in the store: its title for people, its hash for certainty."""
        plain = unicodedata.normalize("NFKD", self.title).encode("ascii", "ignore").decode().lower()
        slug = re.sub("[^a-z0-9]+", "-", plain)[:48].strip("-")
        return f"{slug or 'study'}-{self.hash[:8]}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics that the workload measures."""
        arguments = {key: value for key, value in self.workload.items() if key != "workload"}
        made: Workload = component(self.workload["workload"], "workload").factory(**arguments)
        return tuple(made.metrics)

    @property
    def conditions(self) -> tuple[str, ...]:
        """What every arm runs under, by name; a plain study has one condition, without a name."""
        return conditions.names_of(self.varied)

    @property
    def evaluate_every(self) -> int | None:
        """Steps from one validation to the next; None: only at the end."""
        return self.varied.get("evaluate_every")

    def runs(self) -> list[RunSpec]:
        """Every run, all arms of a seed, in every condition, before the next seed."""
        plan = self.hash
        return [
            RunSpec(arm, seed, _run_id(plan, arm, seed, condition), condition)
            for seed in self.seeds
            for condition in self.conditions
            for arm in self.arms
        ]

    def recipe(self, arm: str, condition: str = "") -> Recipe:
        """The recipe of an arm in a condition.

        Raises InputError for an arm that is not in the plan or is no recipe, or an unknown
        condition.
        """
        if arm not in self.arms:
            raise InputError(f"no arm is named {arm!r}; {nearest(arm, self.arms)}")
        if "contestant" in self.arms[arm]:
            raise InputError(f"arm {arm!r} is a contestant and has no recipe")
        if "sweep" not in self.varied:
            return Recipe.load(self.arms[arm])
        if condition not in self.conditions:
            raise InputError(f"no condition {condition!r}; {nearest(condition, self.conditions)}")
        sweep = self.varied["sweep"]
        value = sweep["values"][self.conditions.index(condition)]
        return Recipe.load(self.arms[arm], {sweep["key"]: value})

    def fault(self, condition: str) -> Any:
        """The `rheostat.lab.faults.Fault` of a condition; None where nothing goes wrong."""
        written = self.varied.get("faults", {}).get(condition)
        if written is None:
            return None
        from rheostat.lab.faults import FAULTS

        return FAULTS[written["fault"]](**{k: v for k, v in written.items() if k != "fault"})


def _run_id(plan: str, arm: str, seed: int, condition: str) -> str:
    if not condition:
        return f"{arm}-s{seed}-{content_hash([plan, arm, seed])[:8]}"
    return f"{arm}-{condition}-s{seed}-{content_hash([plan, arm, condition, seed])[:8]}"


def load_any(source: str | Path) -> tuple[Literal["recipe", "study"], dict[str, Any], str]:
    """What a file holds (a study has arms), its canonical form and its hash.

    Raises:
        InputError: one line for every problem, with file, line, column and key.
    """
    document = open_document(source, "document")
    if isinstance(document.data, dict) and {"study", "arms"} & set(
        cast("dict[str, Any]", document.data)
    ):
        plan = Plan.load(document)
        return "study", plan.canonical(), plan.hash
    recipe = Recipe.load(document)
    return "recipe", recipe.canonical(), recipe.hash
