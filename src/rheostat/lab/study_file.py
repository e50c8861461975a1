"""Study files: what they must say, checked as a whole against the registered components.

An arm is the shared recipe with keys of its own in place of the shared ones; each is read as
the recipe that it is, and what is wrong with it is reported where it stands in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from rheostat.core.durable import content_hash
from rheostat.core.errors import InputError, nearest
from rheostat.core.hyper import Argument
from rheostat.lab import condition_keys, conditions
from rheostat.recipes.document import Document, Problem, quoted, refuse
from rheostat.recipes.reader import STEPS, Reader
from rheostat.recipes.recipe import read_recipe
from rheostat.recipes.schema import ARM_NAME, METRIC_KEYS, MOST_SEEDS, SEED, STUDY_TEXTS

if TYPE_CHECKING:
    from rheostat.lab.workload import Metric, Workload

ALPHA = 0.05
"""The level of a study's tests and intervals."""

NEEDED = (*STUDY_TEXTS, "workload", "arms", "baseline", "seeds", "steps", "metric")
KEYS = (*NEEDED, "recipe", *conditions.KEYS)
"""The keys of a study file; `NEEDED` are needed."""


def read_study(document: Document) -> dict[str, Any]:
    """The plan that a document holds, in its canonical form (see `rheostat.lab.plan.Plan`).

    Raises:
        InputError: one line for every problem, with file, line, column and key.
    """
    study = _Study(document)
    canonical = study.read()
    refuse(study.problems)
    return canonical


def warnings_of(document: Document) -> list[Problem]:
    """What the recipes of a study's arms say and might not mean, each once; nothing of the key that
    is swept, whose values are unusual on purpose."""
    study = _Study(document)
    study.read()
    swept = str(document.get(("sweep", "key")) or "").partition(".")[0]
    within = re.compile(rf"(recipe|arms\.[^.]+)\.{re.escape(swept)}\b")
    return [each for each in study.warnings if not (swept and within.match(each.path))]


class _Study:
    """A study file while it is read. A part that is wrong is None, and noted in `problems`."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._reader = Reader(document)
        self._given: Mapping[str, Any] = {}
        self.problems = self._reader.problems
        self.warnings: list[Problem] = []

    def read(self) -> dict[str, Any]:
        """The canonical form, worth something if `problems` stays empty."""
        given = self._reader.mapping((), "{study: …, arms: …, seeds: 8, …}")
        if given is None:
            return {}
        self._given = given
        self._keys((), given, KEYS, NEEDED)
        texts = {name: self._text(name, argument) for name, argument in STUDY_TEXTS.items()}
        workload, metrics = self._workload()
        steps = self._value(STEPS)
        arms = self._arms(steps)
        return {
            **texts,
            "order": list(arms or {}),
            "workload": workload,
            "arms": arms,
            "baseline": self._baseline(),
            "seeds": self._seeds(),
            "steps": steps,
            "metric": self._metric(metrics),
            "alpha": ALPHA,
            **condition_keys.read_conditions(self._reader, given, arms),
        }

    def _keys(
        self,
        path: tuple[str, ...],
        given: Mapping[str, Any],
        known: tuple[str, ...],
        needed: tuple[str, ...],
    ) -> None:
        meant = {self._reader.unknown((*path, key), known) for key in given if key not in known}
        for key in needed:
            # A misspelt key has been told of; that the right one is missing is no second problem.
            if key not in given and key not in meant:
                self._reader.report(path, f"{key!r} is missing")

    def _value(self, argument: Argument) -> Any:
        if argument.name not in self._given:
            return None
        return self._reader.value(argument, (argument.name,), self._given[argument.name])

    def _text(self, name: str, argument: Argument) -> str | None:
        text = self._given.get(name)
        if isinstance(text, str) and not text.strip():
            self._reader.report((name,), "is empty; should say something")
            return None
        return text.strip() if isinstance(text, str) else self._value(argument)

    def _workload(self) -> tuple[dict[str, Any], Mapping[str, Metric]]:
        written = self._given.get("workload")
        if "workload" not in self._given:
            return {}, {}
        here = ("workload",)
        given = cast("dict[str, Any]", written) if isinstance(written, dict) else {}
        of = self._reader.component(
            (*here, *here) if isinstance(written, dict) else here, "workload"
        )
        if of is None:
            return {}, {}
        before = len(self.problems)
        arguments = self._reader.arguments(here, given, of, here, self._reader.value)
        if len(self.problems) > before:
            return {}, {}
        try:
            made: Workload = of.factory(**arguments)
        except InputError as error:
            self._reader.report(here, str(error))
            return {}, {}
        return {"workload": of.ref, **arguments}, made.metrics

    def _metric(self, known: Mapping[str, Metric]) -> dict[str, Any] | None:
        if "metric" not in self._given:
            return None
        given = self._reader.mapping(("metric",), "{name: test_accuracy, margin: 0.005}")
        if given is None:
            return None
        self._keys(("metric",), given, tuple(METRIC_KEYS), tuple(METRIC_KEYS))
        values = {
            key: self._reader.value(argument, ("metric", key), given[key])
            for key, argument in METRIC_KEYS.items()
            if key in given
        }
        name = values.get("name")
        if name is None or not known:
            return None
        if name not in known:
            hint = nearest(name, known)
            self._reader.report(("metric", "name"), f"the workload has no {quoted(name)}; {hint}")
            return None
        metric = known[name]
        # What else is judged has a margin in a unit of its own.
        of_metric = self._given.get("judge", "metric") == "metric"
        if of_metric and (margin := values.get("margin")) is not None:
            self._sensible_margin(margin, name, metric)
        kept = {"goal": metric.goal, "worst": float(metric.worst), "unit": metric.unit}
        return {"name": name, "margin": values.get("margin"), **kept}

    def _sensible_margin(self, margin: float, name: str, metric: Metric) -> None:
        if metric.best is None:
            return
        span = abs(metric.worst - metric.best)
        if margin >= span:
            ends = " to ".join(f"{end:.4g}" for end in sorted((metric.worst, metric.best)))
            self._reader.report(
                ("metric", "margin"),
                f"{margin:g} takes in the whole range of {name} ({ends} {metric.unit}".rstrip()
                + "): no two arms could differ by it; should be the difference that would matter",
            )

    def _seeds(self) -> list[int] | None:
        if "seeds" not in self._given:
            return None
        given = self._given["seeds"]
        if isinstance(given, list):
            return self._listed_seeds(cast("list[Any]", given))
        count: int | None = self._reader.value(SEED, ("seeds",), given)
        if count is None or not self._enough_seeds(count):
            return None
        return list(range(count))

    def _listed_seeds(self, given: list[Any]) -> list[int] | None:
        before = len(self.problems)
        seeds = [self._reader.value(SEED, ("seeds", i), seed) for i, seed in enumerate(given)]
        if len(self.problems) > before:
            return None
        first: dict[int, int] = {}
        for index, seed in enumerate(seeds):
            if first.setdefault(seed, index) != index:
                self._reader.report(("seeds", index), f"{seed} is there already; each counts once")
        return sorted(seeds) if self._enough_seeds(len(seeds)) else None

    def _enough_seeds(self, count: int) -> bool:
        if count < 2:
            some = "one seed" if count else "no seeds"
            self._reader.report(
                ("seeds",),
                f"a study of {some} has no variance to test with; should be at least 2, and 6 or "
                "more for a two-sided p below .05",
            )
        elif count > MOST_SEEDS:
            self._reader.report(("seeds",), f"{count} should be at most {MOST_SEEDS}")
        return 2 <= count <= MOST_SEEDS

    def _arms(self, steps: int | None) -> dict[str, Any] | None:
        if (
            "recipe" in self._given
            and self._reader.mapping(("recipe",), "{optimizer: sgd}") is None
        ):
            return None
        if "arms" not in self._given:
            return None
        given = self._reader.mapping(("arms",), "{constant: {lr: 0.1}, …}")
        if given is None:
            return None
        if len(given) < 2:
            some = "one arm" if given else "no arms"
            self._reader.report(("arms",), f"{some} cannot be compared; should be at least 2")
        arms: dict[str, Any] = {}
        faults: dict[Problem, list[str]] = {}
        for name, written in given.items():
            if not re.fullmatch(ARM_NAME, name):
                message = "should be 1 to 64 letters, digits, _ and -, a letter or digit first"
                self._reader.report(("arms", name), message, key=True)
            if not isinstance(written, dict):
                self._reader.mapping(("arms", name), "{lr: 0.1}")
                continue
            if "contestant" in written:
                contestant = self._contestant(name, cast("dict[str, Any]", written))
                arms.update({} if contestant is None else {name: contestant})
                continue
            whole = self._document.overlaid(("recipe",), ("arms", name))
            recipe, problems = read_recipe(whole, steps)
            for problem in problems:
                faults.setdefault(problem, []).append(name)
            if recipe is not None:
                arms[name] = recipe.canonical()
                self.warnings += [w for w in recipe.warnings if w not in self.warnings]
        self.problems += [
            _of_arms(problem, names, len(given)) for problem, names in self._shared(faults, given)
        ]
        self._refuse_twins(arms)
        return arms

    def _contestant(self, name: str, written: Mapping[str, Any]) -> dict[str, Any] | None:
        """An arm that is no recipe; it takes nothing from the shared one."""
        from rheostat.lab.contestants import CONTESTANTS

        here, kind = ("arms", name), written["contestant"]
        if kind not in CONTESTANTS:
            hint = nearest(str(kind), CONTESTANTS)
            message = f"no contestant is named {quoted(kind)}; {hint}"
            self._reader.report((*here, "contestant"), message)
            return None
        given = {key: value for key, value in written.items() if key != "contestant"}
        whole = condition_keys.checked(self._reader, here, CONTESTANTS[kind], given)
        return None if whole is None else {"contestant": kind, **whole}

    def _shared(
        self, faults: Mapping[Problem, list[str]], given: Mapping[str, Any]
    ) -> Iterator[tuple[Problem, list[str]]]:
        """The problems of the arms; what no arm has is the shared recipe's to give, and one."""
        lacking: dict[tuple[str, str], list[Problem]] = {}
        for problem, names in faults.items():
            lacks = self._lacks(problem, names[0], given)
            if lacks is None:
                yield problem, names
            else:
                lacking.setdefault((lacks, problem.message), []).append(problem)
        for (key, message), problems in lacking.items():
            if len(problems) < max(2, len(given)):
                yield from ((problem, []) for problem in problems)
            else:
                where = ("recipe", key) if "recipe" in self._given else ("arms", "*", key)
                yield self._document.problem(where, f"{message} (in every arm)"), []

    @staticmethod
    def _lacks(problem: Problem, name: str, given: Mapping[str, Any]) -> str | None:
        """The key that this is about, where it is one that the arm should have and has not."""
        arm, _, key = problem.path.removeprefix("arms.").partition(".")
        return key if arm == name and key and key not in given[name] else None

    def _refuse_twins(self, arms: Mapping[str, Any]) -> None:
        seen: dict[str, str] = {}
        for name, canonical in arms.items():
            first = seen.setdefault(content_hash(canonical), name)
            if first != name:
                message = f"is the same recipe as {first!r}; arms should differ"
                self._reader.report(("arms", name), message, key=True)

    def _baseline(self) -> str | None:
        if "baseline" not in self._given:
            return None
        name, arms = self._given["baseline"], self._given.get("arms")
        if not isinstance(name, str):
            self._reader.report(("baseline",), f"{quoted(name)} should be the name of an arm")
        elif isinstance(arms, dict) and name not in arms:
            hint = nearest(name, cast("dict[str, Any]", arms))
            self._reader.report(("baseline",), f"no arm is named {quoted(name)}; {hint}")
        return name


def _of_arms(problem: Problem, names: list[str], arms: int) -> Problem:
    """A problem of the shared recipe says for which arms it is one, unless for all."""
    if not names or not problem.path.startswith("recipe") or len(names) == arms:
        return problem
    message = f"{problem.message} (in {', '.join(names)})"
    return Problem(problem.where, problem.path, message, problem.position)
