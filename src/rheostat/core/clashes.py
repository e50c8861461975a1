"""What cannot stand together in a chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rheostat.core.errors import InputError

if TYPE_CHECKING:
    from rheostat.core.transform import Transform


def claim(piece: Transform, kind: str, names: Mapping[str, Any], claimed: dict[str, Any]) -> None:
    """Add the names that a piece declares to those of the pieces before it.

    Raises InputError for a name that one of them has.
    """
    clash = sorted(set(names) & set(claimed))
    if clash:
        raise InputError(
            f"chain: {piece.name} declares the {kind} {clash[0]!r}, which a piece before it "
            "declares already; give one of them a name of its own: named('inner', …)"
        )
    claimed.update(names)


def only_one(pieces: Sequence[Transform], what: str, has: Callable[[Transform], bool]) -> None:
    """Raises InputError where two pieces do `what` one alone may do."""
    found = [piece.name for piece in pieces if has(piece)]
    if len(found) > 1:
        raise InputError(f"chain: both {found[0]} and {found[1]} {what.replace('gives', 'give')}")


def check_mixture(pieces: Sequence[Transform], acts: Callable[[Transform], bool]) -> None:
    """Refuse what would part a piece that mixes from its average.

    `acts` says whether a piece gives another update than it gets.

    Raises:
        InputError: another piece's `after` beside it; a piece that acts behind it.
    """
    place = next((i for i, piece in enumerate(pieces) if piece.mixes), None)
    if place is None:
        return
    mixing = pieces[place].name
    if moving := next((p.name for p in pieces if p.after and not p.mixes), None):
        raise InputError(
            f"chain: {moving} moves the weights once they have been stepped, and those of {mixing} "
            "are a mixture, from which it could not tell its average any more; put it behind a "
            "rule that holds the weights themselves, such as adamw"
        )
    if changing := next((p.name for p in pieces[place + 1 :] if acts(p)), None):
        raise InputError(
            f"chain: {changing} would change the step of {mixing}, which has taken its average by "
            f"then and could not tell it any more; put {changing} before {mixing}"
        )
