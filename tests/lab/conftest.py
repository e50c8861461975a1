"""A small study that takes a second, as a file, as a record, and as what it comes to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from rheostat.core.registry import component
from rheostat.lab.execute import Progress, execute
from rheostat.lab.plan import Plan, RunSpec
from rheostat.lab.results import load_results
from rheostat.lab.worker import run_one
from rheostat.record.store import Store

SMALL = """\
study: Small
question: Does it run?
hypothesis: It does.
why: To test the executor.
workload: {workload: digits_mlp, batch: 64, hidden: 8}
recipe: {optimizer: sgd, momentum: 0.9}
arms:
  constant: {lr: 0.1}
  cosine: {lr: {schedule: cosine, peak: 0.1}}
baseline: cosine
seeds: 3
steps: 300
metric: {name: test_accuracy, margin: 0.005}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The study above, in a file."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def silent(_: Progress) -> None:
    """Progress that nobody reads."""


def hashes(store: Store, plan: Plan) -> dict[str, str]:
    """The content of every run in the index."""
    return {run.id: run.content_hash for run in store.runs(plan.id)}


def outcome(store: Store, plan: Plan) -> tuple[dict[str, str], dict[str, Any]]:
    """The hashes of a finished study and its verdict as plain data; its record is in order."""
    results = load_results(store, plan.id)
    assert results.problems == ()
    assert results.verdict is not None
    return hashes(store, plan), json.loads(json.dumps(asdict(results.verdict)))


def task_of(plan: Plan) -> Any:
    """The plan's workload with its data."""
    arguments = dict(plan.canonical()["workload"])
    return component(arguments.pop("workload")).factory(**arguments).load()


def record(plan: Plan, store: Store, specs: Sequence[RunSpec], task: Any = None) -> None:
    """These runs, in this process: a worker process takes seconds to load torch."""
    store.add_study(plan.id, plan.title, plan.frozen(), plan.words())
    task = task or task_of(plan)
    torch.use_deterministic_algorithms(True)
    for spec in specs:
        final = store.run_directory(plan.id, spec.run_id)
        final.parent.mkdir(parents=True, exist_ok=True)
        run_one(plan, spec, task, plan.id, final)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every run of the small study, trained once for all tests, and not indexed."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    plan = Plan.load(folder / "small.yaml")
    with Store.open(folder / "store") as store:
        record(plan, store, plan.runs())
    return folder / "store"


@pytest.fixture
def store(recorded: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of that store."""
    shutil.copytree(recorded, tmp_path / "store")
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture(scope="module")
def whole(
    recorded: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], dict[str, Any]]:
    """The hashes and the verdict of the study as it is when nobody interferes."""
    place = tmp_path_factory.mktemp("whole") / "store"
    shutil.copytree(recorded, place)
    plan = Plan.load(recorded.parent / "small.yaml")
    with Store.open(place) as store:
        assert execute(plan, store, 1, silent) == []
        return outcome(store, plan)
