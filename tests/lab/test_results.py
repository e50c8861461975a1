"""Results: what is gathered from a record, what is missing, failed, damaged or unfair."""

from __future__ import annotations

import math
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rheostat.core.errors import InputError, MachineError
from rheostat.lab.results import Results, load_results
from rheostat.record.run import RunRecord
from rheostat.record.store import Store, StoredRun
from rheostat.record.writer import RunWriter

STUDY = "a-study"
SEEDS = (0, 1, 2, 3, 4, 5, 6)  # with six, two comparisons can show no difference
WORDS = {
    "study": "A study",
    "question": "Which?",
    "why": "it matters",
    "order": ["fast", "base", "also"],
}
PLAN = {
    "hypothesis": "fast is better",
    "workload": {"workload": "digits_mlp@1"},
    "arms": {"fast": {"lr": 1.0}, "base": {"lr": 0.5}, "also": {"lr": 0.1}},
    "baseline": "base",
    "seeds": list(reversed(SEEDS)),
    "steps": 4,
    "metric": {"name": "score", "goal": "maximize", "margin": 0.5, "worst": -1.0, "unit": ""},
    "alpha": 0.05,
}
LIFT = {"fast": 2.0, "base": 0.0, "also": 0.0}


class Recorder:
    """A store with one study, filled run by run."""

    def __init__(self, store: Store) -> None:
        self.store = store
        store.add_study(STUDY, "A study", PLAN, WORDS)

    def run(
        self,
        arm: str,
        seed: int,
        *,
        value: float | None = None,
        status: str = "done",
        batches: str = "b",
        weights: str = "w",
        steps: int = 4,
        name: str | None = None,
    ) -> Path:
        run_id = name or f"{arm}.{seed}"
        directory = self.store.run_directory(STUDY, run_id)
        header = {"arm": arm, "seed": seed, "weights": f"{weights}{seed}", "data": "d"}
        metric = 10 + seed / 10 + LIFT[arm] if value is None else value
        with RunWriter(directory, header) as run:
            for step in range(steps):
                run.step(step, {"lr": 0.1, "loss": 1.0}, f"{batches}{seed}{step}")
            run.finish(status, {"score": metric}, "final")
        self.index(run_id, arm, seed, directory)
        return directory

    def index(self, run_id: str, arm: str, seed: int, directory: Path) -> None:
        record = RunRecord.read(directory)
        row = StoredRun(
            id=run_id,
            arm=arm,
            seed=seed,
            status=record.status,
            metric=record.metrics.get("score", math.nan),
            metrics=record.metrics,
            fingerprints={},
            content_hash=record.content_hash,
            environment={},
            started="2026-01-01T00:00:00Z",
            seconds=1.0,
        )
        self.store.add_run(STUDY, row)

    def all_but(self, *left_out: tuple[str, int]) -> None:
        for arm in LIFT:
            for seed in SEEDS:
                if (arm, seed) not in left_out:
                    self.run(arm, seed)

    def load(self) -> Results:
        return load_results(self.store, STUDY)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk is most of what recording costs, and nothing here loses power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Store.open(tmp_path / "store") as store:
        yield Recorder(store)


def change_row(store: Store, sql: str) -> None:
    """Change the index behind the store's back."""
    connection = sqlite3.connect(store.root / "store.sqlite")
    with connection:
        connection.execute(sql)
    connection.close()


def test_a_whole_study_is_judged_in_the_order_of_its_file(recorder: Recorder) -> None:
    recorder.all_but()
    results = recorder.load()
    assert results.arms == ("fast", "base", "also")
    expected = [(arm, seed) for arm in results.arms for seed in SEEDS]
    assert [(run.arm, run.seed) for run in results.runs] == expected
    assert results.missing == ()
    assert results.problems == ()
    assert results.remedy == ""
    assert results.parting is None
    assert results.verdict is not None
    assert results.verdict.void is None
    outcomes = {row.arm: row.outcome for row in results.verdict.comparisons}
    assert list(outcomes.items()) == [("fast", "better"), ("also", "equivalent")]
    assert [arm.name for arm in results.verdict.arms] == ["fast", "base", "also"]
    assert results.verdict.arms[1].mean == pytest.approx(10.3)
    assert [run.value for run in results.of_arm("fast")] == pytest.approx(
        [12.0, 12.1, 12.2, 12.3, 12.4, 12.5, 12.6]
    )


def test_a_beginning_of_the_id_is_enough_and_an_unknown_one_is_refused(recorder: Recorder) -> None:
    recorder.all_but()
    assert load_results(recorder.store, "a-s").study == STUDY
    with pytest.raises(InputError, match="no study 'b-study'"):
        load_results(recorder.store, "b-study")


def test_missing_runs_leave_no_verdict(recorder: Recorder) -> None:
    recorder.all_but(("base", 3), ("fast", 0))
    results = recorder.load()
    assert results.missing == (("fast", 0), ("base", 3))
    assert len(results.runs) == 19
    assert results.verdict is None


def test_an_unfinished_run_is_missing(recorder: Recorder) -> None:
    recorder.all_but(("also", 2))
    header = {"arm": "also", "seed": 2, "weights": "w2", "data": "d"}
    directory = recorder.store.run_directory(STUDY, "also.2")
    with RunWriter(directory, header) as run:
        run.step(0, {"lr": 0.1}, "b20")
    assert recorder.load().missing == (("also", 2),)
    recorder.index("also.2", "also", 2, directory)
    results = recorder.load()
    assert results.missing == (("also", 2),)
    assert results.verdict is None
    assert results.problems == ("run also.2: in the index, but its log has no finish",)


@pytest.mark.parametrize(
    ("status", "value"), [("diverged", math.nan), ("done", math.inf), ("diverged", 99.0)]
)
def test_a_failed_run_scores_the_worst_value(recorder: Recorder, status: str, value: float) -> None:
    recorder.all_but(("fast", 4))
    recorder.run("fast", 4, value=value, status=status, steps=2 if status == "diverged" else 4)
    results = recorder.load()
    assert [run.failed for run in results.of_arm("fast")] == [seed == 4 for seed in SEEDS]
    assert results.verdict is not None
    assert results.verdict.void is None, "a diverged run may be shorter"
    fast = results.verdict.arms[0]
    assert fast.failures == 1
    assert fast.scores[4].value == -1.0


def test_a_run_without_the_metric_failed(recorder: Recorder) -> None:
    recorder.all_but(("fast", 4))
    directory = recorder.store.run_directory(STUDY, "fast.4")
    header = {"arm": "fast", "seed": 4, "weights": "w4", "data": "d"}
    with RunWriter(directory, header) as run:
        for step in range(4):
            run.step(step, {"lr": 0.1}, f"b4{step}")
        run.finish("done", {"another": 1.0}, "final")
    recorder.index("fast.4", "fast", 4, directory)
    run = recorder.load().of_arm("fast")[4]
    assert run.failed
    assert math.isnan(run.value)


@pytest.mark.parametrize(
    ("change", "kind", "step"),
    [
        ({"batches": "c"}, "batch", 0),
        ({"weights": "v"}, "initial weights", None),
        ({"steps": 3}, "length", 3),
    ],
)
def test_a_study_whose_runs_part_is_void(
    recorder: Recorder, change: dict[str, Any], kind: str, step: int | None
) -> None:
    recorder.all_but(("fast", 1))
    recorder.run("fast", 1, **change)
    results = recorder.load()
    assert results.parting is not None
    assert (results.parting.kind, results.parting.step) == (kind, step)
    assert results.parting.seed == 1
    assert results.verdict is not None
    assert results.verdict.void == results.parting.sentence
    assert results.verdict.comparisons == ()


def test_a_parting_is_seen_before_the_study_is_complete(recorder: Recorder) -> None:
    recorder.run("base", 0)
    recorder.run("fast", 0, weights="v")
    results = recorder.load()
    assert results.verdict is None
    assert results.parting is not None


def test_a_changed_row_is_a_problem(recorder: Recorder) -> None:
    recorder.all_but()
    change_row(recorder.store, "UPDATE runs SET metric = 99 WHERE id = 'also.3'")
    results = recorder.load()
    assert results.problems == ("run also.3: its row in the index was changed",)
    assert results.of_arm("also")[3].value == pytest.approx(10.3), "the log is what counts"
    assert re.fullmatch("restore .*store.sqlite from a copy, or move it away.*", results.remedy)


def test_a_damaged_log_is_a_problem_and_its_run_missing(recorder: Recorder) -> None:
    recorder.all_but()
    log = recorder.store.run_directory(STUDY, "also.3") / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"score":10.3', b'"score":90.3'))
    results = recorder.load()
    assert results.missing == (("also", 3),)
    assert results.verdict is None
    assert len(results.problems) == 1
    assert "checksum" in results.problems[0]
    assert results.remedy.startswith("another `rheostat study run FILE` keeps damaged runs aside")


def test_runs_that_have_no_place_are_problems(recorder: Recorder) -> None:
    recorder.all_but()
    recorder.run("fast", 17)
    recorder.run("fast", 3, name="fast.3.again", value=99.0)
    results = recorder.load()
    assert results.problems == (
        "run fast.3.again: run fast.3 is in its place already",
        "run fast.17: arm fast, seed 17 is not in the plan",
    )
    assert results.of_arm("fast")[3].id == "fast.3"


def test_a_plan_that_lost_a_key_is_one_line(recorder: Recorder) -> None:
    recorder.all_but()
    change_row(recorder.store, "UPDATE studies SET plan = replace(plan, 'baseline', 'bassline')")
    with pytest.raises(MachineError, match="lacks 'baseline'") as caught:
        recorder.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["'[]'", "'{\"baseline\": 1}'", "replace(plan, '0.5', 'null')"])
def test_a_plan_that_was_changed_is_one_line(recorder: Recorder, change: str) -> None:
    recorder.all_but()
    change_row(recorder.store, f"UPDATE studies SET plan = {change}")
    with pytest.raises(MachineError, match=r"restore .* from a copy") as caught:
        recorder.load()
    assert "\n" not in str(caught.value)


def test_the_words_are_those_of_the_last_revision(recorder: Recorder) -> None:
    recorder.all_but()
    before = recorder.load()
    words = {**WORDS, "why": "said better", "order": ["also", "base", "fast"]}
    recorder.store.add_study("renamed", "Renamed", PLAN, words)
    after = recorder.load()
    assert (before.revision, after.revision) == (1, 2)
    assert (after.plan["why"], after.arms) == ("said better", ("also", "base", "fast"))
    assert after.plan_hash == before.plan_hash
    assert {run.id for run in after.runs} == {run.id for run in before.runs}
