"""Accounts: what became of each decision, as plain values that a person and a program can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from rheostat.core import controller
from rheostat.core.controller import Decision, Request, spelled
from rheostat.core.errors import InputError

SAFEGUARD = "safeguard"
"""Who it is in accounts, and whose part it is in factors."""


@dataclass(frozen=True, kw_only=True)
class Ease(Request):
    """Take back parts of factors, gently: those of one controller or of all, on one hyperparameter
    or on all. Only the arbiter and the safeguard decide so; the safeguard's part is only its own to
    take back."""

    kind: ClassVar[str] = "ease"

    who: str | None = None
    hyperparameter: str | None = None


@dataclass(frozen=True, kw_only=True)
class LeaveOut(Request):
    """Skip a batch wherever it comes again."""

    kind: ClassVar[str] = "leave_out"

    position: int


@dataclass(frozen=True, kw_only=True)
class Wait(Request):
    """Leave out every update until further notice, or go on. Only the safeguard decides so.

    `late`: how many were left out, where schedules are to end on time all the same.
    """

    kind: ClassVar[str] = "wait"

    on: bool
    late: int = 0


Act = Decision | Ease | LeaveOut | Wait
_OWN: Mapping[str, type[Ease | LeaveOut | Wait]] = {o.kind: o for o in (Ease, LeaveOut, Wait)}


Verdict = Literal["accepted", "bounded", "refused", "trial", "kept", "undone"]
"""accepted: done as asked. bounded: done, but less of it. refused: not done. trial: done, and under
measurement; `kept` or `undone` follows, with the trial's number in `about`. undone: taken back by
the arbiter, after a trial or because a signal is missing or the budget is spent."""


@dataclass(frozen=True)
class Outcome:
    """What the loss did: its median in a window before the decision, and in the one after."""

    before: float
    after: float


@dataclass(frozen=True)
class Account:
    """One decision, and what became of it.

    Attributes:
        number: counts the accounts of a run; the same account comes again once its outcome is
            known, and the later one replaces it.
        at: steps that the regime had seen, skipped ones too; a roll back does not take it back.
        step: updates applied, `segment` how often the run had been rolled back.
        who: the controller; "arbiter" or "safeguard" where they act by themselves.
        asked: the decision as it was asked for, `done` as it was carried out; None where nothing
            was asked, or done. Both as `Request.written` writes them.
        hyperparameter: what it is about, None where it is none.
        before, after: the value of the hyperparameter in the first group that has it, for the
            coming update without the decision, and where the decision leads.
        reason: in words: the controller's, and where it was bounded, refused or undone, why.
        evidence: the numbers that triggered it.
        about: the number of the trial that this one ends.
        times: how often in a row the same was refused, for the same reason; told once.
        dry: nothing was done: the run only says what would have been.
        outcome: of what was done, once it is known.
    """

    number: int
    at: int
    step: int
    segment: int
    who: str
    verdict: Verdict
    reason: str
    asked: Mapping[str, Any] | None = None
    done: Mapping[str, Any] | None = None
    hyperparameter: str | None = None
    before: float | None = None
    after: float | None = None
    evidence: Mapping[str, float] = field(default_factory=dict[str, float])
    about: int | None = None
    times: int = 1
    dry: bool = False
    outcome: Outcome | None = None

    def written(self) -> dict[str, Any]:
        """As plain values that strict JSON holds."""
        return spelled(asdict(self))

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Account:
        """What `written` gave. Raises InputError for anything else."""
        fields = dict(written)
        try:
            said = fields.pop("outcome", None)
            outcome = said and Outcome(float(said["before"]), float(said["after"]))
            fields["evidence"] = {k: float(v) for k, v in fields.get("evidence", {}).items()}
            for name in ("before", "after"):
                fields[name] = None if fields[name] is None else float(fields[name])
            return cls(**fields, outcome=outcome)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"this is no account of a decision: {error!r}") from None

    @property
    def act(self) -> Act | None:
        """What was carried out. Raises InputError for what cannot be read."""
        if self.done is None:
            return None
        own = _OWN.get(self.done["kind"])
        if own is None:
            return controller.read(self.done)
        try:
            return own(**{key: value for key, value in self.done.items() if key != "kind"})
        except TypeError as error:
            raise InputError(f"this is no act of a regime: {error}") from None
