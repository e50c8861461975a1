"""Executing a study: find what is missing, train it in worker processes, index each result.

The directory of a run appears when the run is complete, and is indexed after that; so whatever
is killed, and whenever, what remains is either whole or absent, and the same command goes on.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rheostat.core.durable import make_directory, write_file
from rheostat.core.errors import InputError, MachineError
from rheostat.core.plugins import typed_plugins
from rheostat.lab.plan import Plan, RunSpec
from rheostat.lab.worker import Outcome, work
from rheostat.record.environment import environment
from rheostat.record.run import SERIES_NAME, RunRecord, compact_run
from rheostat.record.store import Store, StoredRun

ATTEMPTS = 3
"""How often a run may kill its worker before this command gives it up."""


@dataclass(frozen=True)
class Progress:
    """How far a study is. `done` counts recorded runs, those of earlier commands included;
    `news` is a line about what just happened, empty when nothing a person wants to read did; a
    `warning` should be seen also where a bar shows the rest."""

    total: int
    done: int
    running: int
    failed: int
    news: str = ""
    warning: bool = False


def execute(
    plan: Plan, store: Store, workers: int, progress: Callable[[Progress], None]
) -> list[str]:
    """Run whatever of the plan the store does not have; return what could not be run, a line each.

    Raises:
        InputError: workers < 1.
        MachineError: another process runs this study; it was begun under other versions; rows
            of it were changed; the store or the disk refuses. What was recorded stays.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: should be at least 1")
    study = store.add_study(plan.id, plan.title, plan.frozen(), plan.words())
    if changed := store.changed_rows(study.id):
        # Nothing is trained on the word of such a row, nor in its place.
        raise MachineError(f"{changed[0]}; {store.remedy}")
    with store.lock(study.id):
        runs = store.study_directory(study.id) / "runs"
        make_directory(runs)
        crew = _Crew(plan, store, study.id, runs, progress)
        crew.take_stock()
        if crew.waiting:
            with _one_thread_each():
                crew.work(min(workers, len(crew.waiting)))
        return crew.faults


class _Crew:
    """The workers of one study, and what is still to do."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        study: str,
        runs: Path,
        progress: Callable[[Progress], None],
    ) -> None:
        self.waiting: list[RunSpec] = []
        self.faults: list[str] = []
        self._plan = plan
        self._store = store
        self._study = study
        self._runs = runs
        self._progress = progress
        self._deaths: dict[str, int] = {}
        self._done = 0
        self._failed = 0
        self._total = len(plan.runs())
        self._busy: dict[Connection, RunSpec] = {}
        self._processes: dict[Connection, BaseProcess] = {}

    def take_stock(self) -> None:
        """Index what was recorded and not indexed; note what is missing."""
        indexed = {run.id: run for run in self._store.runs(self._study)}
        found: list[RunRecord] = []
        for spec in self._plan.runs():
            directory = self._runs / spec.run_id
            if not directory.exists():
                self.waiting.append(spec)
                continue
            known = indexed.get(spec.run_id)
            record = self._read_or_set_aside(directory, known)
            if record is None:
                self.waiting.append(spec)
                continue
            found.append(record)
            if record.notes or not (directory / SERIES_NAME).exists():
                compact_run(directory)  # the log is whole: its series are made from it again
            if known is None:
                self._index(spec, record)
            else:
                self._count(record)
        if self.waiting:
            for record in found:
                _check_environment(record, self._study)
        self._tell()

    def work(self, count: int) -> None:
        """Train what is waiting in `count` processes."""
        try:
            for _ in range(count):
                self._spawn()
            while self._busy:
                for ready in wait(list(self._busy)):
                    assert isinstance(ready, Connection)
                    self._receive(ready)
        finally:
            self._dismiss()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=work,
            args=(theirs, self._plan.canonical(), self._study, self._runs, typed_plugins()),
            daemon=True,
        )
        process.start()
        theirs.close()
        self._processes[ours] = process
        self._hand_out(ours)

    def _hand_out(self, worker: Connection) -> None:
        if self.waiting:
            self._busy[worker] = self.waiting.pop(0)
            worker.send(self._busy[worker])
        else:
            self._busy.pop(worker, None)
        self._tell()

    def _receive(self, worker: Connection) -> None:
        try:
            outcome: Outcome = worker.recv()
        except (EOFError, ConnectionError):
            self._replace(worker)
            return
        del self._busy[worker]
        if outcome.machine:
            raise MachineError(outcome.fault or "a worker could not go on")
        if outcome.fault is None:
            record = RunRecord.read(self._runs / outcome.spec.run_id)
            self._index(outcome.spec, record)
            self._tell(self._news(outcome.spec, record))
        else:
            self._give_up(outcome.spec, outcome.fault, outcome.trace)
        self._hand_out(worker)

    def _replace(self, worker: Connection) -> None:
        """The worker was killed: another takes its place, and its run waits again."""
        process = self._processes.pop(worker)
        process.join()
        worker.close()
        spec = self._busy.pop(worker)
        self._deaths[spec.run_id] = self._deaths.get(spec.run_id, 0) + 1
        if self._deaths[spec.run_id] < ATTEMPTS:
            self.waiting.insert(0, spec)
            if (self._runs / f"{spec.run_id}.part" / "killed").exists():
                self._tell(f"{_label(spec)}: killed, as planned; goes on")
            else:
                self._warn(f"a worker died (exit {process.exitcode}); {_label(spec)} begins again")
        else:
            self._give_up(spec, f"its worker died {ATTEMPTS} times (exit {process.exitcode})")
        if self.waiting:
            self._spawn()

    def _dismiss(self) -> None:
        for worker, process in self._processes.items():
            if worker in self._busy:
                process.kill()  # mid-run, by an interruption; its directory is not complete
            else:
                try:
                    worker.send(None)
                except OSError:
                    process.kill()
        for worker, process in self._processes.items():
            process.join()
            worker.close()
        self._processes.clear()

    def _index(self, spec: RunSpec, record: RunRecord) -> None:
        facts: Mapping[str, Any] = record.header.get("facts", {})
        self._store.add_run(
            self._study,
            StoredRun(
                id=spec.run_id,
                arm=spec.arm,
                seed=spec.seed,
                status=record.status,
                metric=record.metrics.get(self._plan.metric, math.nan),
                metrics=record.metrics,
                fingerprints={
                    "weights": record.header["weights"],
                    "data": record.header["data"],
                    "final": record.fingerprint,
                },
                content_hash=record.content_hash,
                environment=record.header["environment"],
                started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts.get("started", 0))),
                seconds=float(record.facts.get("seconds", math.nan)),
            ),
        )
        self._count(record)

    def _count(self, record: RunRecord) -> None:
        self._done += 1
        self._failed += record.status != "done"

    def _read_or_set_aside(self, directory: Path, known: StoredRun | None) -> RunRecord | None:
        """The record, or None where it is damaged: it is kept beside, and trained again."""
        try:
            record = RunRecord.read(directory)
            if record.status == "running":
                raise InputError(f"{directory}: the log of the run has no end")
            if known is not None and known.content_hash != record.content_hash:
                raise InputError(f"{directory}: the run was changed after it was recorded")
        except InputError as error:
            aside = directory.with_name(f"{directory.name}.damaged-{time.time_ns()}")
            directory.rename(aside)
            self._warn(f"{error}; kept as {aside.name}, and the run is trained again")
            return None
        return record

    def _give_up(self, spec: RunSpec, fault: str, trace: str | None = None) -> None:
        line = f"{_label(spec)} could not be run: {fault}"
        if trace is not None:
            path = self._runs.parent / "errors" / f"{spec.run_id}.txt"
            make_directory(path.parent)
            write_file(path, trace.encode())
            line += f" (traceback in {path})"
        self.faults.append(line)
        self._tell(line)

    def _news(self, spec: RunSpec, record: RunRecord) -> str:
        value = record.metrics.get(self._plan.metric, math.nan)
        told = "diverged" if record.status == "diverged" else f"{self._plan.metric} {value:.4f}"
        return f"{_label(spec)}: {told} ({float(record.facts.get('seconds', math.nan)):.1f} s)"

    def _warn(self, news: str) -> None:
        self._tell(news, warning=True)

    def _tell(self, news: str = "", warning: bool = False) -> None:
        counts = (self._total, self._done, len(self._busy), self._failed)
        self._progress(Progress(*counts, news, warning))


def _label(spec: RunSpec) -> str:
    return f"{spec.arm}{f', {spec.condition}' if spec.condition else ''}, seed {spec.seed}"


def _check_environment(record: RunRecord, study: str) -> None:
    """Refuse to go on with a study under versions that its recorded runs did not have."""
    theirs: Mapping[str, Any] = record.header["environment"]
    import torch  # the main process has it already, from checking the plan

    ours = {**environment(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    for name, version in ours.items():
        if theirs.get(name) != version:
            raise MachineError(
                f"study {study} was begun with {name} {theirs.get(name)}, here is {version}: runs "
                "of both would not compare; finish it there, or begin anew with another --store"
            )


@contextmanager
def _one_thread_each() -> Generator[None]:
    """Workers read these when they load torch: one thread each, and no oversubscription."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
