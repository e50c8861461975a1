"""The grammar of what watches over a run: `regime` and `safeguards`, and what each stands for.

The terms of a regime and of its safeguard are the fields of dataclasses (`Terms`, `Bounds`,
`Care`), whose annotations are their schema, as a signature is that of a component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, cast

import annotated_types as at

from rheostat.core.hyper import Argument, arguments_of
from rheostat.recipes.document import KeyPath, quoted
from rheostat.recipes.parts import Data, RegimePart, as_data, standard
from rheostat.recipes.pieces import pieces
from rheostat.recipes.reader import Reader
from rheostat.regimes.grants import Terms
from rheostat.regimes.safeguard import Care

WATCHING = ("regime", "safeguards")
"""The keys of a recipe that are about the run, whoever's optimizer it has."""

DRY_RUN = Argument("dry_run", bool, False)
REPLAY = Argument("replay", Annotated[str, at.MinLen(1), at.MaxLen(4096)])
REGIME_KEYS = ("controllers", "terms", DRY_RUN.name, REPLAY.name)

_EXAMPLE = "[spike_guard, {controller: plateau, patience: 20}]"


def read_regime(reader: Reader, given: Mapping[str, Any]) -> RegimePart | None:
    """The regime of a recipe; None where there is none."""
    if "regime" not in given:
        return None
    path, written = ("regime",), given["regime"]
    if isinstance(written, list):
        return RegimePart(pieces(reader, cast("list[Any]", written), path, "controller"))
    if not isinstance(written, dict):
        reader.report(
            path, f"{quoted(written)} should be a list of controllers, such as {_EXAMPLE}"
        )
        return None
    whole = cast("Data", written)
    for key in whole:
        if key not in REGIME_KEYS:
            reader.unknown((*path, key), REGIME_KEYS)
    if REPLAY.name in whole:
        return _replay(reader, given, whole)
    dry: bool = reader.value(DRY_RUN, (*path, DRY_RUN.name), whole.get(DRY_RUN.name, False))
    terms = fields(reader, (*path, "terms"), Terms) if "terms" in whole else standard(Terms)
    listed = whole.get("controllers", [])
    if not isinstance(listed, list):
        reader.report(
            (*path, "controllers"),
            f"{quoted(cast('object', listed))} should be a list, such as {_EXAMPLE}",
        )
        listed = []
    at_ = (*path, "controllers")
    found = pieces(reader, cast("list[Any]", listed), at_, "controller")
    return RegimePart(found, terms, dry_run=dry)


def _replay(reader: Reader, given: Mapping[str, Any], whole: Data) -> RegimePart | None:
    """A regime that does again what was done in another run, and decides nothing itself."""
    path = ("regime", REPLAY.name)
    for key in whole:
        if key != REPLAY.name and key in REGIME_KEYS:
            what = "says what to decide, and a replay decides nothing; leave it out"
            reader.report(("regime", key), what, key=True)
    if given.get("safeguards", False) is not False:
        what = "a replay puts back the states that its run went back to; leave it out"
        reader.report(("safeguards",), what, key=True)
    run: str | None = reader.value(REPLAY, path, whole[REPLAY.name])
    return None if run is None else RegimePart((), {}, replay=run)


def read_safeguards(reader: Reader, given: Mapping[str, Any]) -> Data | None:
    """The safeguard's terms, all of them; None where there is none."""
    written = given.get("safeguards", False)
    if isinstance(written, bool):
        return standard(Care) if written else None
    if not isinstance(written, dict):
        what = "should be true, false, or a mapping such as {every: 50, keep: 2}"
        reader.report(("safeguards",), f"{quoted(written)} {what}")
        return None
    return fields(reader, ("safeguards",), Care)


def fields(reader: Reader, path: KeyPath, of: type) -> Data:
    """The fields of a dataclass out of the mapping at a path, defaults filled in."""
    values, known = standard(of), arguments_of(of)
    given = reader.mapping(path, _example(known))
    for name, value in (given or {}).items():
        here = (*path, name)
        if name not in known:
            reader.unknown(here, known)
        elif is_dataclass(inner := known[name].annotation):
            values[name] = fields(reader, here, cast("type", inner))
        else:
            before = len(reader.problems)
            made = reader.value(known[name], here, value)
            if len(reader.problems) == before:
                values[name] = as_data(made)
    return values


def _example(known: Mapping[str, Argument]) -> str:
    name, argument = next(
        item for item in known.items() if isinstance(item[1].default, int | float)
    )
    return f"{{{name}: {argument.default:g}}}"
