"""What a study's record says: its runs gathered from the store, verified, and judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rheostat.core.durable import JsonObject
from rheostat.core.errors import InputError, MachineError
from rheostat.lab.conditions import names_of
from rheostat.lab.courses import Course, course
from rheostat.lab.fairness import Parting, Witness, parting
from rheostat.lab.resilience import Resilience, resilience
from rheostat.lab.scores import Sweep, judged, reference, sweep_of
from rheostat.lab.verdict import Verdict, judge
from rheostat.record.run import RunRecord
from rheostat.record.store import Store, StoredStudy

Place: TypeAlias = tuple[str, int]
"""Where a run stands in its study: (arm, with its condition where it has one; seed)."""


@dataclass(frozen=True)
class Run:
    """One finished run in its place.

    `value` is the primary metric as measured, NaN where there is none; `failed` says that the
    run diverged or that `value` is not finite.
    """

    id: str
    arm: str
    seed: int
    value: float
    failed: bool
    record: RunRecord
    condition: str = ""

    @property
    def place(self) -> Place:
        """Where it stands."""
        return _place(self.arm, self.seed, self.condition)


@dataclass(frozen=True)
class Results:
    """A study's record, arm by arm as its file orders them, and in an arm by seed.

    `plan` is the frozen plan and the words as last written, which are `revision` number so
    many, together; the study is in the store since `registered` (ISO 8601, UTC).
    `verdict` is None while runs are missing (`missing` says which) and void where the runs
    part (`parting` says where). `problems` says, a line each, where the record is not as it
    was written; a verdict beside a problem is not to be relied on, and `remedy` says what to do.
    Of a study with several conditions `runs` are those of the one that stands for all (see
    `scores.reference`); `resilience` or `sweep` says what the others came to.
    """

    study: str
    plan: JsonObject
    plan_hash: str
    registered: str
    revision: int
    arms: tuple[str, ...]
    runs: tuple[Run, ...]
    missing: tuple[Place, ...]
    problems: tuple[str, ...]
    remedy: str
    parting: Parting | None
    verdict: Verdict | None
    resilience: Resilience | None = None
    sweep: Sweep | None = None

    @property
    def planned(self) -> int:
        """How many runs the plan has, in all conditions."""
        return len(self.arms) * len(self.plan["seeds"]) * len(names_of(self.plan))

    def of_arm(self, arm: str) -> tuple[Run, ...]:
        """The runs of one arm, by seed."""
        return tuple(run for run in self.runs if run.arm == arm)


def load_results(store: Store, study_id: str) -> Results:
    """Gather, verify and judge the study with this id, or the only one whose id begins so.

    Raises `InputError` for an unknown study, `MachineError` where the store fails or is
    damaged beyond what `problems` can say.
    """
    study = store.study(study_id)
    problems = store.verify(study.id)
    try:
        return _results(store, study, problems)
    except KeyError as error:
        raise MachineError(
            f"study {study.id} in {store.where} is damaged: its plan or the header of a run "
            f"lacks {error}; {store.remedy}"
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        if not problems:
            raise
        raise MachineError(
            f"{problems[0]}, and cannot be read ({error}); {store.remedy}"
        ) from error


def _results(store: Store, study: StoredStudy, problems: Sequence[str]) -> Results:
    plan = {**study.words, **study.plan}
    arms = tuple(plan["order"])
    seeds, conditions = sorted(plan["seeds"]), names_of(plan)
    places = [_place(a, s, condition) for condition in conditions for a in arms for s in seeds]
    found, strays = _gather(store, study.id, plan["metric"]["name"], places)
    every = [found[place] for place in places if place in found]
    missing = tuple(place for place in places if place not in found)
    parted = _parting(every, conditions)
    courses = [course(run.record, plan["metric"]["name"]) for run in every]
    shown = reference(plan, courses)
    runs = tuple(run for run in every if run.condition == shown)
    return Results(
        study=study.id,
        plan=plan,
        plan_hash=study.plan_hash,
        registered=study.created,
        revision=study.revision,
        arms=arms,
        runs=runs,
        missing=missing,
        problems=(*problems, *strays),
        remedy=_remedy(store, study.id) if problems or strays else "",
        parting=parted,
        verdict=None if missing else _judge(plan, arms, courses, parted),
        resilience=None if missing or "faults" not in plan else _resilience(plan, arms, courses),
        sweep=None if missing or "sweep" not in plan else sweep_of(plan, arms, courses),
    )


def _resilience(plan: JsonObject, arms: Sequence[str], courses: Sequence[Course]) -> Resilience:
    begins = {name: int(fault["at"] * plan["steps"]) for name, fault in plan["faults"].items()}
    return resilience(courses, arms, begins, plan["metric"]["goal"])


def _place(arm: str, seed: int, condition: str) -> Place:
    return (f"{arm} ({condition})" if condition else arm, seed)


def _parting(runs: Sequence[Run], conditions: Sequence[str]) -> Parting | None:
    """The first parting among the arms of a seed in one condition."""
    for condition in conditions:
        found = parting(_witness(run) for run in runs if run.condition == condition)
        if found is not None:
            return found
    return None


def _remedy(store: Store, study: str) -> str:
    if store.changed_rows(study) or store.damage():
        return store.remedy
    return (
        "another `rheostat study run FILE` keeps damaged runs aside and trains them again; a run "
        "that is not of the plan is yours to move away"
    )


def _gather(
    store: Store, study: str, metric: str, places: Sequence[Place]
) -> tuple[dict[Place, Run], list[str]]:
    """The finished runs by their place, and a line for each run that has none."""
    found: dict[Place, Run] = {}
    strays: list[str] = []
    for stored in store.runs(study):
        try:
            record = RunRecord.read(store.run_directory(study, stored.id))
        except (InputError, MachineError):
            continue  # the store's verification has said so; the run counts as missing
        run = _run(stored.id, record, metric)
        place = run.place
        if record.status == "running":
            strays.append(f"run {run.id}: in the index, but its log has no finish")
        elif place not in places:
            strays.append(f"run {run.id}: arm {place[0]}, seed {place[1]} is not in the plan")
        elif place in found:
            strays.append(f"run {run.id}: run {found[place].id} is in its place already")
        else:
            found[place] = run
    return found, strays


def _run(run_id: str, record: RunRecord, metric: str) -> Run:
    value = record.metrics.get(metric, math.nan)
    return Run(
        id=run_id,
        arm=record.header["arm"],
        seed=record.header["seed"],
        value=value,
        failed=record.status == "diverged" or not math.isfinite(value),
        record=record,
        condition=record.header.get("condition", ""),
    )


def _witness(run: Run) -> Witness:
    header = run.record.header
    return Witness(
        arm=run.arm,
        seed=run.seed,
        weights=header["weights"],
        batches=run.record.batches,
        data=header["data"],
        diverged=run.record.status == "diverged",
    )


def _judge(
    plan: JsonObject, arms: Sequence[str], courses: Sequence[Course], parted: Parting | None
) -> Verdict:
    of = judged(plan, courses)
    return judge(
        of.scores,
        arms=arms,
        baseline=plan["baseline"],
        metric=of.name,
        goal=of.goal,
        margin=plan["metric"]["margin"],
        worst=of.worst,
        alpha=plan["alpha"],
        unit=of.unit,
        hypothesis=plan["hypothesis"],
        void=None if parted is None else parted.sentence,
    )
