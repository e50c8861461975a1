"""The runs that a user means: by directory, by id in a store, or all of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rheostat.core.errors import InputError, nearest
from rheostat.record.run import LOG_NAME

if TYPE_CHECKING:
    from rheostat.record.store import Store


def run_directory(reference: str, store: str | None = None) -> Path:
    """The directory of the run `reference`: a path, or an id of the store (`RUN`, or `STUDY/RUN`
    where several studies have one).

    Raises:
        InputError: it is neither, or several runs have this id.
        MachineError: the store cannot be read.
    """
    path = Path(reference)
    if (path / LOG_NAME).is_file():
        return path
    if path.exists() and store is None:
        raise InputError(f"{path} holds no run: there is no {LOG_NAME} in it")
    from rheostat.record.store import Store

    try:
        opened = Store.open(store, writable=False)
    except InputError as error:
        raise InputError(f"{reference!r} is no directory of a run, and {error}") from error
    with opened:
        known = _runs_of(opened)
        found = [name for name in known if reference in (name, name.partition("/")[2])]
        if len(found) > 1:
            raise InputError(f"{reference!r} is the id of several runs: {', '.join(found)}")
        if not found:
            ids = [*known, *(name.partition("/")[2] for name in known)]
            raise InputError(
                f"{reference!r} is neither the directory of a run nor the id of one in the store "
                f"{opened.where}; {nearest(reference, ids)}"
            )
        return known[found[0]]


def run_directories(store: str | None = None) -> list[Path]:
    """The directories of all runs of a store.

    Raises:
        InputError: there is no store.
        MachineError: it cannot be read.
    """
    from rheostat.record.store import Store

    with Store.open(store, writable=False) as opened:
        return [*_runs_of(opened).values()]


def _runs_of(store: Store) -> dict[str, Path]:
    """The directory of every run, by `STUDY/RUN`."""
    return {
        f"{study.id}/{run.id}": store.run_directory(study.id, run.id)
        for study in store.studies()
        for run in store.runs(study.id)
    }
