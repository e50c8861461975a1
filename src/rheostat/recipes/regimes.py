"""From the parts of a recipe to the regime of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rheostat.core.controller import Controller
from rheostat.core.errors import InputError, MachineError
from rheostat.core.hyper import arguments_of
from rheostat.core.registry import component
from rheostat.recipes.build import placed
from rheostat.recipes.parts import Parts, Piece, RegimePart, without
from rheostat.regimes.grants import Terms
from rheostat.regimes.knobs import Bounds
from rheostat.regimes.regime import Regime
from rheostat.regimes.safeguard import Care


def make_regime(parts: Parts) -> Regime | None:
    """The regime of a recipe; None where it has neither controllers nor safeguards.

    Not for a recipe that replays a run: what was decided there, its record says.

    Raises:
        PlacedError: a controller refuses its arguments.
    """
    regime = parts.regime or RegimePart(())
    if not regime.controllers and parts.safeguards is None:
        return None
    terms = terms_of(regime.terms)
    care = None if parts.safeguards is None else Care(**parts.safeguards)
    return Regime(controllers_of(regime), terms, care, dry_run=regime.dry_run)


def controllers_of(regime: RegimePart) -> list[Controller]:
    """The controllers of a regime. Raises PlacedError where one refuses its arguments."""
    return [_made(piece) for piece in regime.controllers]


def _made(piece: Piece) -> Controller:
    try:
        return component(piece.ref, piece.kind).factory(**piece.values)
    except (InputError, MachineError) as error:
        raise placed(piece, error) from None


def terms_of(terms: Mapping[str, Any]) -> Terms:
    """The terms that a recipe writes out."""
    own = arguments_of(Bounds)["own"].check(terms["bounds"]["own"])[0]
    bounds = Bounds(**{**terms["bounds"], "own": own})
    return Terms(bounds=bounds, **without(terms, ("bounds",)))
