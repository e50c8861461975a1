"""Recorded steps repeated from a checkpoint, each compared with the record."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from rheostat.checkpoint.compare import tensors_that_differ, values_that_differ
from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.generations import generations
from rheostat.checkpoint.load import Checkpoint, read
from rheostat.checkpoint.verify import read_document
from rheostat.core.durable import canonical_json
from rheostat.core.errors import InputError, RheostatError
from rheostat.recipes.bundle import Bundle, Documents, Progress, Tensors
from rheostat.recipes.recording import trained, trained_names
from rheostat.record.run import RunRecord
from rheostat.signals.fingerprint import parted, section_names


class ReplayError(RheostatError):
    """A repeated step is not as it was recorded."""


class Replay:
    """A comparison with a run's record: it takes what a `Recorder` records of the repeated steps.

    Raises `ReplayError` at the first that differs.
    """

    def __init__(self, record: RunRecord, names: list[str]) -> None:
        self._record = record
        self._rows = {int(step): row for row, step in enumerate(record.steps)}
        self._names = section_names(names)
        self._events = [
            f"{e.kind} {canonical_json(e.fields)}" for e in record.events if "step" in e.fields
        ]

    def step(
        self,
        step: int,
        values: Mapping[str, float],
        batch: str | None = None,
        weights: str = "",
        rng: str = "",
    ) -> None:
        """Compare a step with its row."""
        row = self._rows.get(step)
        if row is None:
            raise InputError(f"run.replay: batch {step} was not recorded")
        record = self._record
        found: list[str] = []
        if batch is not None and record.batches[row] and batch != record.batches[row]:
            found.append(f"batch {batch}, recorded {record.batches[row]}")
        for name, value in values.items():
            recorded = float(record.series[name][row]) if name in record.series else math.nan
            if repr(float(value)) != repr(recorded):
                found.append(f"{name} {value!r}, recorded {recorded!r}")
        if weights != record.weights[row]:
            if weights and record.weights[row]:
                first = parted(weights, record.weights[row], self._names)
                found.append(f"the weights after it, first {first}")
            else:
                found.append(f"its update, recorded as {'made' if not weights else 'skipped'}")
        if found and rng != record.rng[row]:
            found.append("other random numbers were drawn")
        if found:
            raise ReplayError(
                f"run.replay: step {step} differs from the record: {'; '.join(found)}"
            )

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """Compare an event with those of its step."""
        said = f"{kind} {canonical_json(fields)}"
        if said not in self._events:
            raise ReplayError(
                f"run.replay: step {fields['step']} differs from the record, which has no such "
                f"event: {said[:200]}"
            )


@contextlib.contextmanager
def gone_back(bundle: Bundle, live: Progress, saved: Checkpoint) -> Generator[Progress]:
    """Everything as it was at a checkpoint, and afterwards as it is now; yields its progress.

    Where the block ends well, at the batch where it is now, everything that was repeated has to be
    the same to the bit.

    Raises:
        ReplayError: a tensor or a number is not.
        InputError: as `Bundle.put`; nothing was changed.
    """
    tensors, documents = bundle.take(live, handed_out=True)
    tensors = {file: {n: t.clone() for n, t in named.items()} for file, named in tensors.items()}
    params = trained(bundle.optimizer)
    grads = [None if param.grad is None else param.grad.clone() for param in params]
    last = bundle.optimizer.last_step
    progress, _ = bundle.put(saved.tensors, saved.documents, saved.path)
    try:
        yield progress
        if progress.batches == live.batches:
            _compare(bundle, progress, tensors, documents)
    finally:
        bundle.put(tensors, documents, saved.path)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        bundle.optimizer.last_step = last


def compare_with(bundle: Bundle, directory: Path) -> Replay:
    """With the record in `directory`."""
    return Replay(RunRecord.read(directory), trained_names(bundle.optimizer))


def checkpoint_before(
    directory: Path, batches: int, steps: int, given: str | Path | None
) -> Checkpoint:
    """The checkpoint in `directory` to repeat `steps` from, of a run that is at `batches`.

    Raises:
        InputError: too few steps follow the one that was given, or each of those there are.
        DamageError, MachineError: as `checkpoint.load.read`.
    """
    if steps < 1:
        raise InputError(f"run.replay: steps={steps}: should be 1 or more")
    if given is not None:
        found = read(Path(given))
        at = int(found.documents["run"]["progress"]["batches"]) if "run" in found.documents else 0
        if at + steps > batches:
            raise InputError(
                f"run.replay: {batches - at} batches follow the checkpoint {given}, not {steps}"
            )
        return found
    there: list[int] = []
    for generation in reversed(generations(directory)):
        with contextlib.suppress(DamageError):
            at = int(read_document(generation.path, "run")["progress"]["batches"])
            if at + steps <= batches:
                return read(generation.path)
            there.append(at)
    raise InputError(
        f"run.replay: the run is at batch {batches}, and no good checkpoint is {steps} or more "
        f"back; they are at {', '.join(map(str, there)) or 'none'}: repeat fewer, or keep more"
    )


def feed(batches: Any, bundle: Bundle, first: int) -> Iterator[Any]:
    """The batches from number `first` on; see `Run.replay`."""
    source = bundle.others.get("sampler") if batches is None else batches
    if not isinstance(source, Iterable):
        if batches is not None:
            raise InputError(f"run.replay: batches: a {type(batches).__name__} is no iterable")
        while True:
            yield first
            first += 1
    drawn = cast("Iterable[Any]", source)
    if isinstance(drawn, Iterator):
        raise InputError("run.replay: batches: give what the iterator was made from: it goes back")
    while True:
        handed = 0
        for batch in drawn:
            handed += 1
            yield batch
        if not handed:
            raise InputError("run.replay: batches: there are none")


def _compare(bundle: Bundle, progress: Progress, tensors: Tensors, documents: Documents) -> None:
    here, said = bundle.take(progress)

    def compared(side: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        return {file: side[file] for file in ("model", "optimizer")}

    differ = [
        *tensors_that_differ(compared(here), compared(tensors)),
        *values_that_differ(said["optimizer"], documents["optimizer"], "optimizer"),
    ]
    if differ:
        raise ReplayError(
            f"run.replay: step {progress.batches - 1} does not lead to where the run is (first: "
            f"repeated, second: the run): {'; '.join(differ[:3])}"
            + (f" and {len(differ) - 3} more" if len(differ) > 3 else "")
        )
