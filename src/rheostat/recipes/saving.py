"""Where and when a run saves: its directory held, the file written behind, signals heard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rheostat.checkpoint.attempts import count_start, forget_starts
from rheostat.checkpoint.generations import Keep, generations, hold
from rheostat.checkpoint.load import Checkpoint, newest
from rheostat.checkpoint.save import AsyncWriter
from rheostat.core.errors import InputError
from rheostat.recipes.stopping import StopSignals


class Saver:
    """The checkpoints of one run. `open` takes hold of `directory`, `begin` says that the run
    fits and starts, `close` lets go of everything.

    Args:
        directory: the folder of the generations.
        every: updates from one save to the next; None counts none.
        minutes: from one save to the next; None looks at no clock.
        keep: which checkpoints stay.

    Raises:
        InputError: a number out of its range.
    """

    def __init__(
        self, directory: Path, every: int | None, minutes: float | None, keep: Keep
    ) -> None:
        if every is not None and every < 1:
            raise InputError(f"attach: save_every={every}: should be 1 or more")
        if minutes is not None and not minutes > 0:
            raise InputError(f"attach: save_minutes={minutes}: should be more than 0")
        self.directory = directory
        self._every = every
        self._minutes = minutes
        self._keep = keep
        self._saved = time.monotonic()
        self._opened = contextlib.ExitStack()
        self._writer: AsyncWriter | None = None
        self._signals: StopSignals | None = None

    def open(self, resume: str) -> Checkpoint | None:
        """Hold the directory; return the checkpoint to go on from, None to begin.

        Raises:
            InputError: there is one and `resume` is "never", there is none and it is "must", or
                all are damaged.
            MachineError: another process holds it.
        """
        self._opened.enter_context(hold(self.directory))
        if resume == "never" and generations(self.directory):
            raise InputError(
                f"{self.directory} holds checkpoints: resume='auto' goes on from them; or give "
                "this run a directory of its own"
            )
        found = newest(self.directory)
        if found is None and resume == "must":
            raise InputError(f"{self.directory} holds no checkpoint to go on from")
        self._writer = self._opened.enter_context(AsyncWriter(self.directory, self._keep))
        return found

    def begin(self) -> None:
        """Count this start, and listen to signals from here on.

        Raises:
            MachineError: five starts in a row ended before a save.
        """
        count_start(self.directory)
        self._signals = StopSignals()
        self._opened.callback(self._signals.restore)

    @property
    def stop_code(self) -> int:
        """The exit code that a signal to stop asks for; 0 where none came."""
        return 0 if self._signals is None else self._signals.exit_code

    def is_due(self, applied: int | None) -> bool:
        """Whether to save now; `applied` is the number of the update just applied, if one was."""
        if self._every is not None and applied is not None and applied % self._every == 0:
            return True
        return self._minutes is not None and time.monotonic() - self._saved >= 60 * self._minutes

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        documents: Mapping[str, Mapping[str, Any]],
        score: float | None,
    ) -> None:
        """As `AsyncWriter.save`."""
        self._open_writer().save(step, tensors, documents, score=score)
        self._saved = time.monotonic()

    def check(self) -> None:
        """Raise the error of a save that has failed; never waits."""
        self._open_writer().check()

    def wait(self) -> None:
        """Wait for the save in flight; raises its error."""
        self._open_writer().wait()

    def close(self, well: bool) -> None:
        """Wait for the save in flight and let go of everything; twice is allowed.

        `well` says that the run ends as it should: its starts are forgotten.
        """
        opened, self._opened = self._opened, contextlib.ExitStack()
        with opened:
            if well and self._writer is not None:
                forget_starts(self.directory)
            self._writer = None

    def _open_writer(self) -> AsyncWriter:
        if self._writer is None:
            raise InputError("the run is closed: it neither steps nor saves any more")
        return self._writer
