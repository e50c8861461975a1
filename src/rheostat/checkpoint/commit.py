"""One checkpoint written to disk: whole, or not there at all. Knows no torch.

The folder is made beside, under a temporary name on the same file system; every file is synced,
then the folder; one rename gives it its name, and the directory is synced. A crash at any point
leaves the older checkpoints as they were, and either the whole new one or a temporary folder,
which the next process to hold the directory removes. Nothing is ever overwritten.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from rheostat.checkpoint import manifest as manifests
from rheostat.checkpoint.generations import TEMPORARY, generations, remove_folder
from rheostat.checkpoint.manifest import File, Manifest
from rheostat.core.durable import disk_errors, make_directory, sync_directory, write_all
from rheostat.core.errors import InputError, MachineError

CHUNK = 1 << 20
"""Bytes that are hashed, then written while the cache still has them."""


def commit(
    directory: Path,
    step: int,
    files: Mapping[str, Iterable[bytes | memoryview]],
    score: float | None = None,
) -> Path:
    """Write a new generation of `directory`; return its folder once it would survive a power cut.

    Args:
        directory: made where it is missing.
        step: the updates applied so far.
        files: file name -> its content, in pieces.
        score: what `keep_best` compares; lower is better.

    Raises:
        InputError: the step is out of range.
        MachineError: the disk failed; nothing of the checkpoint is left, or (where only the last
            sync failed) it is there and whole but may not survive a power cut.
    """
    if not 0 <= step < manifests.MAX_STEP:
        raise InputError(f"a checkpoint's step is 0 or more, not {step}")
    make_directory(directory)
    beside = directory / f"{TEMPORARY}{secrets.token_hex(8)}"
    with disk_errors("write a checkpoint to", directory):
        try:
            os.mkdir(beside)  # noqa: PTH102 - the tests count the calls of os
            written = {name: _write(beside / name, pieces) for name, pieces in files.items()}
            path = _publish(directory, beside, step, written, score)
        except BaseException:
            with contextlib.suppress(OSError):
                remove_folder(beside)
            raise
        sync_directory(directory)
    return path


def _publish(
    directory: Path, beside: Path, step: int, files: Mapping[str, File], score: float | None
) -> Path:
    """Write the manifest and give the folder its name."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    # Another process that does not hold the directory may take the number first: take the next.
    for _ in range(100):
        number = max((found.number for found in generations(directory)), default=0) + 1
        manifest = Manifest(number, step, now, score, files)
        _write(beside / manifests.NAME, [manifest.encode()])
        sync_directory(beside)
        try:
            os.rename(beside, directory / manifest.folder)  # noqa: PTH104 - see above
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            (beside / manifests.NAME).unlink()
        else:
            return directory / manifest.folder
    raise MachineError(f"cannot write a checkpoint to {directory}: others take every number first")


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> File:
    """A new, synced file of these pieces."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            for begin in range(0, len(view), CHUNK):
                part = view[begin : begin + CHUNK]
                digest.update(part)
                write_all(descriptor, part)
            size += len(view)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return File(size, digest.hexdigest())
