"""Checkpoints, verified and read as files: every byte is hashed before any of it is used.

Knows no torch. The files are opened relative to the folder, by the names that a manifest may have,
never through a symbolic link; nothing is written and nothing in a file names code.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rheostat.checkpoint import manifest as manifests
from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.documents import MAX_BYTES, decode
from rheostat.checkpoint.layout import header_length, parse_header
from rheostat.checkpoint.manifest import File, Manifest
from rheostat.core.durable import JsonObject, disk_errors
from rheostat.core.errors import MachineError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

CHUNK = 256 << 10
"""Bytes that are read, then hashed while the cache still has them."""

WINDOW = 4 << 20
"""Bytes that are hashed where they are cached."""

_POPULATE_READ = 22
"""Linux's MADV_POPULATE_READ, which Python has no name for."""

SMALL = 4 << 20
"""Below this, threads cost more than they save."""


@dataclass(frozen=True)
class Files:
    """A checkpoint's verified files: the whole content of tensor files, the parsed documents."""

    manifest: Manifest
    tensors: dict[str, Bytes]
    documents: dict[str, JsonObject]


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint in the folder `path`; errors as `verify`."""
    with _opened(path) as folder:
        return _manifest(folder, path)


def read_document(path: Path, name: str) -> JsonObject:
    """One verified document of the checkpoint in the folder `path`; errors as `verify`."""
    label = f"{name}.json"
    what = f"{path / label}"
    with _opened(path) as folder:
        file = _manifest(folder, path).files.get(label)
        if file is None:
            raise DamageError(f"{path} has no document {name!r}")
        with _open(folder, label, what, file) as descriptor:
            return decode(_read(descriptor, file, what).tobytes(), what)


def verify(
    path: Path, *, from_disk: bool = False, progress: Callable[[int], None] | None = None
) -> Manifest:
    """Read all of the checkpoint in the folder `path` and compare it with its manifest.

    Args:
        path: the folder of one generation.
        from_disk: have the system drop what it has cached, so that the device is read.
        progress: called with the number of bytes read, now and then.

    Raises:
        DamageError: something is missing, changed, or not what a checkpoint has; says what.
        InputError: it is of another version of the format.
        MachineError: it cannot be read.
    """
    with _opened(path) as folder:
        manifest = _manifest(folder, path)
        for name, file in manifest.files.items():
            what = f"{path / name}"
            with _open(folder, name, what, file) as descriptor:
                if from_disk:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                if manifests.tensor_file(name) is None:
                    decode(_read(descriptor, file, what).tobytes(), what)
                    continue
                _hash(descriptor, file, what, progress)
                length = header_length(os.pread(descriptor, 8, 0), file.size, what)
                parse_header(os.pread(descriptor, length, 0), file.size, what)
    return manifest


def read_files(path: Path) -> Files:
    """Every file of the checkpoint in the folder `path`, once all are verified.

    Tensor files are read and hashed side by side on the cores there are. Errors as `verify`; also
    `MachineError` where the checkpoint is larger than this machine's memory.
    """
    with _opened(path) as folder:
        manifest = _manifest(folder, path)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if manifest.size > memory:
            for name, file in manifest.files.items():
                with _open(folder, name, f"{path / name}", file):
                    pass  # are they as large as the manifest says?
            raise MachineError(
                f"cannot read {path}: it has {manifest.size:,} bytes, this machine's memory "
                f"{memory:,}: read it on a larger one"
            )

        def load(item: tuple[str, File]) -> Bytes:
            name, file = item
            with _open(folder, name, f"{path / name}", file) as descriptor:
                return _read(descriptor, file, f"{path / name}")

        files = list(manifest.files.items())
        if manifest.size < SMALL:
            contents = [load(item) for item in files]
        else:
            # The largest first, so that no core is left with it at the end.
            files.sort(key=lambda item: -item[1].size)
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
                contents = list(threads.map(load, files))
    whole = {name: content for (name, _), content in zip(files, contents, strict=True)}
    return Files(
        manifest,
        {name: whole[name] for name in sorted(whole) if manifests.tensor_file(name)},
        {
            name.removesuffix(".json"): decode(whole[name].tobytes(), f"{path / name}")
            for name in sorted(whole)
            if not manifests.tensor_file(name)
        },
    )


@contextlib.contextmanager
def _opened(path: Path) -> Generator[int]:
    with _faults(path):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _open(folder: int, name: str, what: str, file: File | None) -> Generator[int]:
    """A regular file of the folder, of the size that its entry says (the manifest has none)."""
    with _faults(Path(what)):
        # Not blocking: opening a pipe that poses as a file would wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=folder)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise DamageError(f"{what} is no regular file")
            if file is not None and found.st_size != file.size:
                raise DamageError(
                    f"{what} has {found.st_size:,} bytes, its manifest says {file.size:,}"
                )
            if file is not None and manifests.tensor_file(name) is None and file.size > MAX_BYTES:
                raise DamageError(f"{what}: {file.size:,} bytes of JSON, more than {MAX_BYTES:,}")
            yield descriptor
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _faults(what: Path) -> Generator[None]:
    """A file that is gone, a link or unreadable is damage; other errors are the machine's."""
    with disk_errors("read", what):
        try:
            yield
        except OSError as error:
            damage = {
                errno.ENOENT: "is missing",
                errno.ELOOP: "is a symbolic link, which is not followed",
                errno.ENOTDIR: "is no folder (or a symbolic link, which is not followed)",
                errno.EIO: "cannot be read: the device reports an error",
            }
            if isinstance(error, MachineError) or error.errno not in damage:
                raise
            raise DamageError(f"{what} {damage[error.errno]}") from error


def _manifest(folder: int, path: Path) -> Manifest:
    what = f"{path / manifests.NAME}"
    buffer = memoryview(bytearray(manifests.MAX_BYTES + 1))
    with _open(folder, manifests.NAME, what, None) as descriptor:
        data = buffer[: sum(_filled(descriptor, buffer, what))].tobytes()
    if len(data) > manifests.MAX_BYTES:
        raise DamageError(f"{what} is larger than {manifests.MAX_BYTES:,} bytes")
    found = manifests.decode(data, what)
    # A copy elsewhere may have any name, but not that of another generation.
    if manifests.FOLDER.fullmatch(path.name) and path.name != found.folder:
        raise DamageError(f"{path} is the checkpoint {found.folder} under another name")
    return found


def _filled(descriptor: int, buffer: memoryview, what: str) -> Iterator[int]:
    """Fill `buffer` from the file's present place on; yield what each read brought."""
    with _faults(Path(what)):
        while buffer and (count := os.readv(descriptor, [buffer[:CHUNK]])):
            yield count
            buffer = buffer[count:]


def _read(descriptor: int, file: File, what: str) -> Bytes:
    """The whole file in memory of its own, hashed there."""
    # numpy asks for large pages, which halves the time of first touching them.
    content = np.empty(file.size, np.uint8)
    view, digest, end = content.data, hashlib.sha256(), 0
    for count in _filled(descriptor, view, what):
        digest.update(view[end : end + count])
        end += count
    _compare(end, digest.hexdigest(), file, what)
    return content


def _hash(descriptor: int, file: File, what: str, progress: Callable[[int], None] | None) -> None:
    """Compare the file with its entry, where the system has it cached."""
    digest, end = hashlib.sha256(), 0
    with _faults(Path(what)):
        while end < file.size:
            count = min(WINDOW, file.size - end)
            os.posix_fadvise(descriptor, end + count, WINDOW, os.POSIX_FADV_WILLNEED)
            with _window(descriptor, end, count) as content:
                digest.update(content)
                count = len(content)
            if not count:
                break
            end += count
            if progress is not None:
                progress(count)
        if os.fstat(descriptor).st_size != file.size:
            end = -1  # it has grown or shrunk meanwhile
    _compare(end, digest.hexdigest(), file, what)


@contextlib.contextmanager
def _window(descriptor: int, begin: int, count: int) -> Generator[memoryview | mmap.mmap]:
    """`count` bytes of the file from `begin` on, or fewer where it ends.

    Mapped, they need not be copied, which saves an eighth of the time. To look at what cannot be
    fetched would be the end of the process (SIGBUS): the system is asked to fetch it first, and
    where it cannot, or cannot be asked, the bytes are read, which says what is wrong.
    """
    with contextlib.ExitStack() as opened:
        try:
            access = (mmap.MAP_SHARED, mmap.PROT_READ)
            mapped = opened.enter_context(mmap.mmap(descriptor, count, *access, offset=begin))
            mapped.madvise(_POPULATE_READ)
        except (OSError, ValueError):
            buffer = memoryview(bytearray(count))
            yield buffer[: os.preadv(descriptor, [buffer], begin)]
        else:
            yield mapped


def _compare(size: int, sha256: str, file: File, what: str) -> None:
    if (size, sha256) != (file.size, file.sha256):
        raise DamageError(f"{what} is not as it was written: its SHA-256 or size does not fit")
