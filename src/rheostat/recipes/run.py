"""`Run`: a recipe bound to a model, stepped by a user's loop, recorded and saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError, MachineError
from rheostat.core.schedule import StateAction
from rheostat.optimizers.loop import StepResult
from rheostat.optimizers.plan import Replanned
from rheostat.optimizers.restarting import FIRST_MOMENTS, Restarted
from rheostat.recipes.bundle import Bundle, Progress, noted
from rheostat.recipes.saving import Saver
from rheostat.record.run import RunWriter
from rheostat.schedules.shapes import ShapeName
from rheostat.signals.fingerprint import fingerprint
from rheostat.signals.norms import total_norm


class Run:
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
    ) -> None:
        self.recipe = bundle.recipe
        self.optimizer = bundle.optimizer
        self._bundle = bundle
        self._progress = progress
        self._writer = writer
        self._saver = saver
        self._started = self._told = time.perf_counter()
        self._seconds = seconds

    @property
    def batches(self) -> int:
        """The batches consumed: calls of `step`, those before a resumption too."""
        return self._progress.batches

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
            loss: the loss of this batch, for the record.
            closure: as torch's; its loss is recorded where `loss` is not given.
            scaler: a GradScaler that scaled this loss; it may skip the step.
            batch: the batch; the fingerprint of its content is recorded.
            consumed: what the step took of what schedules count: `{"tokens": 4096}`.

        Raises:
            InputError: both a closure and a scaler (torch's GradScaler takes no closures); a scaler
                that no checkpoint would hold.
            MachineError: the save before this step has failed; nothing was stepped, and the next
                call goes on.
            SystemExit: a signal to stop came; the run is saved and closed.
        """
        if closure is not None and scaler is not None:
            raise InputError("run.step: a GradScaler cannot take a closure; give one of the two")
        if self._saver is not None:
            self._check_saved(self._saver, scaler)
        before = self._before() if self._writer is not None else {}
        if scaler is None:
            returned = self.optimizer.step(closure)
            loss = returned if loss is None else loss
            result = self.optimizer.last_step
            assert result is not None
        else:
            result = self._scaled_step(scaler)
        if self._writer is not None:
            self._record(self._writer, result, loss, before, batch)
        self._progress.batches += 1
        self._count(consumed or {})
        if self.optimizer.last_step is not None:
            self._begin(self.optimizer.last_step.restarts)
        if self._saver is not None:
            self._save_if_due(self._saver, result)
        return result

    def _count(self, consumed: Mapping[str, float]) -> None:
        counts = dict(consumed)
        if self._seconds is not None:
            now = time.perf_counter()
            counts["fraction"] = (now - self._told) / self._seconds
            self._told = now
        if counts:
            self.optimizer.consumed(**counts)

    # -- checkpoints ----------------------------------------------------------------------------

    def save(self, *, score: float | None = None, wait: bool = False) -> None:
        """Save now; returns once everything is copied, or with `wait` once it is on the disk.

        `score` is what `Keep.best` compares; lower is better.

        Raises:
            InputError: the run keeps no checkpoints, or something in it cannot be saved.
            MachineError: the disk failed, now or at the save before; older checkpoints are whole.
        """
        if self._saver is None:
            raise InputError(
                "run.save: this run keeps no checkpoints; attach it with a directory and "
                "resume='auto'"
            )
        if self._writer is not None:
            self._writer.flush()  # first: no checkpoint is ahead of its record
        tensors, documents = self._bundle.take(self._progress)
        self._saver.save(self._updates, tensors, documents, score)
        if wait:
            self._saver.wait()

    @property
    def _updates(self) -> int:
        return int(self.optimizer.param_groups[0]["updates"])

    def _check_saved(self, saver: Saver, scaler: torch.amp.GradScaler | None) -> None:
        saver.check()
        others = self._bundle.others.values()
        if scaler is not None and scaler.is_enabled() and all(o is not scaler for o in others):
            # Restored here it would come too late: the loss was scaled before this step.
            raise InputError(
                "run.step: the scaler would not be saved; attach the run with "
                "extra={'scaler': scaler}"
            )

    def _save_if_due(self, saver: Saver, result: StepResult) -> None:
        code = saver.stop_code
        if code or saver.is_due(result.step if result.applied else None):
            self.save()
        if code:
            self._close(well=True)
            raise SystemExit(code)

    # -- changes of plan: each recorded with the old curve and the new ------------------------

    def extend(self, steps: int, hyperparameter: str = "lr") -> None:
        """Move the horizon out; see `Plan.extend`."""
        self._change("extend", {"steps": steps, "hyperparameter": hyperparameter})

    def change_peak(
        self, peak: float, hyperparameter: str = "lr", old_peak: float | None = None
    ) -> None:
        """Another peak from here on; see `Plan.change_peak`."""
        arguments = {"peak": peak, "old_peak": old_peak}
        self._change("change_peak", {**arguments, "hyperparameter": hyperparameter})

    def cool_down(
        self,
        steps: int,
        shape: ShapeName = "linear",
        floor: float = 0.0,
        hyperparameter: str = "lr",
    ) -> None:
        """Down to `floor` at `steps`, from here; see `Plan.cool_down`."""
        arguments = {"steps": steps, "shape": shape, "floor": floor}
        self._change("cool_down", {**arguments, "hyperparameter": hyperparameter})

    def restart(
        self, state: StateAction | None = None, factor: float = 0.5, hyperparameter: str = "lr"
    ) -> None:
        """Begin the schedule again with the next update; see `Plan.restart`."""
        self._begin(self.optimizer.plan.restart(state, factor, hyperparameter))

    def _change(self, operation: str, arguments: Mapping[str, Any]) -> None:
        # Noted before, kept once it is done: a resumed run makes the same change at the same place.
        note = noted(self.optimizer, operation, arguments)
        changes: list[Replanned] = getattr(self.optimizer.plan, operation)(**arguments)
        self._progress.changes.append(note)
        for change in changes if self._writer is not None else []:
            assert self._writer is not None
            about = {"step": self.batches, "operation": operation, "group": change.group}
            curves = {"old": change.old.written(), "new": change.new.written()}
            named = {"hyperparameter": change.hyperparameter, "at": change.at}
            self._writer.event("replan", {**about, **named, **curves})

    def note(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Record an event of your own, such as a validation, at this place of the run.

        Raises:
            InputError: the run is closed. ValueError: the kind is one of the record's own.
        """
        if self._writer is not None:
            self._writer.event(kind, {"step": self.batches, **fields})

    def finish(
        self,
        metrics: Mapping[str, float],
        status: str = "done",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the outcome and close. `status` is "done" or "diverged"."""
        if about and "seconds" in about:
            raise InputError(
                "finish: about: the key 'seconds' is the record's own; give yours another"
            )
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
        try:
            if self._saver is not None:
                self._saver.close(well)
        finally:
            if self._writer is not None:
                self._writer.close()

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
        self.optimizer.last_step = None
        scaler.step(self.optimizer)
        scaler.update()
        # The annotation undoes the narrowing: scaler.step may have called optimizer.step.
        result = cast("StepResult | None", self.optimizer.last_step)
        if result is None:
            result = StepResult(False, self._updates, "the GradScaler found a non-finite gradient")
            self.optimizer.last_step = result
        return result

    def _begin(self, restarts: tuple[Restarted, ...]) -> None:
        """Keep restarts for the record until the update that they begin with."""
        if self._writer is not None:
            self._progress.begun += [_account(begun) for begun in restarts]

    def _before(self) -> dict[str, float]:
        """The hyperparameters that the coming update runs with: lr, and whatever is scheduled."""
        group = self.optimizer.param_groups[0]
        return {name: _number(group[name]) for name in ("lr", *self.optimizer.scheduled(0))}

    def _record(
        self,
        writer: RunWriter,
        result: StepResult,
        loss: Tensor | float | None,
        before: dict[str, float],
        batch: Any,
    ) -> None:
        values = before
        number = loss.item() if isinstance(loss, Tensor) else loss
        values["loss"] = math.nan if number is None else float(number)
        values["grad_norm"] = math.nan if result.grad_norm is None else result.grad_norm
        values["momentum_norm"] = total_norm(
            [
                state[name]
                for state in self.optimizer.state.values()
                for name in FIRST_MOMENTS
                if name in state
            ]
        )
        if result.applied:
            # Before the step's own row: they are what this update begins with.
            for begun in self._progress.begun:
                writer.event("restart", {"step": self.batches, **begun})
            self._progress.begun.clear()
        writer.step(self.batches, values, None if batch is None else fingerprint(batch))
        if not result.applied:
            writer.event("skipped", {"step": self.batches, "reason": result.reason})


def _number(value: Any) -> float:
    """A hyperparameter as one number: of a tuple (betas) the first."""
    return float(cast("tuple[float, ...]", value)[0] if isinstance(value, tuple) else value)


def _account(begun: Restarted) -> dict[str, Any]:
    """A restart as it is recorded: where, how long, the jump, and what became of the state."""
    return {
        "hyperparameter": begun.hyperparameter,
        "group": begun.group,
        "cycle": begun.restart.cycle,
        "length": begun.restart.length,
        "before": begun.restart.before,
        "after": begun.restart.after,
        "ratio": begun.restart.ratio,
        "state": begun.policy.action,
        "norms": {name: list(pair) for name, pair in begun.norms.items()},
    }
