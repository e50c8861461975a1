"""Nothing is lost by any kill, nor by a full disk: through the command line, process by process."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.conftest import hashes, outcome, silent

from rheostat.lab.execute import execute
from rheostat.lab.plan import Plan
from rheostat.lab.results import load_results
from rheostat.record.store import Store


def _command(study: Path, store: Path, *more: str, workers: int = 2) -> list[str]:
    command = [sys.executable, "-m", "rheostat.cli", "study", "run", str(study)]
    return [*command, "--store", str(store), "--workers", str(workers), *more]


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
        return hashes(opened, plan), verdict


def _workers_of(pid: int) -> list[int]:
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.append(int(child))
    return found


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


@pytest.mark.slow
def test_twenty_kills_and_the_same_bits(study_file: Path, tmp_path: Path, whole: Any) -> None:
    assert _kill_then_finish(study_file, tmp_path, kills=20, seed=1) == whole


def _until(condition: Callable[[], Any]) -> Any:
    """What the condition comes to, once it is true."""
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_a_killed_study_is_finished_to_the_same_bits(
    study_file: Path, tmp_path: Path, whole: Any
) -> None:
    """A worker is killed and replaced, then Ctrl-C, then the study is killed: no worker outlives
    it, and what goes on ends at the bits of a study that nobody touched."""
    place = tmp_path / "killed"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            _command(study_file, place, workers=1),  # to load torch is what takes the time
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished() -> int:
        return sum(path.suffix != ".part" for path in place.glob("studies/*/runs/*"))

    first = start()
    os.kill(_until(lambda: _workers_of(first.pid))[0], signal.SIGKILL)
    _until(finished)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert "a worker died" in said
    assert "Traceback" not in said
    # On a slow machine all runs may be done before the signal comes.
    assert first.returncode == 130 if finished() < 6 else first.returncode in (0, 130)

    second = start()
    workers = _until(lambda: second.poll() is not None or _workers_of(second.pid))
    second.kill()
    second.communicate(timeout=120)
    if isinstance(workers, list):
        _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    plan = Plan.load(study_file)
    with Store.open(place) as store:
        assert execute(plan, store, 1, silent) == []
        assert outcome(store, plan) == whole
        assert {path.name for path in place.glob("studies/*/runs/*")} == set(whole[0])


def test_a_full_disk_ends_in_one_line_and_keeps_what_was_recorded(
    study_file: Path, recorded: Path, tmp_path: Path
) -> None:
    plan = Plan.load(study_file)
    place = tmp_path / "store"
    shutil.copytree(recorded, place)
    with Store.open(place) as store:
        kept, *lost = (store.run_directory(plan.id, spec.run_id) for spec in plan.runs())
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    for directory in lost:
        shutil.rmtree(directory)

    # No file may grow past what half a run needs; a shell, because JAX objects to forks of ours.
    limited = [
        "bash",
        "-c",
        'ulimit -f 20; exec "$@"',
        "bash",
        *_command(study_file, place, workers=1),
    ]
    failed = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert failed.returncode == 3, failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stderr.strip().splitlines()[-1].startswith("rheostat: ")
    assert str(place) in failed.stderr.strip().splitlines()[-1]
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    with Store.open(place) as store:
        (problem,) = store.verify(plan.id)
        assert "not in the index" in problem
