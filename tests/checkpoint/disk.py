"""A disk between the code and the real one: it counts, fails and notes what is asked of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

CALLS = ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir")
"""The functions of `os` through which a checkpoint reaches the disk."""


@dataclass
class Call:
    """One call that writes: its name, its path (for a descriptor, that it was opened by)."""

    name: str
    path: str
    other: str = ""
    data: bytes = b""


@dataclass
class Disk:
    """Notes every writing call; fails those that `fails` says, given its number and the call."""

    fails: Callable[[int, Call], int | None] = lambda _number, _call: None
    calls: list[Call] = field(default_factory=list[Call])
    paths: dict[int, str] = field(default_factory=dict[int, str])

    def note(self, call: Call) -> None:
        """Keep the call, or fail it."""
        number = len(self.calls)
        self.calls.append(call)
        if code := self.fails(number, call):
            raise OSError(code, os.strerror(code))

    @contextmanager
    def between(self) -> Iterator[Disk]:
        """Stand between `os` and the real disk while the block runs; nothing is really synced."""
        with pytest.MonkeyPatch.context() as patch:
            real = {name: getattr(os, name) for name in CALLS}

            def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
                if flags & os.O_CREAT:
                    self.note(Call("create", str(path)))
                descriptor = real["open"](path, flags, *rest, **named)
                self.paths[descriptor] = str(path)
                return descriptor

            def write(descriptor: int, data: Any) -> int:
                self.note(Call("write", self.paths[descriptor], data=bytes(data)))
                return real["write"](descriptor, data)

            def fsync(descriptor: int) -> None:
                self.note(Call("fsync", self.paths[descriptor]))

            def rename(old: Any, new: Any) -> None:
                self.note(Call("rename", str(old), str(new)))
                real["rename"](old, new)

            def by_path(name: str) -> Callable[..., None]:
                def act(path: Any, *rest: Any) -> None:
                    self.note(Call(name, str(path)))
                    real[name](path, *rest)

                return act

            patch.setattr(os, "open", opened)
            patch.setattr(os, "write", write)
            patch.setattr(os, "fsync", fsync)
            patch.setattr(os, "rename", rename)
            for name in ("mkdir", "unlink", "rmdir"):
                patch.setattr(os, name, by_path(name))
            yield self


ERRORS = {
    "create": (errno.ENOSPC, errno.EIO, errno.EMFILE),
    "mkdir": (errno.ENOSPC, errno.EIO),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.ENOSPC),
    "unlink": (errno.EIO,),
    "rmdir": (errno.EIO,),
}
"""What the system can say to each."""
