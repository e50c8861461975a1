"""One process at a time: a lock on a file that the system frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Generator
from pathlib import Path

from rheostat.core.durable import disk_errors, make_directory, write_all
from rheostat.core.errors import MachineError

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _let_go() -> None:
    # A forked child shares its parent's descriptors, and with them the lock: a data loader's worker
    # that outlives a killed run would keep the next run out.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Generator[None]:
    """Hold the lock file `path` while the block runs; `what` names the thing locked.

    The file says who holds it (pid and host). Raises `MachineError` naming them where another
    holder lives; the lock of one that was killed is free. Children of the holder, forked or
    spawned, do not hold it.
    """
    process = os.getpid()
    make_directory(path.parent)
    with disk_errors("lock", path):
        # Never through a link: what it points to would be cut to nothing.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
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
        _held.add(descriptor)
        try:
            yield
        finally:
            # The file stays: removing it would let two processes lock two files of one name.
            if descriptor in _held:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)
    finally:
        # In a forked child that leaves the block, the number may be another file's by now.
        if os.getpid() == process:
            _held.discard(descriptor)
            os.close(descriptor)
