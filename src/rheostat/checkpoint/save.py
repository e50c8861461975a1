"""Saving: at once, or behind the training's back."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from rheostat.checkpoint.commit import commit
from rheostat.checkpoint.documents import encode
from rheostat.checkpoint.generations import Keep, prune
from rheostat.checkpoint.layout import Layout
from rheostat.checkpoint.manifest import check_stem
from rheostat.checkpoint.tensors import DTYPES, Part, parts
from rheostat.core.errors import InputError

Tensors = Mapping[str, Mapping[str, Tensor]]
Documents = Mapping[str, Mapping[str, object]]

Copy = tuple[int, Callable[[], object]]
"""How many bytes, and what copies them."""

PIECE = 64 << 20
"""Bytes that one thread copies at a time: so large a copy goes past the cache, a quarter faster."""


def write(
    directory: Path,
    step: int,
    tensors: Tensors,
    documents: Documents,
    *,
    score: float | None = None,
) -> Path:
    """Save a new checkpoint and return its folder, once it would survive a power cut.

    Args:
        directory: the folder of the generations; made where it is missing.
        step: the updates applied so far.
        tensors: file -> name -> tensor; a file of more than 256 MiB is written in parts.
        documents: name -> what `documents.encode` takes.
        score: what `Keep.best` compares; finite, lower is better.

    Raises:
        InputError: a name, a tensor or a value that cannot be saved; nothing was written.
        MachineError: the disk failed; older checkpoints are as they were.
    """
    texts = _texts(documents)
    files = {part.file: part.pieces() for part in parts(tensors)}
    return commit(directory, step, {**files, **texts}, _score(score))


class AsyncWriter:
    """Saves checkpoints from a thread: `save` returns once the tensors are copied.

    The copies go into host memory that is kept and reused (page-locked where a tensor is on a
    CUDA device), as much as one checkpoint takes. One save is in flight: the next waits for it. An
    error of the one before is raised by the next call of `save`, `check`, `wait` or `close`, once.

    Args:
        directory: the folder of the generations.
        keep: what `prune` keeps after each save, once that is read back; None removes nothing.
    """

    def __init__(self, directory: Path, keep: Keep | None = None) -> None:
        self.directory = directory
        self._keep = keep
        self._buffers: dict[str, _HostBuffer] = {}
        # The interpreter waits for the thread when it ends, so no save is cut off by an exit.
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        # The training stands still for the copy, so its cores are free; four saturate the memory.
        self._copiers = ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0))), "copy")
        self._pending: Future[Path] | None = None
        self._closed = False

    def save(
        self,
        step: int,
        tensors: Tensors,
        documents: Documents,
        *,
        score: float | None = None,
    ) -> None:
        """Copy everything, and have it written behind. Arguments and errors as `write`; raises
        `ValueError` after `close`.
        """
        if self._closed:
            raise ValueError("the checkpoint writer is closed")
        texts = _texts(documents)
        score = _score(score)
        planned = parts(tensors)
        self.wait()
        self._copy(planned)
        files = {part.file: self._buffers[part.file].pieces() for part in planned}
        self._pending = self._thread.submit(self._write, step, {**files, **texts}, score)

    def check(self) -> None:
        """Raise the error of a save that has failed; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> Path | None:
        """Wait for the save in flight and return its folder (None: there was none)."""
        pending = self._pending
        if pending is None:
            return None
        # Ctrl-C here leaves the save pending: its buffers must not be filled while they are read.
        futures.wait([pending])
        self._pending = None
        return pending.result()

    def close(self) -> None:
        """Wait for the save in flight, then end the thread; closing twice is allowed."""
        self._closed = True
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._copiers.shutdown()
            self._buffers.clear()

    def __enter__(self) -> AsyncWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _copy(self, planned: list[Part]) -> None:
        kept, self._buffers = self._buffers, {}
        for part in planned:
            old = kept.get(part.file)
            fits = old is not None and old.layout == part.layout
            self._buffers[part.file] = old if old and fits else _HostBuffer(part)
        devices = {device for part in planned for device in part.devices()}
        submitted: list[Future[None]] = []
        try:
            tasks = _tasks(self._buffers[part.file].copies(part.sources) for part in planned)
            submitted.extend(self._copiers.submit(_copy, task) for task in tasks)
            for part in planned:
                self._buffers[part.file].fetch(part.sources)
            for future in submitted:
                future.result()
            for device in devices:
                torch.cuda.synchronize(device)
        finally:
            futures.wait(submitted)

    def _write(
        self, step: int, files: Mapping[str, Iterable[bytes | memoryview]], score: float | None
    ) -> Path:
        path = commit(self.directory, step, files, score)
        if self._keep is not None:
            prune(self.directory, self._keep)
        return path


class _HostBuffer:
    """The data of one file in host memory, and each tensor's place in it."""

    def __init__(self, part: Part) -> None:
        self.layout: Layout = part.layout
        self._header = part.layout.header(part.file)
        if part.devices():
            self._data = torch.empty(self.layout.size, dtype=torch.uint8, pin_memory=True).numpy()
        else:
            self._data = np.empty(self.layout.size, np.uint8)
        self._places = {
            name: torch.from_numpy(self._data[entry.begin : entry.end])
            .view(DTYPES[entry.dtype])
            .view(entry.shape)
            for name, entry in self.layout.entries.items()
            if entry.end > entry.begin
        }

    def copies(self, sources: Mapping[str, Tensor]) -> Iterator[Copy]:
        """What is to be copied from host memory, in pieces."""
        # numpy's copy of bytes is nearly twice as fast as torch's.
        for name, place in self._places.items():
            source = sources[name]
            if source.is_cpu and source.is_contiguous():
                entry, flat = self.layout.entries[name], source.reshape(-1).view(torch.uint8)
                content = flat.numpy()
                for begin in range(0, content.size, PIECE):
                    piece = content[begin : begin + PIECE]
                    start = entry.begin + begin
                    target = self._data[start : start + piece.size]
                    yield piece.size, functools.partial(np.copyto, target, piece)
            elif source.is_cpu:
                yield source.nbytes, functools.partial(place.copy_, source)

    def fetch(self, sources: Mapping[str, Tensor]) -> None:
        """Copy what is on devices, on the stream of this thread, behind what computes it; the
        copies may still be under way on return."""
        for name, place in self._places.items():
            if not sources[name].is_cpu:
                place.copy_(sources[name], non_blocking=True)

    def pieces(self) -> list[bytes | memoryview]:
        """The bytes of the file."""
        return [self._header, self._data.data]


def _tasks(copies: Iterable[Iterable[Copy]]) -> Iterator[list[Copy]]:
    """The copies in lists of about `PIECE` bytes: neither a thread's start for each small tensor,
    nor one thread left with most of it at the end."""
    task: list[Copy] = []
    size = 0
    for copy in itertools.chain.from_iterable(copies):
        task.append(copy)
        size += copy[0]
        if size >= PIECE:
            yield task
            task, size = [], 0
    if task:
        yield task


def _copy(task: list[Copy]) -> None:
    for _, copy in task:
        copy()


def _texts(documents: Documents) -> dict[str, list[bytes]]:
    for name in documents:
        check_stem(name, "a document")
    return {f"{n}.json": [encode(d, f"the document {n!r}")] for n, d in documents.items()}


def _score(score: float | None) -> float | None:
    if score is not None and not np.isfinite(score):
        raise InputError(f"a checkpoint's score is a finite number, not {score}")
    return None if score is None else float(score)
