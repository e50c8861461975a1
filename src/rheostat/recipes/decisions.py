"""What decides in a run: its recipe's regime, or the decisions of another run."""

from __future__ import annotations

import warnings

from rheostat.core.errors import InputError
from rheostat.recipes.diff import differences
from rheostat.recipes.document import show
from rheostat.recipes.parts import Parts, without
from rheostat.recipes.recipe import Recipe
from rheostat.recipes.regimes import make_regime
from rheostat.record.find import run_directory
from rheostat.record.run import RunRecord
from rheostat.regimes.account import Account
from rheostat.regimes.regime import Regime
from rheostat.regimes.replay import Replay

_WATCHING = ("regime", "safeguards", "silence")


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
    theirs = Recipe.load(record.header["recipe"]).parts
    if theirs.regime is not None and theirs.regime.replay is not None:
        said = f"is a replay itself, of {theirs.regime.replay}: replay that one"
        raise InputError(f"regime: replay: the run {asked.replay} {said}")
    made = make_regime(theirs)
    if made is None:
        raise InputError(f"regime: replay: the run {asked.replay} had no regime")
    _warn_of_another_recipe(asked.replay, parts, theirs)
    return Replay(decisions(record), made.terms.bounds, dry_run=made.dry_run)


def _warn_of_another_recipe(run: str, ours: Parts, theirs: Parts) -> None:
    """Say which keys differ: a decision means what it meant only where all else is the same."""
    first, second = (without(one.data(), _WATCHING) for one in (theirs, ours))
    keys = dict.fromkeys(show(one.path) for one in differences(first, second))
    if keys:
        listed = ", ".join([*keys][:5]) + (", …" if len(keys) > 5 else "")
        warnings.warn(
            f"regime: replay: the run {run} had another recipe ({listed}): its decisions are made "
            "again where they can be, and mean something else here",
            stacklevel=4,  # in the program that attaches
        )


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
