"""The store: which studies and runs there are, and whether they are still as recorded.

A store is an index (`store.sqlite` in a folder, or any SQLAlchemy URL) and, beside it,
`studies/<study>/` with `plan.json`, `lock` and `runs/<run>/` (see `rheostat.record.run`).
Needs SQLAlchemy.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rheostat.core.errors import InputError, MachineError, nearest
from rheostat.record.durable import (
    JsonObject,
    canonical_json,
    content_hash,
    make_directory,
    write_json,
)
from rheostat.record.index import RUNS, STUDIES, Index, Row, row_holds
from rheostat.record.lock import locked
from rheostat.record.run import RunRecord

PLAN_NAME = "plan.json"

# Ids name folders: no separators, no leading dot.
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+@-]{0,199}")

_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredStudy:
    """A study as the index has it; `created` is ISO 8601 in UTC."""

    id: str
    title: str
    plan: JsonObject
    plan_hash: str
    created: str


@dataclass(frozen=True)
class StoredRun:
    """A run as the index has it.

    `metric` is the value of the study's primary metric and may be NaN; `fingerprints` are by
    name (initial weights, batches, final weights); `content_hash` is that of the `RunRecord`;
    `started` is ISO 8601 and `seconds` the wall time.
    """

    id: str
    arm: str
    seed: int
    status: str
    metric: float
    metrics: Mapping[str, float]
    fingerprints: Mapping[str, str]
    content_hash: str
    environment: Mapping[str, Any]
    started: str
    seconds: float


class Store:
    """An open store: close it, or use it as a context manager. `root` is the folder that holds
    `studies/`, `where` the index in words. Every method raises `MachineError` where the index
    or the disk fails."""

    def __init__(self, index: Index) -> None:
        self.root = index.root
        self.where = index.where
        self._index = index

    @classmethod
    def open(cls, location: str | Path | None = None) -> Store:
        """Open the store, and create it where there is none.

        `location` is a folder (None: `.rheostat` in the working directory) or an SQLAlchemy
        URL; with a URL, the directories lie beside its sqlite file, else in `.rheostat`. Raises
        `InputError` for a URL that cannot be read, `MachineError` for a store that is not
        writable, reachable or whole, or was made by a newer version.
        """
        return cls(Index(location))

    def close(self) -> None:
        """Close every connection; closing twice is allowed."""
        self._index.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_study(self, study_id: str, title: str, plan: Mapping[str, Any]) -> StoredStudy:
        """Index a study and write its `plan.json`; the same plan again changes nothing.

        Raises `InputError` where another plan has that id.
        """
        path = self.study_directory(study_id) / PLAN_NAME
        row = self._index.insert(
            STUDIES,
            {
                "id": study_id,
                "title": title,
                "plan": canonical_json(plan),
                "plan_hash": content_hash(plan),
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
        )
        if row["plan_hash"] != content_hash(plan):
            raise InputError(
                f"the store {self.where} has a study {study_id!r} with another plan: "
                "give this one another id"
            )
        if _plan_hash(path) != row["plan_hash"]:
            make_directory(path.parent)
            write_json(path, plan, indent=2)
        return self._decoded(_study, row)

    def add_run(self, study_id: str, run: StoredRun) -> None:
        """Index a run of the study with exactly this id; identical content again changes
        nothing.

        Raises `InputError` where the study is unknown, or the run's id has other content.
        """
        self._study_row(study_id)
        row = self._index.insert(
            RUNS,
            {
                "study_id": study_id,
                "id": run.id,
                "arm": run.arm,
                "seed": run.seed,
                "status": run.status,
                # Adding 0 turns -0.0, which SQLite does not keep, into 0.0.
                "metric": None if math.isnan(run.metric) else float(run.metric) + 0.0,
                "metrics": canonical_json(run.metrics),
                "fingerprints": canonical_json(run.fingerprints),
                "content_hash": run.content_hash,
                "environment": canonical_json(run.environment),
                "started": run.started,
                "seconds": float(run.seconds) + 0.0,
                "path": str(self.run_directory(study_id, run.id).relative_to(self.root)),
            },
        )
        if row["content_hash"] != run.content_hash:
            raise InputError(
                f"the store {self.where} has run {run.id!r} of study {study_id!r} with other "
                f"content ({row['content_hash'][:12]}, now {run.content_hash[:12]}): "
                "the same run gave other numbers"
            )

    def studies(self) -> list[StoredStudy]:
        """All studies, oldest first."""
        rows = self._index.select(STUDIES, order=("created", "id"))
        return [self._decoded(_study, row) for row in rows]

    def study(self, reference: str) -> StoredStudy:
        """The study with this id, or the only one whose id begins so; else `InputError`."""
        known: list[str] = [row["id"] for row in self._index.select(STUDIES)]
        found = sorted(name for name in known if reference and name.startswith(reference))
        if len(found) > 1 and reference not in known:
            raise InputError(f"{reference!r} begins several studies: {', '.join(found)}")
        exact = reference if reference in known or not found else found[0]
        return self._decoded(_study, self._study_row(exact))

    def runs(self, study_id: str) -> list[StoredRun]:
        """The runs of a study, ordered by arm, seed and id, whichever was indexed first."""
        return [self._decoded(_run, row) for row in self._run_rows(study_id)]

    def verify(self, study_id: str) -> list[str]:
        """What is wrong with the record of the study with exactly this id, a line each.

        Checks the database file (SQLite), every row against its hash, `plan.json` against the
        plan, every run's directory against the hash in the index, and finds finished runs that
        the index does not know. Raises `InputError` for an unknown study.
        """
        problems = self._index.check()
        study = self._study_row(study_id)
        if not row_holds(study):
            problems.append(f"study {study_id}: its row in the index was changed")
        path = self.study_directory(study_id) / PLAN_NAME
        if _plan_hash(path) != study["plan_hash"]:
            problems.append(f"study {study_id}: {path} is missing or is another plan")
        rows = {row["id"]: row for row in self._run_rows(study_id)}
        for run_id, row in rows.items():
            if not row_holds(row):
                problems.append(f"run {run_id}: its row in the index was changed")
                continue  # what it says of the directory is no longer evidence
            problems += _directory_problems(self.root / row["path"], run_id, row["content_hash"])
        runs = self.study_directory(study_id) / "runs"
        for directory in sorted(runs.iterdir()) if runs.is_dir() else []:
            if directory.name not in rows and _is_finished(directory):
                problems.append(
                    f"run {directory.name}: finished in {directory}, but not in the index"
                )
        return problems

    def study_directory(self, study_id: str) -> Path:
        """Where a study's files lie; nothing is created. `InputError` for an unfit id."""
        return self.root / "studies" / _identifier(study_id)

    def run_directory(self, study_id: str, run_id: str) -> Path:
        """Where a run's files lie; nothing is created. `InputError` for an unfit id."""
        return self.study_directory(study_id) / "runs" / _identifier(run_id)

    def lock(self, study_id: str) -> contextlib.AbstractContextManager[None]:
        """Hold a study for this process; `MachineError` names the live process that has it."""
        return locked(self.study_directory(study_id) / "lock", f"study {study_id!r}")

    def _study_row(self, study_id: str) -> Row:
        rows = self._index.select(STUDIES, {"id": study_id})
        if not rows:
            known: list[str] = [row["id"] for row in self._index.select(STUDIES)]
            raise InputError(
                f"the store {self.where} has no study {study_id!r}; {nearest(study_id, known)}"
            )
        return rows[0]

    def _run_rows(self, study_id: str) -> list[Row]:
        return self._index.select(RUNS, {"study_id": study_id}, order=("arm", "seed", "id"))

    def _decoded(self, decode: Callable[[Row], _T], row: Row) -> _T:
        try:
            return decode(row)
        except (ValueError, TypeError, AttributeError) as error:
            raise MachineError(
                f"the store {self.where} is damaged: the row of {row['id']!r} cannot be read "
                f"({error}); restore the index from a copy"
            ) from error


def _identifier(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise InputError(
            f"{name!r} is not an id: letters, digits and ._=+@- after a letter or digit, "
            "200 at most"
        )
    return name


def _study(row: Row) -> StoredStudy:
    return StoredStudy(
        row["id"], row["title"], json.loads(row["plan"]), row["plan_hash"], row["created"]
    )


def _run(row: Row) -> StoredRun:
    return StoredRun(
        id=row["id"],
        arm=row["arm"],
        seed=int(row["seed"]),
        status=row["status"],
        metric=math.nan if row["metric"] is None else float(row["metric"]),
        metrics={name: float(value) for name, value in json.loads(row["metrics"]).items()},
        fingerprints=json.loads(row["fingerprints"]),
        content_hash=row["content_hash"],
        environment=json.loads(row["environment"]),
        started=row["started"],
        seconds=float(row["seconds"]),
    )


def _plan_hash(path: Path) -> str | None:
    """The content hash of the plan in a file; None where it is missing or unreadable."""
    try:
        return content_hash(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None


def _directory_problems(directory: Path, run_id: str, expected: str) -> list[str]:
    if not directory.is_dir():
        return [f"run {run_id}: its directory {directory} is missing"]
    try:
        record = RunRecord.read(directory)
    except (InputError, MachineError) as error:
        return [f"run {run_id}: {error}"]
    problems = [f"run {run_id}: {note}" for note in record.notes]
    if record.content_hash != expected:
        problems.append(
            f"run {run_id}: {directory} is not what was indexed "
            f"({record.content_hash[:12]}, indexed {expected[:12]})"
        )
    return problems


def _is_finished(directory: Path) -> bool:
    try:
        return RunRecord.read(directory).status != "running"
    except (InputError, MachineError):
        return False
