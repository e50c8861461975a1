"""A directory of checkpoints: one folder a generation, named by its number and its step.

`00000017-step-3400` is the seventeenth save, made after 3,400 updates. The number orders: after a
roll-back a later save has a lower step. No file points to the newest, so none can be stale; the
newest is the one with the highest number that verifies. What begins with `.tmp-` is a save that
never became one, or a checkpoint on its way out.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from rheostat.checkpoint import manifest as manifests
from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.manifest import Manifest
from rheostat.checkpoint.verify import read_manifest, verify
from rheostat.core.durable import disk_errors, sync_directory
from rheostat.core.errors import InputError, MachineError
from rheostat.core.lock import locked

FOLDER = "checkpoints"
"""The folder of a run's directory that holds its checkpoints."""

LOCK = "lock"
TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class Generation:
    """One checkpoint of a directory, known by its name; nothing of it has been read."""

    path: Path
    number: int
    step: int


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest `last`, those whose step is a multiple of `every`, and
    the `best` by score (lower is better).

    Raises:
        InputError: the newest would not stay, or a number below its range.
    """

    last: int = 2
    every: int | None = None
    best: int = 0

    def __post_init__(self) -> None:
        if self.last < 1 or self.best < 0 or (self.every is not None and self.every < 1):
            raise InputError(
                f"keep: last={self.last}, every={self.every}, best={self.best}: "
                "last and every are at least 1, best at least 0"
            )


def generations(directory: Path) -> list[Generation]:
    """The checkpoints in `directory`, oldest first; none where there is no such directory."""
    with disk_errors("read the folder", directory):
        try:
            names = [entry.name for entry in os.scandir(directory)]
        except FileNotFoundError:
            return []
    found = [
        (match, directory / name) for name in names if (match := manifests.FOLDER.fullmatch(name))
    ]
    listed = [Generation(path, int(match[1]), int(match[2])) for match, path in found]
    return sorted(listed, key=lambda generation: (generation.number, generation.step))


@contextlib.contextmanager
def hold(directory: Path) -> Generator[None]:
    """Hold `directory` for this process while the block runs; remove what a dead one left.

    Raises `MachineError` naming pid and host where another process holds it.
    """
    with locked(directory / LOCK, f"the checkpoint directory {directory}"):
        with disk_errors("clean", directory):
            for left in sorted(directory.glob(f"{TEMPORARY}*")):
                remove_folder(left)
        yield


def prune(directory: Path, keep: Keep) -> list[Path]:
    """Remove the checkpoints that `keep` does not name, once the newest is read back from disk.

    Returns what was removed. Raises `MachineError` where the newest is damaged, and nothing was
    removed; or where the disk fails.
    """
    found = generations(directory)
    if not found:
        return []
    try:
        verify(found[-1].path, from_disk=True)
    except DamageError as error:
        raise MachineError(
            f"{error}; it is the newest checkpoint, so no older one was removed: check the disk"
        ) from error
    kept = {generation.path for generation in found[-keep.last :]}
    if keep.every is not None:
        kept |= {generation.path for generation in found if generation.step % keep.every == 0}
    scores = [
        (m.score, -m.generation, path) for path, m in _manifests(found) if m.score is not None
    ]
    kept |= {path for *_, path in sorted(scores)[: keep.best]} if keep.best else set()
    removed = [generation.path for generation in found if generation.path not in kept]
    for path in removed:
        with disk_errors("remove", path):
            # The name first, in one step: half removed, it must not look like a damaged one.
            away = directory / f"{TEMPORARY}{secrets.token_hex(8)}"
            os.rename(path, away)  # noqa: PTH104 - the tests count the calls of os
            sync_directory(directory)
            remove_folder(away)
    return removed


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it; one that is gone already is no error."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for inner in path.iterdir():
        remove_folder(inner)
    path.rmdir()


def _manifests(found: list[Generation]) -> Iterator[tuple[Path, Manifest]]:
    for generation in found:
        with contextlib.suppress(DamageError):
            yield generation.path, read_manifest(generation.path)
