"""Executing a study: what is missing is run, what is damaged run again, nothing run twice."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.conftest import hashes, outcome, record, silent, task_of

from rheostat.core.errors import InputError, MachineError
from rheostat.lab import execute as execution
from rheostat.lab.execute import Progress, execute
from rheostat.lab.plan import Plan
from rheostat.lab.results import load_results
from rheostat.record.store import Store


def test_workers_change_no_bit(study_file: Path, tmp_path: Path, whole: Any) -> None:
    """Two worker processes against this one."""
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        seen: list[Progress] = []
        assert execute(plan, store, 2, seen.append) == []
        assert max(now.running for now in seen) == 2
        assert (seen[-1].done, seen[-1].failed) == (6, 0)
        assert outcome(store, plan) == whole
    assert len(whole[0]) == 6


def test_a_finished_study_runs_nothing_again(study_file: Path, store: Store) -> None:
    plan = Plan.load(study_file)
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("events.jsonl")}
    execute(plan, store, 2, silent)  # recorded but not indexed: only the index grows
    assert len(hashes(store, plan)) == 6
    execute(plan, store, 2, silent)
    assert before == {p: p.stat().st_mtime_ns for p in store.root.rglob("events.jsonl")}


class _Tampered:
    """A task that is another in one thing."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


class _OtherBatch(_Tampered):
    def batches(self, seed: int) -> Iterator[Any]:
        for step, (images, labels) in enumerate(self._task.batches(seed)):
            touched = images.clone()
            touched[3, 5] += 1 / 16
            yield (touched if step == 17 else images), labels


class _OtherWeights(_Tampered):
    def model(self, seed: int) -> Any:
        return self._task.model(seed + 100)


@pytest.mark.parametrize(
    ("tampered", "arm", "seed", "said"),
    [
        (_OtherBatch, "constant", 1, ("cosine", "step 17")),
        (_OtherWeights, "cosine", 2, ("constant", "initial weights")),
    ],
)
def test_a_deliberate_difference_voids_the_comparison(
    study_file: Path, store: Store, tampered: Any, arm: str, seed: int, said: tuple[str, ...]
) -> None:
    plan = Plan.load(study_file)
    (spec,) = (spec for spec in plan.runs() if (spec.arm, spec.seed) == (arm, seed))
    shutil.rmtree(store.run_directory(plan.id, spec.run_id))
    record(plan, store, [spec], tampered(task_of(plan)))
    execute(plan, store, 1, silent)
    verdict = load_results(store, plan.id).verdict
    assert verdict is not None
    assert verdict.void is not None
    assert verdict.comparisons == ()
    for part in (f"seed {seed}", arm, *said):
        assert part in verdict.void


def test_a_run_that_diverges_is_a_result(study_file: Path, tmp_path: Path) -> None:
    text = study_file.read_text().replace(
        "constant: {lr: 0.1}", "wild: {lr: 1.0e+30, silence: [RH019]}"
    )
    study_file.write_text(text.replace("steps: 300", "steps: 30"))
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        record(plan, store, plan.runs())
        assert execute(plan, store, 1, silent) == []
        results = load_results(store, plan.id)
        runs = {run.arm: run for run in store.runs(plan.id)}
    assert runs["wild"].status == "diverged"
    assert results.verdict is not None
    (comparison,) = results.verdict.comparisons
    assert comparison.losses == 3
    assert {s.value for a in results.verdict.arms if a.name == "wild" for s in a.scores} == {0.0}


def test_a_run_that_breaks_at_its_last_step_has_diverged(study_file: Path, tmp_path: Path) -> None:
    text = study_file.read_text().replace(
        "constant: {lr: 0.1}", "wild: {lr: 1.0e+39, silence: [RH019]}"
    )
    study_file.write_text(text.replace("steps: 300", "steps: 1"))
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        record(plan, store, plan.runs())
        execute(plan, store, 1, silent)
        assert {r.arm: r.status for r in store.runs(plan.id)} == {
            "wild": "diverged",
            "cosine": "done",
        }


def test_damaged_runs_are_kept_aside_and_trained_again(
    study_file: Path, store: Store, whole: Any
) -> None:
    """A log without its end, once of an indexed run and once of another; a flipped bit."""
    plan = Plan.load(study_file)
    execute(plan, store, 1, silent)
    cut, lost, flipped = (
        store.run_directory(plan.id, spec.run_id) / "events.jsonl" for spec in plan.runs()[:3]
    )
    connection = sqlite3.connect(store.root / "store.sqlite")
    with connection:
        connection.execute("DELETE FROM runs WHERE id = ?", (lost.parent.name,))
    connection.close()
    for log in (cut, lost):
        log.write_bytes(log.read_bytes()[:-30])
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    warnings: list[str] = []
    execute(plan, store, 1, lambda now: warnings.append(now.news) if now.warning else None)
    assert ["trained again" in line for line in warnings] == [True] * 3
    assert hashes(store, plan) == whole[0]
    assert load_results(store, plan.id).problems == ()


def test_series_are_made_again_from_the_log(study_file: Path, store: Store) -> None:
    plan = Plan.load(study_file)
    execute(plan, store, 1, silent)
    first, second = (store.run_directory(plan.id, s.run_id) for s in plan.runs()[:2])
    whole = (first / "series.parquet").read_bytes()
    (first / "series.parquet").write_bytes(whole[:-100])
    (second / "series.parquet").unlink()
    execute(plan, store, 1, silent)
    assert (first / "series.parquet").read_bytes() == whole
    assert (second / "series.parquet").exists()
    assert load_results(store, plan.id).problems == ()


def test_nothing_is_trained_on_the_word_of_a_changed_row(study_file: Path, store: Store) -> None:
    plan = Plan.load(study_file)
    execute(plan, store, 1, silent)
    connection = sqlite3.connect(store.root / "store.sqlite")
    with connection:
        connection.execute("UPDATE runs SET content_hash = 'x' WHERE seed = 1")
    connection.close()
    with pytest.raises(MachineError, match=r"row in the index was changed; restore .* a copy, or"):
        execute(plan, store, 1, silent)
    assert not list(store.root.rglob("*.damaged-*"))


def test_a_study_goes_on_only_under_the_versions_it_was_begun_with(
    study_file: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan.load(study_file)
    for other in ({"torch": "9.9.9"}, {"code": "0123456789abcdef"}):
        monkeypatch.setattr(execution, "environment", lambda other=other: other)
        assert execute(plan, store, 1, silent) == [], "a finished study runs nothing"
    shutil.rmtree(store.run_directory(plan.id, plan.runs()[0].run_id))
    for name, value in (("torch", "9.9.9"), ("code", "0123456789abcdef")):
        monkeypatch.setattr(execution, "environment", lambda n=name, v=value: {n: v})
        with pytest.raises(MachineError, match=f"was begun with {name} .*, here is {value}"):
            execute(plan, store, 1, silent)


def test_an_edited_study_goes_on_with_its_runs(study_file: Path, store: Store) -> None:
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("events.jsonl")}
    text = study_file.read_text().replace("study: Small", "study: Tiny")
    study_file.write_text(text.replace("why: To test the executor.", "why: Out of curiosity."))
    plan = Plan.load(study_file)
    execute(plan, store, 1, silent)
    results = load_results(store, plan.hash)
    assert (results.plan["study"], results.plan["why"]) == ("Tiny", "Out of curiosity.")
    assert results.study.startswith("small-")
    assert results.revision == 2
    assert len(results.runs) == 6
    assert before == {p: p.stat().st_mtime_ns for p in store.root.rglob("events.jsonl")}


def test_a_second_process_is_refused(study_file: Path, tmp_path: Path) -> None:
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store, Store.open(tmp_path / "store") as other:
        store.add_study(plan.id, plan.title, plan.frozen(), plan.words())
        with (
            store.lock(plan.id),
            pytest.raises(MachineError, match=f"process {os.getpid()}"),
        ):
            execute(plan, other, 1, silent)
        with pytest.raises(InputError, match="at least 1"):
            execute(plan, store, 0, silent)
