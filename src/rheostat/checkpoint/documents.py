"""Documents: JSON that gives back exactly what was written, and refuses everything else.

Strict JSON in ASCII. Integers of any size and finite floats are exact by JSON itself; what JSON
lacks, NaN and the infinities, is written `{"$float": "nan"}`, so keys that begin with `$` are
taken. Tuples come back as lists. Sizes and depth are bounded when written and when read, so that a
hostile document costs no more than an honest one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from rheostat.checkpoint.damage import DamageError
from rheostat.core.durable import JsonObject
from rheostat.core.errors import InputError

MAX_BYTES = 16 << 20
"""What is larger than this belongs into tensors."""

MAX_DEPTH = 64


def encode(document: Mapping[str, object], what: str) -> bytes:
    """The bytes of a document, ended by a newline; `what` names it in errors.

    Takes None, bool, int, float, str, and lists, tuples and str-keyed mappings of them.

    Raises:
        InputError: anything else in it, by its place; too deep, or larger than 16 MiB.
    """
    try:
        data = json.dumps(_plain(document, what, 0), allow_nan=False).encode("ascii") + b"\n"
    except ValueError as error:  # an integer longer than Python prints
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} cannot be saved: {error}") from error
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{what} would be {len(data):,} bytes of JSON, more than {MAX_BYTES:,}: "
            "save its bulk as tensors"
        )
    return data


def decode(data: bytes, what: str) -> JsonObject:
    """The document that `encode` wrote; `DamageError` for what it would not have written."""
    value = parse(data, what)
    return {key: _restored(part, what) for key, part in value.items()}


def parse(data: bytes, what: str) -> JsonObject:
    """A strict JSON object: bounded in depth, no key twice, finite numbers; else `DamageError`."""

    def unique(pairs: list[tuple[str, Any]]) -> JsonObject:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DamageError(f"{what}: the key {twice[:80]!r} is there twice")
        return found

    def refuse(name: str) -> NoReturn:
        raise DamageError(f"{what}: {name[:40]} is not a finite number")

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits)

    if len(data) > MAX_BYTES:
        raise DamageError(f"{what}: {len(data):,} bytes of JSON, more than {MAX_BYTES:,}")
    try:
        value: object = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=refuse,
            parse_float=finite,
        )
    except DamageError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamageError(
            f"{what} is not JSON as it is written here: {str(error)[:200]}"
        ) from error
    if not isinstance(value, dict):
        raise DamageError(f"{what} is not a JSON object")
    if not _is_shallow(cast("JsonObject", value)):
        raise DamageError(f"{what} is nested deeper than {MAX_DEPTH}")
    return cast("JsonObject", value)


def _plain(value: object, where: str, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise InputError(f"{where[:200]} is nested deeper than {MAX_DEPTH}: it cannot be saved")
    if isinstance(value, float):
        # float(), so that a subclass (numpy's float64) keeps no repr of its own.
        number = float(value)
        return number if math.isfinite(number) else {"$float": str(number)}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        parts = cast("list[object]", value)
        return [_plain(part, f"{where}[{i}]", depth + 1) for i, part in enumerate(parts)]
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        found: JsonObject = {}
        for key, part in items.items():
            if not isinstance(key, str) or key.startswith("$"):
                raise InputError(
                    f"{where} has the key {key!r}: keys are strings that do not begin with $"
                )
            found[key] = _plain(part, f"{where}.{key}", depth + 1)
        return found
    raise InputError(
        f"{where} is a {type(value).__name__}: a document holds None, bool, int, float, str, "
        "lists and mappings of them; tensors are saved beside it"
    )


def _is_shallow(value: object) -> bool:
    """Whether `value` is nested as deep as `encode` writes, no deeper; found without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 3):
        inner: list[object] = []
        for part in level:
            if isinstance(part, dict):
                inner.extend(cast("JsonObject", part).values())
            elif isinstance(part, list):
                inner.extend(cast("list[object]", part))
        if not inner:
            return True
        level = inner
    return False


def _restored(value: Any, what: str) -> Any:
    if isinstance(value, list):
        return [_restored(part, what) for part in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    found = cast("JsonObject", value)
    if "$float" in found:
        if len(found) == 1 and found["$float"] in ("nan", "inf", "-inf"):
            return float(found["$float"])
        raise DamageError(f"{what}: $float is nan, inf or -inf, alone in its object")
    return {key: _restored(part, what) for key, part in found.items()}
