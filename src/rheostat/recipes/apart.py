"""Two recorded runs and their checkpoints, compared: `rheostat diff RUN RUN`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.generations import FOLDER, generations
from rheostat.checkpoint.verify import read_document
from rheostat.recipes.causes import cause_of, unlike
from rheostat.recipes.parting import Parting, parting
from rheostat.record.run import RunRecord

_STATE = ("model", "optimizer", "others")
"""Of a checkpoint, the files and documents that hold the run's state."""


@dataclass(frozen=True)
class Apart:
    """What became of the comparison of two runs.

    `parting` is None where they are the same. `checkpoints` says how far the first two checkpoints
    after it differ (or the newest two of one step, where the records are the same), a line for each
    tensor or value; `given` what differs in what the runs were given, whatever it did.
    """

    one: RunRecord
    other: RunRecord
    parting: Parting | None
    batches: int | None
    checkpoints: list[str]
    given: list[str]


def compare(first: Path, second: Path) -> Apart:
    """Compare the runs in two directories.

    Raises:
        InputError, MachineError: as `RunRecord.read`; a checkpoint that is damaged is left out.
    """
    one, other = RunRecord.read(first), RunRecord.read(second)
    found = parting(one, other)
    after = None if found is None or found.cause == "length" else (found.step or 0) + 1
    batches, lines = _checkpoints(first, second, after)
    if lines and after is None:
        row = min(one.steps.size, other.steps.size) - 1
        name = lines[0].partition(":")[0]
        cause, why = cause_of(one, other, max(row, 0), "checkpoint")
        found = Parting(batches, "checkpoint", "one", "another", name, cause, why)
    elif lines and found is not None and (found.tensor is None or "…" in found.tensor):
        tensor = next((line for line in lines if line.startswith("model/")), lines[0])
        found = replace(found, tensor=tensor.partition(":")[0].removeprefix("model/"))
    return Apart(one, other, found, batches, lines, unlike(one, other))


def _checkpoints(first: Path, second: Path, since: int | None) -> tuple[int | None, list[str]]:
    """Where the checkpoints of one batch differ: the first from `since` on, or else the newest."""
    mine, theirs = _by_batch(first / FOLDER), _by_batch(second / FOLDER)
    common = sorted(mine.keys() & theirs.keys())
    wanted = common[-1:] if since is None else [at for at in common if at >= since]
    for at in wanted:
        try:
            return at, _state_differences(mine[at], theirs[at])
        except DamageError:
            continue
    return None, []


def _by_batch(directory: Path) -> dict[int, Path]:
    """Batches consumed -> the newest checkpoint of a run that was made after so many."""
    found: dict[int, Path] = {}
    for generation in generations(directory):
        try:
            document = read_document(generation.path, "run")
        except DamageError:
            continue
        found[int(document["progress"]["batches"])] = generation.path
    return found


def _state_differences(one: Path, other: Path) -> list[str]:
    # These bring torch, which two runs without checkpoints need not wait for.
    from rheostat.checkpoint.compare import tensors_that_differ, values_that_differ
    from rheostat.checkpoint.load import read

    mine, theirs = read(one), read(other)

    def state(of: Any) -> dict[str, Any]:
        return {name: of[name] for name in _STATE if name in of}

    return [
        *tensors_that_differ(state(mine.tensors), state(theirs.tensors)),
        *values_that_differ(state(mine.documents), state(theirs.documents)),
    ]
