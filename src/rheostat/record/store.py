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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rheostat.core.durable import (
    JsonObject,
    canonical_json,
    content_hash,
    make_directory,
    write_json,
)
from rheostat.core.errors import InputError, MachineError, nearest
from rheostat.core.lock import locked
from rheostat.record.index import REVISIONS, RUNS, STUDIES, Index, Row, row_holds
from rheostat.record.run import RunRecord

PLAN_NAME = "plan.json"

# Ids name folders: no separators, no leading dot.
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+@-]{0,199}")

_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredStudy:
    """A study as the index has it; `created` is ISO 8601 in UTC.

    `plan` is what its runs are bound to, frozen; `title` and `words` are its prose as last
    written, which is `revision` number so many, from 1.
    """

    id: str
    title: str
    plan: JsonObject
    plan_hash: str
    created: str
    words: JsonObject
    revision: int


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
    def open(cls, location: str | Path | None = None, *, writable: bool = True) -> Store:
        """Open the store, and create it where there is none.

        `location` is a folder (None: `.rheostat` in the working directory) or an SQLAlchemy
        URL; with a URL, the directories lie beside its sqlite file, else in `.rheostat`. One
        that is not `writable` is opened as it is, on a read-only disk too, and nothing is
        created. Raises `InputError` for a URL that cannot be read, or where there is no store
        to read; `MachineError` for a store that is not writable, reachable or whole, or was
        made by a newer version.
        """
        return cls(Index(location, writable=writable))

    @property
    def remedy(self) -> str:
        """What to do about rows that were changed or cannot be read."""
        if not self._index.is_file:
            return f"restore {self.where} from a copy"
        return (
            f"restore {self.where} from a copy, or move it away and index what the runs' folders "
            "hold by another `rheostat study run FILE`"
        )

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

    def add_study(
        self,
        study_id: str,
        title: str,
        plan: Mapping[str, Any],
        words: Mapping[str, Any] | None = None,
    ) -> StoredStudy:
        """Index a study and write its `plan.json`.

        The same plan is the same study, under the id that it got first. Other prose (`title`,
        `words`) is recorded as a revision, with its date; the same once more changes nothing.

        Raises `InputError` where another plan has that id, `MachineError` where its row was
        changed.
        """
        digest = content_hash(plan)
        study_id = self._known_id(digest) or study_id
        path = self.study_directory(study_id) / PLAN_NAME
        row = self._index.insert(
            STUDIES,
            {
                "id": study_id,
                "title": title,
                "plan": canonical_json(plan),
                "plan_hash": digest,
                "created": _now(),
            },
        )
        if not row_holds(row):
            raise MachineError(f"{_changed(study_id)}; {self.remedy}")
        if row["plan_hash"] != digest:
            raise InputError(
                f"the store {self.where} has a study {study_id!r} with another plan: "
                "give this one another id"
            )
        if _plan_hash(path) != digest:
            make_directory(path.parent)
            write_json(path, plan, indent=2)
        self._revise(study_id, title, canonical_json(words or {}))
        return self.study(study_id)

    def _known_id(self, digest: str) -> str | None:
        """The study with this plan: by the index, else (where it was lost) by the folders."""
        rows = self._index.select(STUDIES, {"plan_hash": digest}, order=("created", "id"))
        if rows:
            return rows[0]["id"]
        plans = sorted((self.root / "studies").glob(f"*/{PLAN_NAME}"))
        return next((path.parent.name for path in plans if _plan_hash(path) == digest), None)

    def _revise(self, study_id: str, title: str, words: str) -> None:
        """Add these words as the last revision, unless they are; another process may be first."""
        said = {"title": title, "words": words}
        while not (rows := self._revision_rows(study_id)) or said.items() - rows[-1].items():
            row = {"study_id": study_id, "number": len(rows) + 1, **said, "written": _now()}
            self._index.insert(REVISIONS, row)

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
        return [self._study(row) for row in rows]

    def study(self, reference: str) -> StoredStudy:
        """The study with this id, the only one whose id begins so, or the one whose plan has this
        hash; else `InputError`."""
        rows = self._index.select(STUDIES)
        known: list[str] = [row["id"] for row in rows]
        found = sorted(name for name in known if reference and name.startswith(reference))
        if len(found) > 1 and reference not in known:
            raise InputError(f"{reference!r} begins several studies: {', '.join(found)}")
        found = found or [row["id"] for row in rows if row["plan_hash"] == reference]
        exact = reference if reference in known or not found else found[0]
        return self._study(self._study_row(exact))

    def runs(self, study_id: str) -> list[StoredRun]:
        """The runs of a study, ordered by arm, seed and id, whichever was indexed first."""
        return [self._decoded(_run, row) for row in self._run_rows(study_id)]

    def damage(self) -> list[str]:
        """What the database finds wrong in its own file (SQLite), a line each."""
        return self._index.check()

    def changed_rows(self, study_id: str) -> list[str]:
        """Which rows of this study are not as they were written, a line each."""
        study = self._study_row(study_id)
        found = [] if row_holds(study) else [_changed(study_id)]
        found += [
            f"study {study_id}: revision {row['number']} of its words in the index was changed"
            for row in self._revision_rows(study_id)
            if not row_holds(row)
        ]
        return found + [
            f"run {row['id']}: its row in the index was changed"
            for row in self._run_rows(study_id)
            if not row_holds(row)
        ]

    def verify(self, study_id: str) -> list[str]:
        """What is wrong with the record of the study with exactly this id, a line each.

        Checks the database file (SQLite), every row against its hash, `plan.json` against the
        plan, every run's directory against the hash in the index, and finds finished runs that
        the index does not know. Raises `InputError` for an unknown study.
        """
        study = self._study_row(study_id)
        problems = [*self.damage(), *self.changed_rows(study_id)]
        path = self.study_directory(study_id) / PLAN_NAME
        if _plan_hash(path) != study["plan_hash"]:
            problems.append(f"study {study_id}: {path} is missing or is another plan")
        rows = {row["id"]: row for row in self._run_rows(study_id)}
        for run_id, row in rows.items():
            if row_holds(row):  # else what it says of the directory is no evidence
                where = self.root / row["path"]
                problems += _directory_problems(where, run_id, row["content_hash"])
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

    def _revision_rows(self, study_id: str) -> list[Row]:
        return self._index.select(REVISIONS, {"study_id": study_id}, order=("number",))

    def _study(self, row: Row) -> StoredStudy:
        revisions = self._revision_rows(row["id"])
        return self._decoded(lambda row: _study(row, revisions), row)

    def _decoded(self, decode: Callable[[Row], _T], row: Row) -> _T:
        try:
            return decode(row)
        except (ValueError, TypeError, AttributeError) as error:
            raise MachineError(
                f"the store {self.where} is damaged: the row of {row['id']!r} cannot be read "
                f"({error}); {self.remedy}"
            ) from error


def _identifier(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise InputError(
            f"{name!r} is not an id: letters, digits and ._=+@- after a letter or digit, "
            "200 at most"
        )
    return name


def _study(row: Row, revisions: Sequence[Row]) -> StoredStudy:
    last = revisions[-1] if revisions else {"title": row["title"], "words": "{}"}
    return StoredStudy(
        id=row["id"],
        title=last["title"],
        plan=json.loads(row["plan"]),
        plan_hash=row["plan_hash"],
        created=row["created"],
        words=json.loads(last["words"]),
        revision=len(revisions),
    )


def _changed(study_id: str) -> str:
    return f"study {study_id}: its row in the index was changed"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


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
