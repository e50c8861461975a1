"""What decides in a run: its recipe's regime, or the decisions of another run."""

from __future__ import annotations

from rheostat.core.errors import InputError
from rheostat.recipes.parts import Parts
from rheostat.recipes.recipe import Recipe
from rheostat.recipes.regimes import make_regime
from rheostat.record.find import run_directory
from rheostat.record.run import RunRecord
from rheostat.regimes.account import Account
from rheostat.regimes.regime import Regime
from rheostat.regimes.replay import Replay


def regime_of(parts: Parts) -> Regime | Replay | None:
    """The regime that a recipe asks for; None where it asks for none.

    Raises:
        InputError: the run whose decisions are to be made again is not there, or had no regime.
        MachineError: the store cannot be read.
    """
    asked = parts.regime
    if asked is None or asked.replay is None:
        return make_regime(parts)
    record = RunRecord.read(run_directory(asked.replay))
    made = make_regime(Recipe.load(record.header["recipe"]).parts)
    if made is None:
        raise InputError(f"regime: replay: the run {asked.replay} had no regime")
    return Replay(decisions(record), made.terms.bounds)


def decisions(record: RunRecord) -> list[Account]:
    """The accounts of a run, in their order; one comes again once its outcome is known.

    Raises InputError for an event that is no account.
    """
    found: list[Account] = []
    for event in record.events:
        if event.kind == "decision":
            fields = dict(event.fields)
            fields["step"] = fields.pop("update")
            found.append(Account.read(fields))
    return found
