"""Executing a study: the same bits whatever the workers, and nothing lost by any kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lab.conftest import SMALL

from rheostat.core.errors import InputError, MachineError
from rheostat.core.registry import component
from rheostat.lab import execute as execution
from rheostat.lab.execute import Progress, execute
from rheostat.lab.plan import Plan
from rheostat.lab.results import load_results
from rheostat.lab.worker import run_one
from rheostat.record.store import Store


def _silent(_: Progress) -> None:
    pass


def _hashes(store: Store, plan: Plan) -> dict[str, str]:
    return {run.id: run.content_hash for run in store.runs(plan.id)}


def _task(plan: Plan) -> Any:
    arguments = dict(plan.canonical()["workload"])
    return component(arguments.pop("workload")).factory(**arguments).load()


def _record_all(plan: Plan, store: Store, tamper: Any = None) -> None:
    """Every run of the plan, in this process; `tamper(spec, task)` may give another task."""
    store.add_study(plan.id, plan.title, plan.canonical())
    task = _task(plan)
    torch.use_deterministic_algorithms(True)
    for spec in plan.runs():
        used = tamper(spec, task) if tamper else task
        final = store.run_directory(plan.id, spec.run_id)
        final.parent.mkdir(parents=True, exist_ok=True)
        run_one(plan, spec, used, plan.id, final)


def test_the_number_of_workers_changes_no_bit(study_file: Path, tmp_path: Path) -> None:
    plan = Plan.load(study_file)
    found: list[dict[str, str]] = []
    verdicts: list[object] = []
    for workers in (1, 2):
        with Store.open(tmp_path / f"store{workers}") as store:
            seen: list[Progress] = []
            assert execute(plan, store, workers, seen.append) == []
            assert max(now.running for now in seen) == workers
            assert (seen[-1].done, seen[-1].failed) == (6, 0)
            found.append(_hashes(store, plan))
            verdicts.append(load_results(store, plan.id).verdict)
    assert len(found[0]) == 6
    assert found[0] == found[1]
    assert verdicts[0] == verdicts[1]


def test_a_finished_study_runs_nothing_again(study_file: Path, tmp_path: Path) -> None:
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        _record_all(plan, store)
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("events.jsonl")}
        execute(plan, store, 2, _silent)  # recorded but not indexed: only the index grows
        assert len(_hashes(store, plan)) == 6
        execute(plan, store, 2, _silent)
        assert before == {
            p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("events.jsonl")
        }


def test_a_deliberately_different_batch_voids_the_comparison(
    study_file: Path, tmp_path: Path
) -> None:
    plan = Plan.load(study_file)

    class Tampered:
        def __init__(self, task: Any) -> None:
            self._task = task

        def __getattr__(self, name: str) -> Any:
            return getattr(self._task, name)

        def batches(self, seed: int) -> Iterator[Any]:
            for step, (images, labels) in enumerate(self._task.batches(seed)):
                touched = images.clone()
                touched[3, 5] += 1 / 16
                yield (touched if step == 17 else images), labels

    with Store.open(tmp_path / "store") as store:
        _record_all(
            plan,
            store,
            lambda spec, task: Tampered(task) if (spec.arm, spec.seed) == ("constant", 1) else task,
        )
        execute(plan, store, 1, _silent)
        results = load_results(store, plan.id)
    assert results.verdict is not None
    assert results.verdict.void is not None
    assert results.verdict.comparisons == ()
    for part in ("seed 1", "constant", "cosine", "step 17"):
        assert part in results.verdict.void


def test_other_initial_weights_void_the_comparison(study_file: Path, tmp_path: Path) -> None:
    plan = Plan.load(study_file)

    class Tampered:
        def __init__(self, task: Any) -> None:
            self._task = task

        def __getattr__(self, name: str) -> Any:
            return getattr(self._task, name)

        def model(self, seed: int) -> Any:
            return self._task.model(seed + 100)

    with Store.open(tmp_path / "store") as store:
        _record_all(
            plan,
            store,
            lambda spec, task: Tampered(task) if (spec.arm, spec.seed) == ("cosine", 2) else task,
        )
        execute(plan, store, 1, _silent)
        verdict = load_results(store, plan.id).verdict
    assert verdict is not None
    assert verdict.void is not None
    assert "seed 2" in verdict.void
    assert "initial weights" in verdict.void


def test_a_run_that_diverges_is_a_result(study_file: Path, tmp_path: Path) -> None:
    text = study_file.read_text().replace("constant: {lr: 0.1}", "wild: {lr: 1.0e+30}")
    study_file.write_text(text)
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        assert execute(plan, store, 1, _silent) == []
        results = load_results(store, plan.id)
        runs = {run.arm: run for run in store.runs(plan.id)}
    assert runs["wild"].status == "diverged"
    assert results.verdict is not None
    (comparison,) = results.verdict.comparisons
    assert comparison.losses == 3
    assert {s.value for a in results.verdict.arms if a.name == "wild" for s in a.scores} == {0.0}


def test_a_run_that_breaks_at_its_last_step_has_diverged(study_file: Path, tmp_path: Path) -> None:
    text = study_file.read_text().replace("constant: {lr: 0.1}", "wild: {lr: 1.0e+39}")
    study_file.write_text(text.replace("steps: 300", "steps: 1"))
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        _record_all(plan, store)
        execute(plan, store, 1, _silent)
        assert {r.arm: r.status for r in store.runs(plan.id)} == {
            "wild": "diverged",
            "cosine": "done",
        }


@pytest.mark.parametrize("indexed", [True, False])
def test_a_log_without_its_end_is_kept_aside(
    study_file: Path, tmp_path: Path, indexed: bool
) -> None:
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        _record_all(plan, store)
        if indexed:
            execute(plan, store, 1, _silent)
        log = store.run_directory(plan.id, plan.runs()[0].run_id) / "events.jsonl"
        log.write_bytes(log.read_bytes()[:-30])
        warnings: list[str] = []
        execute(plan, store, 1, lambda now: warnings.append(now.news) if now.warning else None)
        assert len(warnings) == 1
        assert "trained again" in warnings[0]
        assert load_results(store, plan.id).problems == ()


def test_series_are_made_again_from_the_log(study_file: Path, tmp_path: Path) -> None:
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        _record_all(plan, store)
        execute(plan, store, 1, _silent)
        first, second = (store.run_directory(plan.id, s.run_id) for s in plan.runs()[:2])
        whole = (first / "series.parquet").read_bytes()
        (first / "series.parquet").write_bytes(whole[:-100])
        (second / "series.parquet").unlink()
        execute(plan, store, 1, _silent)
        assert (first / "series.parquet").read_bytes() == whole
        assert (second / "series.parquet").exists()
        assert load_results(store, plan.id).problems == ()


def test_damaged_runs_are_kept_aside_and_trained_again(study_file: Path, tmp_path: Path) -> None:
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        _record_all(plan, store)
        execute(plan, store, 1, _silent)
        before = _hashes(store, plan)
        log = store.run_directory(plan.id, plan.runs()[0].run_id) / "events.jsonl"
        data = bytearray(log.read_bytes())
        data[len(data) // 2] ^= 1
        log.write_bytes(data)
        news: list[str] = []
        execute(plan, store, 1, lambda now: news.append(now.news))
        assert any("trained again" in line for line in news)
        assert _hashes(store, plan) == before
        assert load_results(store, plan.id).problems == ()


def test_a_study_goes_on_only_under_the_versions_it_was_begun_with(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store:
        _record_all(plan, store)
        for other in ({"torch": "9.9.9"}, {"code": "0123456789abcdef"}):
            monkeypatch.setattr(execution, "environment", lambda other=other: other)
            assert execute(plan, store, 1, _silent) == [], "a finished study runs nothing"
        shutil.rmtree(store.run_directory(plan.id, plan.runs()[0].run_id))
        for name, value in (("torch", "9.9.9"), ("code", "0123456789abcdef")):
            monkeypatch.setattr(execution, "environment", lambda n=name, v=value: {n: v})
            with pytest.raises(MachineError, match=f"was begun with {name} .*, here is {value}"):
                execute(plan, store, 1, _silent)


def test_a_second_process_is_refused(study_file: Path, tmp_path: Path) -> None:
    plan = Plan.load(study_file)
    with Store.open(tmp_path / "store") as store, Store.open(tmp_path / "store") as other:
        store.add_study(plan.id, plan.title, plan.canonical())
        with (
            store.lock(plan.id),
            pytest.raises(MachineError, match=f"process {os.getpid()}"),
        ):
            execute(plan, other, 1, _silent)
        with pytest.raises(InputError, match="at least 1"):
            execute(plan, store, 0, _silent)


# -- kills, through the command line ----------------------------------------------------------


def _command(study: Path, store: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "rheostat.cli", "study", "run", str(study)]
    return [*command, "--store", str(store), "--workers", "2", *more]


def _finish(study: Path, store: Path) -> tuple[dict[str, str], Any]:
    done = subprocess.run(
        _command(study, store, "--json"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    plan = Plan.load(study)
    with Store.open(store) as opened:
        verdict = json.loads(done.stdout)["verdict"]
        assert load_results(opened, plan.id).problems == ()
        parts = [p.name for p in (opened.study_directory(plan.id) / "runs").iterdir()]
        assert sorted(parts) == sorted(spec.run_id for spec in plan.runs())
        return _hashes(opened, plan), verdict


def _workers_of(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat[1]) == pid and b"spawn_main" in command:
            found.append(int(path.name))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Any]:
    """The hashes and the verdict of the study as it is when nobody interferes."""
    folder = tmp_path_factory.mktemp("whole")
    study = folder / "small.yaml"
    study.write_text(SMALL, encoding="utf-8")
    return _finish(study, folder / "store")


def _kill_then_finish(study: Path, tmp_path: Path, kills: int, seed: int) -> Any:
    generator = random.Random(seed)
    store = tmp_path / "killed"
    for i in range(kills):
        process = subprocess.Popen(
            _command(study, store), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            process.wait(generator.uniform(0.1, 7.0))
        except subprocess.TimeoutExpired:
            number = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[i % 3]
            process.send_signal(number)
            code = process.wait(60)
            expected = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
            assert process.stderr is not None
            said = process.stderr.read()
            # A signal that comes before Python can handle it ends the process by itself.
            assert code in (expected, -number, 0), said
            assert "Traceback" not in said or code == -number
        assert process.stderr is not None
        process.stderr.close()
    return _finish(study, store)


def test_a_killed_study_is_finished_to_the_same_bits(
    study_file: Path, tmp_path: Path, whole: Any
) -> None:
    assert _kill_then_finish(study_file, tmp_path, kills=3, seed=0) == whole


@pytest.mark.slow
def test_twenty_kills_and_the_same_bits(study_file: Path, tmp_path: Path, whole: Any) -> None:
    assert _kill_then_finish(study_file, tmp_path, kills=20, seed=1) == whole


def test_a_killed_worker_is_replaced_and_no_worker_outlives_the_study(
    study_file: Path, tmp_path: Path, whole: Any
) -> None:
    process = subprocess.Popen(
        _command(study_file, tmp_path / "killed"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (workers := _workers_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "a worker died" in said
    assert _finish(study_file, tmp_path / "killed") == whole

    orphaned = subprocess.Popen(
        _command(study_file, tmp_path / "orphans"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (workers := _workers_of(orphaned.pid)) and time.monotonic() < deadline + 120:
        time.sleep(0.05)
    orphaned.kill()
    orphaned.wait()
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_full_disk_ends_in_one_line_and_keeps_what_was_recorded(
    study_file: Path, tmp_path: Path
) -> None:
    plan = Plan.load(study_file)
    store = tmp_path / "store"
    with Store.open(store) as opened:
        opened.add_study(plan.id, plan.title, plan.canonical())
        spec = plan.runs()[0]
        final = opened.run_directory(plan.id, spec.run_id)
        final.parent.mkdir(parents=True)
        run_one(plan, spec, _task(plan), plan.id, final)

    # No file may grow past what half a run needs; a shell, because JAX objects to forks of ours.
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *_command(study_file, store)]
    failed = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert failed.returncode == 3, failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stderr.strip().splitlines()[-1].startswith("rheostat: ")
    assert str(store) in failed.stderr.strip().splitlines()[-1]
    _finish(study_file, store)
