"""Loading: a verified checkpoint as plain data, or an error; nothing in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.generations import generations
from rheostat.checkpoint.manifest import Manifest
from rheostat.checkpoint.tensors import assemble
from rheostat.checkpoint.verify import read_files
from rheostat.core.durable import JsonObject


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by file and name, documents by name.

    The tensors are on the CPU, each in its own dtype. Those of one file share its memory, which is
    free once the last of them is. `passed_over` says, a line each, which newer checkpoints are
    damaged, and how.
    """

    path: Path
    manifest: Manifest
    tensors: Mapping[str, Mapping[str, Tensor]]
    documents: Mapping[str, JsonObject]
    passed_over: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """The updates that had been applied."""
        return self.manifest.step


def read(path: Path, passed_over: tuple[str, ...] = ()) -> Checkpoint:
    """The checkpoint in the folder `path` of one generation.

    Every byte is compared with the manifest before any tensor is made. Nothing is written, and no
    file can name code.

    Raises:
        DamageError: something is missing, changed, or not what a checkpoint has; says what.
        InputError: it is of another version of the format.
        MachineError: it cannot be read, or is larger than the memory.
    """
    files = read_files(path)
    return Checkpoint(path, files.manifest, assemble(files.tensors), files.documents, passed_over)


def newest(directory: Path, *, fall_back: bool = True) -> Checkpoint | None:
    """The newest checkpoint in `directory` that verifies; None where there is none at all.

    Args:
        directory: the folder of the generations.
        fall_back: take an older one where the newest is damaged (`passed_over` says so); False
            refuses.

    Raises:
        DamageError: `fall_back` is False and the newest is damaged, or all are.
        InputError, MachineError: as `read`.
    """
    damaged: list[str] = []
    for generation in reversed(generations(directory)):
        try:
            return read(generation.path, tuple(damaged))
        except DamageError as error:
            if not fall_back:
                raise DamageError(f"{error}; an older checkpoint was not asked for") from error
            damaged.append(str(error))
    if damaged:
        raise DamageError(f"no checkpoint in {directory} is whole: " + "; ".join(damaged))
    return None
