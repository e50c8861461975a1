"""`Run`: a recipe bound to a model, stepped by a user's loop, recorded and saved."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError, MachineError
from rheostat.optimizers.results import StepResult
from rheostat.recipes.bundle import Bundle, Progress
from rheostat.recipes.given import check_reported, check_step
from rheostat.recipes.oversight import Oversight
from rheostat.recipes.planned import Planned
from rheostat.recipes.recording import Recorder
from rheostat.recipes.replaying import checkpoint_before, compare_with, feed, gone_back
from rheostat.recipes.saving import Saver
from rheostat.record.writer import RunWriter
from rheostat.signals.fingerprint import fingerprint


class Run(Planned):
    """A training run: call `step` after each backward pass, `close` at the end.

    As a context manager it closes itself; a run left by an error stays recorded as unfinished.

    With checkpoints (`attach(…, resume="auto")`), SIGTERM and SIGINT let the step in hand finish;
    then the run saves and leaves by SystemExit, with the exit code 143 or 130.
    """

    def __init__(
        self,
        bundle: Bundle,
        progress: Progress,
        writer: RunWriter | None,
        saver: Saver | None,
        seconds: float | None = None,
        oversight: Oversight | None = None,
    ) -> None:
        self.recipe = bundle.recipe
        self._loop = bundle.optimizer
        self.optimizer = bundle.shown
        self._bundle = bundle
        self._progress = progress
        self._writer = writer
        self._recorder = None if writer is None else Recorder(writer, self._loop)
        self._saver = saver
        self._started = self._told = time.perf_counter()
        self._seconds = seconds
        self._oversight = oversight
        self._left: int = self._updates  # by our last step: more of them are somebody else's
        self._replaying = False
        self._closed = False
        self._loop.plan.listener, self._loop.plan.begun = self._replanned, self._begin

    @property
    def batches(self) -> int:
        """The batches consumed: calls of `step`, those before a resumption too. A step that is
        made by the optimizer itself, and not by the run, is none."""
        return self._progress.batches

    @property
    def signals(self) -> Mapping[str, float]:
        """The latest value of each signal that is measured; NaN where there is none yet."""
        return {} if self._oversight is None else self._oversight.monitor.values

    @property
    def stop_reason(self) -> str | None:
        """Why training should end, where a controller says so; the loop decides."""
        return None if self._oversight is None else self._oversight.hands.stop_reason

    def report(self, **values: float) -> None:
        """Say what no signal can see for itself: `report(validation=0.31)`. It counts for the
        coming step; without signals nobody hears it. Raises InputError for another name."""
        self._check_open("report")
        seen = self._oversight
        check_reported(values, () if seen is None else seen.monitor.signals.values())
        if seen is not None:
            seen.report(values)

    def step(
        self,
        loss: Tensor | float | None = None,
        *,
        closure: Callable[[], Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        batch: Any = None,
        consumed: Mapping[str, float] | None = None,
    ) -> StepResult:
        """One update from the gradients that are there, recorded.

        Args:
            loss: the loss of this batch, for the record; a regime cannot do without.
            closure: as torch's; its loss is recorded where `loss` is not given.
            scaler: a GradScaler that scaled this loss; it may skip the step.
            batch: the batch; the fingerprint of its content is recorded.
            consumed: what the step took of what schedules count: `{"tokens": 4096}`.

        Raises:
            InputError: a loss that is no number, or none where a regime judges by it; both a
                closure and a scaler (torch's GradScaler takes no closures); a scaler that no
                checkpoint would hold; the run is closed.
            ReplayError: in a replay, something is not as it was recorded.
            MachineError: the save before this step has failed; nothing was stepped, and the next
                call goes on.
            SystemExit: a signal to stop came; the run is saved and closed.

        Warns:
            UserWarning: somebody called `optimizer.step` since; the record says so.
        """
        self._check_open("step")
        check_step(loss, closure, consumed)
        if closure is not None and scaler is not None:
            raise InputError("run.step: a GradScaler cannot take a closure; give one of the two")
        if loss is None and closure is None and self._oversight is not None:
            self._oversight.check_no_loss()
        saver = None if self._replaying else self._saver
        if saver is not None:
            self._check_saved(saver, scaler)
        self._tell_of_other_updates()
        values = {} if self._recorder is None else self._recorder.before()
        oversight, counts = self._oversight, consumed or {}
        if scaler is None:
            watched = (
                closure if closure is None or oversight is None else oversight.watched(closure)
            )
            returned = self._loop.step(watched)
            loss = returned if loss is None else loss
            result = self._loop.last_step
            assert result is not None
        else:
            result = self._scaled_step(scaler)
        if oversight is not None:
            values |= oversight.measure(result, loss, counts)
        progress = self._progress
        if self._recorder is not None:
            self._recorder.step(progress.batches, result, loss, values, batch, progress.begun)
            if result.applied:
                progress.begun.clear()
        progress.batches += 1
        self._count(counts)
        if self._loop.last_step is not None:
            self._begin(self._loop.last_step.restarts)
        if oversight is not None:
            decided = oversight.decide(result, progress)
            if self._recorder is not None:
                self._recorder.decided(progress.batches - 1, decided)
        self._left = self._updates
        if saver is not None:
            self._save_if_due(saver, result)
        return result

    def _count(self, consumed: Mapping[str, float]) -> None:
        counts = dict(consumed)
        if self._seconds is not None:
            now = time.perf_counter()
            counts["fraction"] = (now - self._told) / self._seconds
            self._told = now
        if counts:
            self._loop.consumed(**counts)

    # -- checkpoints ----------------------------------------------------------------------------

    def save(self, *, score: float | None = None, wait: bool = False) -> None:
        """Save now; returns once everything is copied, or with `wait` once it is on the disk.

        `score` is what `Keep.best` compares; lower is better. In a replay nothing is saved.

        Raises:
            InputError: the run keeps no checkpoints or is closed, or something in it cannot be
                saved.
            MachineError: the disk failed, now or at the save before; older checkpoints are whole.
        """
        saver = self._checkpoints("save")
        if self._replaying:
            return
        if self._writer is not None:
            self._writer.flush()  # first: no checkpoint is ahead of its record
        tensors, documents = self._bundle.take(self._progress)
        saver.save(self._updates, tensors, documents, score)
        if wait:
            saver.wait()

    def _checkpoints(self, method: str) -> Saver:
        self._check_open(method)
        if self._saver is None:
            raise InputError(
                f"run.{method}: this run keeps no checkpoints; attach it with a directory and "
                "resume='auto'"
            )
        return self._saver

    @property
    def _updates(self) -> int:
        return int(self._loop.param_groups[0]["updates"])

    def _check_saved(self, saver: Saver, scaler: torch.amp.GradScaler | None) -> None:
        saver.check()
        others = self._bundle.others.values()
        if scaler is not None and scaler.is_enabled() and all(o is not scaler for o in others):
            # Restored here it would come too late: the loss was scaled before this step.
            raise InputError(
                "run.step: the scaler would not be saved; attach the run with "
                "extra={'scaler': scaler}"
            )

    def _save_if_due(self, saver: Saver, result: StepResult | None) -> None:
        """Save where it is time, and leave where a signal asks to; without a result only that."""
        code = saver.stop_code
        if code or (result and saver.is_due(result.step if result.applied else None)):
            self.save()
        if code:
            self._close(well=True)
            raise SystemExit(code)

    def replay(
        self, steps: int, batches: Any = None, *, checkpoint: str | Path | None = None
    ) -> Iterator[Any]:
        """Repeat recorded steps from a checkpoint, and compare each with what was recorded::

            for indices in run.replay(20):
                ...  # what the loop does with a batch, run.step included

        The run goes back to the checkpoint, everything that was saved with it too, the generators
        and the sampler; at the end, or when the loop is left, it is where it was. Nothing is
        recorded, nothing is saved. It needs as much memory as a checkpoint takes, twice.

        Args:
            steps: how many batches.
            batches: what to draw them from, such as the loader of the loop; begun anew where it
                ends. None draws from the `sampler` that `attach` was given, or, without one, hands
                out the number of each batch.
            checkpoint: the folder of the one to begin from; None takes the newest that so many
                recorded steps follow. Those since then are repeated from it on.

        Raises:
            ReplayError: the first difference: which step, and what differs. Or, where the repeated
                steps lead to where the run is, the first tensor of the model or the optimizer that
                is not the same to the bit.
            InputError: no such checkpoint, the run is closed, nested replays, or schedules that
                follow the clock; a loop that does not call `run.step` once a batch.
        """
        saver, bundle = self._checkpoints("replay"), self._bundle
        assert self._writer is not None  # checkpoints have a directory, and so has the record
        if self._replaying:
            raise InputError("run.replay: this is a replay already")
        if self._seconds is not None:
            raise InputError("run.replay: with seconds=… the run follows the clock, which goes on")
        saver.wait()
        self._writer.flush()
        saved = checkpoint_before(saver.directory, self.batches, steps, checkpoint)
        comparison = compare_with(bundle, self._writer.directory)
        here = self._progress, self._recorder, self._left
        try:
            with gone_back(bundle, self._progress, saved) as self._progress:
                self._recorder, self._left = Recorder(comparison, self._loop), self._updates
                self._replaying = True
                numbers = range(self.batches, self.batches + steps)
                for number, drawn in zip(
                    numbers, feed(batches, bundle, self.batches), strict=False
                ):
                    yield drawn
                    if self.batches != number + 1:
                        raise InputError(
                            f"run.replay: batch {number} took {self.batches - number} calls of "
                            "run.step; one is right"
                        )
                    if saver.stop_code:
                        break
        finally:
            self._replaying = False
            self._progress, self._recorder, self._left = here
        self._save_if_due(saver, None)

    def note(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Record an event of your own, such as a validation, at this place of the run; a replay
        records nothing. Raises InputError where the run is closed, ValueError for a kind of the
        record's own.
        """
        self._check_open("note")
        if self._writer is not None and not self._replaying:
            self._writer.event(kind, {"step": self.batches, **fields})

    def finish(
        self,
        metrics: Mapping[str, float],
        status: str = "done",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the outcome and close. `status` is "done" or "diverged"."""
        self._check_open("finish")
        if about and "seconds" in about:
            raise InputError(
                "finish: about: the key 'seconds' is the record's own; give yours another"
            )
        self._tell_rest()
        if self._writer is not None:
            seconds = time.perf_counter() - self._started
            weights = fingerprint(self._bundle.model.state_dict())
            self._writer.finish(status, metrics, weights, {"seconds": seconds, **(about or {})})
        self.close()

    def close(self) -> None:
        """Write out what is buffered, wait for the save in flight, and let the directory go.

        Raises:
            MachineError: the disk failed.
            SystemExit: a signal to stop came after the last step.
        """
        self._close(well=True)
        if self._saver is not None and self._saver.stop_code:
            raise SystemExit(self._saver.stop_code)

    def _close(self, well: bool) -> None:
        self._closed = True
        self._loop.plan.listener = self._loop.plan.begun = None
        try:
            self._tell_rest()
            if self._saver is not None:
                self._saver.close(well)
        finally:
            if self._writer is not None:
                self._writer.close()

    def _tell_rest(self) -> None:
        """Record what the regime has still to say, once."""
        if self._oversight is not None and self._recorder is not None:
            self._recorder.decided(self.batches - 1, self._oversight.finish())

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self._close(well=False)
        except MachineError as failure:
            error.add_note(str(failure))  # the first error is the one to report

    def _scaled_step(self, scaler: torch.amp.GradScaler) -> StepResult:
        self._loop.last_step = None
        scaler.step(self.optimizer)
        scaler.update()
        # The annotation undoes the narrowing: scaler.step may have called optimizer.step.
        result = cast("StepResult | None", self._loop.last_step)
        if result is None:
            result = StepResult(False, self._updates, "the GradScaler found a non-finite gradient")
            self._loop.last_step = result
        return result

    def _tell_of_other_updates(self) -> None:
        """Say so where somebody else stepped the optimizer: no batch was counted for it."""
        made, self._left = self._updates - self._left, self._updates
        if made:
            warnings.warn(
                f"run.step: {made} updates were made by optimizer.step itself since batch "
                f"{self.batches}; they are not recorded and run.batches does not count them: call "
                "run.step in its place",
                stacklevel=3,
            )
            if self._recorder is not None:
                self._recorder.stepped_aside(self.batches, made)
