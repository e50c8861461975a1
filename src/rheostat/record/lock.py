"""One process at a time: a lock on a file that the system frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Generator
from pathlib import Path

from rheostat.core.errors import MachineError
from rheostat.record.durable import disk_errors, make_directory, write_all


@contextlib.contextmanager
def locked(path: Path, what: str) -> Generator[None]:
    """Hold the lock file `path` while the block runs; `what` names the thing locked.

    The file says who holds it (pid and host). Raises `MachineError` naming them where another
    holder lives; the lock of one that was killed is free. A child made by a bare `fork` holds
    the lock with its parent; one that was spawned does not.
    """
    make_directory(path.parent)
    with disk_errors("lock", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with disk_errors("lock", path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                # The holder may not have written its name yet.
                holder = os.read(descriptor, 1024).decode("utf-8", "replace").strip()
                raise MachineError(
                    f"{what} is held by {holder or 'another process'} ({path}): "
                    "wait until it ends, or stop it"
                ) from error
            os.ftruncate(descriptor, 0)
            write_all(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            # The file stays: removing it would let two processes lock two files of one name.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
