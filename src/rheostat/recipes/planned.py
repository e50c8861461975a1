"""`Planned`: what a run offers to change of its plan, each change recorded with both curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rheostat.core.errors import InputError
from rheostat.core.schedule import StateAction
from rheostat.optimizers.followed import Followed
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.plan import Groups, Replanned
from rheostat.optimizers.restarting import Restarted
from rheostat.recipes.bundle import Progress, noted
from rheostat.recipes.recording import Recorder, account
from rheostat.recipes.saving import Saver
from rheostat.schedules.shapes import ShapeName


class Planned:
    """A run as far as its schedules are concerned."""

    _loop: Optimizer | Followed
    _progress: Progress
    _recorder: Recorder | None
    _saver: Saver | None
    _closed: bool

    def extend(self, steps: int, hyperparameter: str = "lr", *, group: Groups = None) -> None:
        """Move the horizon; see `Plan.extend`."""
        self._loop.plan.extend(steps, hyperparameter, group=group)

    def change_peak(
        self,
        peak: float,
        hyperparameter: str = "lr",
        old_peak: float | None = None,
        *,
        group: Groups = None,
    ) -> None:
        """Another peak from here on; see `Plan.change_peak`."""
        self._loop.plan.change_peak(peak, hyperparameter, old_peak, group=group)

    def cool_down(
        self,
        steps: int,
        shape: ShapeName = "linear",
        floor: float = 0.0,
        hyperparameter: str = "lr",
        *,
        group: Groups = None,
    ) -> None:
        """Down to `floor` at `steps`, from here; see `Plan.cool_down`."""
        self._loop.plan.cool_down(steps, shape, floor, hyperparameter, group=group)

    def restart(
        self,
        state: StateAction | None = None,
        factor: float = 0.5,
        hyperparameter: str = "lr",
        *,
        group: Groups = None,
    ) -> None:
        """Begin the schedule again with the next update; see `Plan.restart`."""
        self._check_open("restart")
        self._loop.plan.restart(state, factor, hyperparameter, group=group)

    def _replanned(
        self, operation: str, arguments: Mapping[str, Any], changes: Sequence[Replanned]
    ) -> None:
        """Note a change of plan, whoever makes it: a resumed run makes it again."""
        if operation == "change" and self._saver is not None:
            raise InputError(
                "plan.change: a run with checkpoints could not make this change again when it "
                "resumes; use run.extend, run.change_peak, run.cool_down or run.restart"
            )
        if self._recorder is not None:
            self._recorder.replanned(self._progress.batches, operation, changes)
        self._progress.changes.append(noted(self._loop, operation, arguments))

    def _begin(self, restarts: Sequence[Restarted]) -> None:
        """Keep restarts for the record until the update that they begin with."""
        if self._recorder is not None:
            self._progress.begun += [account(begun) for begun in restarts]

    def _check_open(self, method: str) -> None:
        if self._closed:
            raise InputError(
                f"run.{method}: the run is closed; attach it again, with resume='auto' to go on"
            )
