"""Pieces of a recipe out of a document: components named in lists, each with its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast

import annotated_types as at

from rheostat.core.component import Component
from rheostat.core.hyper import Argument
from rheostat.core.registry import components
from rheostat.recipes.document import KeyPath, quoted
from rheostat.recipes.parts import Data, Piece
from rheostat.recipes.reader import Reader
from rheostat.recipes.schedule_data import takes_chain

MOST = 100
"""Lines of a policy, and pieces of a chain or a regime."""

NAMED = Argument("named", Annotated[str, at.MinLen(1), at.MaxLen(64)], "")

Listed: TypeAlias = Literal["transform", "controller"]
"""What stands in lists: transforms, whose numbers may follow schedules, and controllers."""

_EXAMPLES: Mapping[Listed, str] = {
    "transform": "{transform: clip_by_global_norm, max_norm: 1.0}",
    "controller": "{controller: plateau, patience: 20}",
}


def pieces(
    reader: Reader, written: list[Any], path: KeyPath, kind: Listed = "transform"
) -> tuple[Piece, ...]:
    """The pieces in a list; those that are wrong are noted and left out."""
    if len(written) > MOST:
        reader.report(path, f"has more than {MOST} {kind}s; is it the right file?")
        return ()
    found = [_piece(reader, item, (*path, index), kind) for index, item in enumerate(written)]
    return tuple(piece for piece in found if piece is not None)


def _piece(reader: Reader, item: Any, path: KeyPath, kind: Listed) -> Piece | None:
    """A component: its name alone, or a mapping with its arguments."""
    if isinstance(item, str):
        of = reader.component(path, kind)
        return None if of is None else piece_of(reader, of, path, {}, [], kind)
    given = reader.mapping(path, _EXAMPLES[kind])
    if given is None:
        return None
    key = reader.key_of(path, given, kind)
    if key is None:
        known = ", ".join(c.name for c in components(kind)[:4])
        reader.report(path, f"{kind!r} is missing: a name, such as {known}")
        return None
    component = reader.component((*path, key), kind)
    of = component or reader.meant((*path, key), kind)
    own = [key, NAMED.name] if kind == "transform" else [key]
    made = None if of is None else piece_of(reader, of, path, given, own, kind)
    return None if component is None else made


def _inner(reader: Reader, path: KeyPath, value: Any) -> list[Data] | None:
    """A rule within a transform: a chain of its own, as data."""
    if not isinstance(value, list) or not value:
        shown = quoted(cast("object", value))
        reader.report(path, f"{shown} should be a list of transforms, first to last")
        return None
    return [piece.data() for piece in pieces(reader, cast("list[Any]", value), path)]


def piece_of(
    reader: Reader,
    of: Component,
    path: KeyPath,
    given: Mapping[str, Any],
    own: list[str],
    kind: Listed = "transform",
) -> Piece:
    """The piece that a mapping describes; `own` are its keys that are no arguments."""

    def read(argument: Argument, at_: KeyPath, value: Any) -> Any:
        if takes_chain(argument.annotation):
            return _inner(reader, at_, value)
        scheduled = reader.scheduled if kind == "transform" else reader.value
        return scheduled(argument, at_, value)

    values = reader.arguments(path, given, of, own, read)
    named = ""
    if NAMED.name in own and NAMED.name in given:
        named = reader.value(NAMED, (*path, NAMED.name), given[NAMED.name]) or ""
    return Piece(kind, of.ref, values, named, path)
