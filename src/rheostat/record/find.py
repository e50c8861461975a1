"""The run that a user means: by its directory, or by its id in a store."""

from __future__ import annotations

from pathlib import Path

from rheostat.core.errors import InputError, nearest
from rheostat.record.run import LOG_NAME


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
        known = {
            f"{study.id}/{run.id}": opened.run_directory(study.id, run.id)
            for study in opened.studies()
            for run in opened.runs(study.id)
        }
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
