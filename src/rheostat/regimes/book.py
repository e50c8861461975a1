"""The book of accounts: numbers them, counts what is refused again and again, adds the outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from rheostat.core.controller import Decision
from rheostat.regimes.account import Account, Act, Outcome, Verdict

_TOLD = 100
"""Refusals of the same, after which their number is told again."""


class Book:
    """Collects the accounts of a step; `take` hands them over."""

    def __init__(self, window: int, dry: bool = False) -> None:
        self.window = window
        self.dry = dry
        self._number = 0
        self._now: dict[str, int] = {}
        self._before = math.nan
        self._written: list[Account] = []
        self._open: list[tuple[Account, float, list[float]]] = []
        self._refused: dict[str, Account] = {}

    def begin(self, at: int, step: int, segment: int, before: float) -> None:
        """A step begins; `before` is the median of the losses up to it."""
        # A dry run has not gone back.
        self._now = {"at": at, "step": step, "segment": 0 if self.dry else segment}
        self._before = before

    def add(self, applied: bool, loss: float) -> None:
        """Take a loss in, for the outcomes that are not known yet."""
        if applied and math.isfinite(loss):
            for _, _, losses in self._open:
                losses.append(loss)

    def tell(
        self,
        who: str,
        verdict: Verdict,
        reason: str,
        *,
        asked: Decision | None = None,
        done: Act | None = None,
        subject: str | None = None,
        values: tuple[float, float] | None = None,
        evidence: Mapping[str, float] | None = None,
        about: int | None = None,
    ) -> int:
        """Write an account; returns its number."""
        before, after = values or (None, None)
        account = Account(
            number=self._number,
            at=self._now["at"],
            step=self._now["step"],
            segment=self._now["segment"],
            who=who,
            verdict=verdict,
            reason=reason,
            asked=asked and asked.written(),
            done=done and done.written(),
            hyperparameter=subject,
            before=before,
            after=after,
            evidence={**(asked.evidence if asked else {}), **(evidence or {})},
            about=about,
            dry=self.dry,
        )
        self._number += 1
        self._end_streak(who)
        self._written.append(account)
        if done is not None:
            self._open.append((account, self._before, []))
        return account.number

    def refuse(self, who: str, asked: Decision, subject: str | None, why: str) -> None:
        """Write that something was refused; what is refused in a row for one reason, once."""
        last = self._refused.get(who)
        if last is not None and (last.hyperparameter, last.reason[: len(why)]) == (subject, why):
            again = self._refused[who] = replace(last, times=last.times + 1)
            if again.times % _TOLD == 0:
                self._written.append(again)
            return
        self.tell(who, "refused", f"{why}; asked: {asked.reason}", asked=asked, subject=subject)
        self._refused[who] = self._written[-1]

    def _end_streak(self, who: str) -> None:
        last = self._refused.pop(who, None)
        if last is not None and last.times > 1 and last.times % _TOLD:
            self._written.append(last)

    def finish(self) -> list[Account]:
        """How often was refused what was refused until the end of a run."""
        for who in [*self._refused]:
            self._end_streak(who)
        return self.take()

    def take(self) -> list[Account]:
        """What was written since the last time, and what has its outcome now."""
        for account, before, losses in self._open:
            if len(losses) >= self.window:
                self._written.append(replace(account, outcome=Outcome(before, median(losses))))
        self._open = [entry for entry in self._open if len(entry[2]) < self.window]
        written, self._written = self._written, []
        return written

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "number": self._number,
            "open": [
                [account.written(), before, [*losses]] for account, before, losses in self._open
            ],
            "refused": {who: account.written() for who, account in self._refused.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was."""
        self._number = state["number"]
        self._open = [(Account.read(a), before, [*losses]) for a, before, losses in state["open"]]
        self._refused = {who: Account.read(a) for who, a in state["refused"].items()}
