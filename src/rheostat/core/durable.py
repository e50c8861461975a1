"""Files that are written whole or not at all, and JSON with one spelling per value.

Any `OSError` of the disk becomes a `MachineError` that names the path, what failed and what
to do about it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from rheostat.core.errors import MachineError

JsonObject: TypeAlias = dict[str, Any]

_ADVICE = {
    errno.ENOSPC: "free some space and try again",
    errno.EDQUOT: "free some space within your quota and try again",
    errno.EACCES: "check its permissions or choose another place",
    errno.EPERM: "check its permissions or choose another place",
    errno.EROFS: "the file system is mounted read-only: choose another place",
    errno.EIO: "the device reports an error: check it, and choose another place until then",
    errno.ENOTDIR: "a part of this path is a file, not a folder: choose another place",
    errno.EEXIST: "a file of this name is in the way: choose another place",
    errno.ELOOP: "it is a symbolic link, which is not followed here: remove it",
    errno.EISDIR: "this is a folder, not a file: choose another name",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}


@contextlib.contextmanager
def disk_errors(action: str, path: Path) -> Generator[None]:
    """Turn an `OSError` raised inside into a `MachineError`: `cannot <action> <path>: …`."""
    try:
        yield
    except MachineError:
        raise
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        advice = _ADVICE.get(error.errno or 0, "check the path and the disk")
        raise MachineError(f"cannot {action} {path}: {why}; {advice}") from error


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte of `data`; a short write is continued, an error raised as it comes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Make the names in the folder `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create the folder `path` and its parents, so that they survive a power cut.

    Raises `MachineError` where that fails.
    """
    if path.is_dir():
        return
    with disk_errors("create the folder", path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in reversed(missing):
            sync_directory(folder.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: afterwards it holds the old bytes or the new, never a mixture.

    The new file is written beside the old, synced and renamed over it. Whatever interrupts
    (an error, Ctrl-C), the file beside is removed; disk errors raise `MachineError`.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise MachineError(f"cannot write {path}: it is no regular file; choose another place")
    path = path.resolve()  # through a link, what it points to is replaced, not the link
    # A random name, so that two processes that write the same path cannot mix their bytes.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with disk_errors("write", path):
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            beside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        sync_directory(path.parent)


def write_json(path: Path, value: object, *, indent: int | None = None) -> None:
    """Write `value` durably as canonical JSON (see `canonical_json`), ended by a newline."""
    text = _dump(value, indent)
    write_file(path, f"{text}\n".encode("ascii"))


def canonical_json(value: object) -> str:
    """The one JSON text of `value`: strict, ASCII, compact, keys sorted, floats by `repr`.

    NaN and the infinities, which JSON lacks, are the strings `nan`, `inf` and `-inf`
    (`float` reads them back). Takes None, bool, int, float, str, and lists, tuples and
    str-keyed mappings of them; raises `TypeError` for anything else.
    """
    return _dump(value, None)


def content_hash(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def _dump(value: object, indent: int | None) -> str:
    separators = (",", ":") if indent is None else (",", ": ")
    plain = _plain(value)
    return json.dumps(plain, allow_nan=False, sort_keys=True, indent=indent, separators=separators)


def _plain(value: object) -> object:
    if isinstance(value, float):
        # float(), so that a subclass (numpy's float64) keeps no repr of its own.
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[object]", value)]
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        for key in items:
            if not isinstance(key, str):
                raise TypeError(f"a JSON object's keys are strings, not {key!r}")
        return {key: _plain(item) for key, item in items.items()}
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")
