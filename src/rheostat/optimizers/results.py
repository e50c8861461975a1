"""What a step did; where an accelerator knows, read only when somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rheostat.optimizers.restarting import Restarted

ACCUMULATING = "accumulating"
"""How the reason begins where a step was no update because the average is not complete."""
NO_GRADIENT = "no parameter has a gradient"
"""The reason where there was nothing to update by."""

Outcome = tuple[bool, int, str | None, float | None]
"""applied, step, reason, grad_norm."""


def left_out(reason: str | None) -> bool:
    """Whether it says that gradients came, and were not used."""
    return reason is not None and not reason.startswith((ACCUMULATING, NO_GRADIENT))


class StepResult:
    """What one `step()` did.

    `step` is the number of updates applied so far; `reason` says why this one was not.
    `grad_norm` is the global norm of the gradients as they came, None where nothing looked
    (`nonfinite="propagate"`). `restarts` are the cycles that begin with the next update.
    `param_groups[0]["skipped"]` has how many steps were skipped for their gradients so far.

    On an accelerator the answer is there, not here: the first of these that is read, `restarts`
    aside, waits for it.
    """

    __slots__ = ("_outcome", "_read", "_restarts")

    def __init__(
        self,
        applied: bool,
        step: int,
        reason: str | None = None,
        grad_norm: float | None = None,
        restarts: tuple[Restarted, ...] = (),
    ) -> None:
        self._outcome: Outcome | None = (applied, step, reason, grad_norm)
        self._read: Callable[[], Outcome] | None = None
        self._restarts = restarts

    @classmethod
    def later(cls, read: Callable[[], Outcome], restarts: tuple[Restarted, ...] = ()) -> StepResult:
        """A result that `read` gives once it is asked for."""
        made = cls.__new__(cls)
        made._outcome, made._read, made._restarts = None, read, restarts
        return made

    def with_restarts(self, more: tuple[Restarted, ...]) -> StepResult:
        """The same, with more cycles that begin."""
        restarts = self._restarts + more
        if self._read is None:
            return StepResult(*self._known(), restarts)
        return StepResult.later(self._read, restarts)

    def again(self) -> StepResult:
        """The same, to be read again: a CUDA graph that was replayed wrote another answer."""
        return self if self._read is None else StepResult.later(self._read, self._restarts)

    def _known(self) -> Outcome:
        if self._outcome is None:
            assert self._read is not None
            self._outcome = self._read()
        return self._outcome

    @property
    def applied(self) -> bool:
        """Whether there was an update."""
        return self._known()[0]

    @property
    def step(self) -> int:
        """Updates applied so far."""
        return self._known()[1]

    @property
    def reason(self) -> str | None:
        """Why there was no update; None where there was one."""
        return self._known()[2]

    @property
    def grad_norm(self) -> float | None:
        """The global norm of the gradients, None where nothing looked."""
        return self._known()[3]

    @property
    def restarts(self) -> tuple[Restarted, ...]:
        """The cycles that begin with the next update; the host knows them at once."""
        return self._restarts

    def _all(self) -> tuple[Any, ...]:
        return (*self._known(), self._restarts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepResult) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._known())

    def __repr__(self) -> str:
        applied, step, reason, grad_norm, restarts = self._all()
        return f"StepResult({applied=}, {step=}, {reason=}, {grad_norm=}, {restarts=})"

    def __reduce__(self) -> tuple[Any, ...]:
        return StepResult, self._all()
