"""Replays: a run made again with the decisions of another, at the same steps."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rheostat.core.controller import Now, RollBack
from rheostat.core.errors import InputError
from rheostat.regimes.account import Account
from rheostat.regimes.actuator import Actuator
from rheostat.regimes.hands import Hands
from rheostat.regimes.knobs import Bounds


class Replay:
    """Takes the place of a `Regime`: carries out what its accounts say was done, and decides
    nothing. What a dry run would have done is not done.

    Args:
        accounts: of the run, in their order.
        bounds: those of the run: they say how fast factors move.
        dry_run: whether that was one.
    """

    needs: tuple[str, ...] = ()

    def __init__(
        self, accounts: Iterable[Account], bounds: Bounds | None = None, *, dry_run: bool = False
    ) -> None:
        self.dry_run = dry_run
        # An account comes again once its outcome is known; what was done is the same.
        newest = {account.number: account for account in accounts}
        self._due: dict[int, list[Account]] = {}
        for account in sorted(newest.values(), key=lambda one: one.number):
            if account.done is not None and not account.dry:
                self._due.setdefault(account.at, []).append(account)
        self._taken = {
            account.at - act.before
            for accounts in self._due.values()
            for account in accounts
            if isinstance(act := account.act, RollBack)
        }
        """When a state was taken that the run went back to."""
        self.actuator = Actuator(bounds or Bounds(), max(1, len(self._taken)))
        self.at = 0

    def after(self, now: Now, hands: Hands) -> list[Account]:
        """What was done after this step, done again; its accounts. What these hands cannot do, and
        those of the run could, is refused there."""
        del now
        self.at += 1
        if self.at in self._taken:
            self.actuator.ring.remember(hands, self.at).good = True
        accounts = [self._again(account, hands) for account in self._due.get(self.at, [])]
        self.actuator.advance(hands)
        return accounts

    def _again(self, account: Account, hands: Hands) -> Account:
        act = account.act
        assert act is not None
        try:
            self.actuator.carry_out(account.who, act, self.at, hands)
        except InputError as cannot:
            why = f"{account.reason}; not done again: {cannot}"
            return replace(account, verdict="refused", done=None, reason=why, outcome=None)
        return account

    def finish(self) -> list[Account]:
        """Nothing is left to tell when a run ends."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as plain values."""
        return copy.deepcopy({"at": self.at, "actuator": self.actuator.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another replay of the same accounts was."""
        self.at = state["at"]
        self.actuator.load_state_dict(copy.deepcopy(state["actuator"]))
