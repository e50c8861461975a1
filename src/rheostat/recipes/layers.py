"""A recipe in layers: a file over its `base`, and single keys over both.

Layers merge as JSON Merge Patch does (RFC 7386): mappings key by key, null takes a key away, and
anything else (numbers, text, lists) stands in the place of what was there. A mapping that names
another component than the one below it (`schedule: constant` over `schedule: cosine`) replaces
it whole, because its arguments are others.

A base is a file in the folder of the recipe, or below it; where a link leads counts, not where
it lies.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from rheostat.core.errors import InputError
from rheostat.recipes.document import Document, KeyPath, Position, plain, quoted, show
from rheostat.recipes.formats import open_document, read_file, read_text

DEEPEST_BASE = 8
"""Files from a recipe to its last base."""
ENDINGS = (".yaml", ".yml", ".toml", ".json")
NAMING = ("schedule", "transform", "optimizer", "controller")
"""Keys whose value says what the other keys of a mapping are arguments of."""
LISTS = {
    **dict.fromkeys(("chain", "before", "first", "second"), "transform"),
    **dict.fromkeys(("regime", "controllers"), "controller"),
}
"""Keys of lists whose items may be names alone, and what is named there."""


def open_recipe(
    source: str | Path | Mapping[str, Any] | Document, overrides: Mapping[str, Any] | None = None
) -> Document:
    """The document of a recipe, its bases and overrides merged.

    Args:
        source: a file (a `str` is a path), a mapping, or a Document.
        overrides: dotted paths of keys and their values, such as ``{"policy.0.lr": 1e-3}``.

    Raises:
        InputError: what cannot be read; a base outside of the recipe's folder, a cycle of bases;
            an override for which there is no place.
    """
    document = open_document(source, "recipe")
    if "base" in _mapping(document.data):
        if isinstance(source, Mapping | Document):
            place = document.where(("base",))
            raise InputError(f"{place}: a base is for files: it lies in the folder of the recipe")
        path = Path(source)
        document = _on_its_base(document, path, path.parent.resolve(), (path.resolve(),))
    for path, value in (overrides or {}).items():
        document = _with_override(document, path, value)
    return document


def _on_its_base(document: Document, path: Path, folder: Path, above: tuple[Path, ...]) -> Document:
    """The document laid over its base, and that over its own."""
    data = cast("dict[str, Any]", document.data)
    where = f"{document.where(('base',))}: base"
    base = _inside(data["base"], path.parent, folder, where)
    if base in above:
        raise InputError(f"{where}: {quoted(data['base'])} leads back to itself")
    if len(above) >= DEEPEST_BASE:
        raise InputError(f"{where}: more than {DEEPEST_BASE} files, one the base of the other")
    name = str(path.parent / cast("str", data["base"]))
    lower = read_text(read_file(base), name, base.suffix)
    if not isinstance(lower.data, dict):
        raise InputError(f"{where}: {name} holds {quoted(lower.data)}, and no recipe")
    if "base" in _mapping(cast("object", lower.data)):
        lower = _on_its_base(lower, Path(name), folder, (*above, base))
    upper = {key: value for key, value in data.items() if key != "base"}
    return _merged(lower, Document(document.name, upper, document.positions))


def _mapping(data: object) -> dict[str, Any]:
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def _inside(written: Any, beside: Path, folder: Path, where: str) -> Path:
    """The file that a base names, if it lies in the folder."""
    if not isinstance(written, str) or not written or "\0" in written:
        raise InputError(f"{where}: {quoted(written)} should be the name of a file")
    parts = PurePosixPath(written)
    if parts.is_absolute() or ".." in parts.parts or "\\" in written:
        raise InputError(
            f"{where}: {quoted(written)} should be in the folder of the recipe, without .. or a "
            "leading /"
        )
    if parts.suffix not in ENDINGS:
        raise InputError(f"{where}: {quoted(written)} should end in {', '.join(ENDINGS)}")
    try:
        real = (beside / written).resolve(strict=True)
    except FileNotFoundError:
        raise InputError(f"{where}: {beside / written}: no such file") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{where}: {beside / written}: cannot be read: {error}") from None
    if not real.is_file():
        raise InputError(f"{where}: {beside / written}: is no regular file")
    if not real.is_relative_to(folder):
        raise InputError(f"{where}: {quoted(written)} leads out of the folder of the recipe")
    return real


def _merged(lower: Document, upper: Document) -> Document:
    """`upper` over `lower`, the place of each value remembered."""
    positions = dict(lower.positions)

    def merge(below: Any, above: Any, path: KeyPath) -> Any:
        if path in upper.positions:
            positions[path] = upper.positions[path]
        if not isinstance(above, dict):
            inside = ((*path, *below) for below in _paths(above))
            positions.update({p: upper.positions[p] for p in inside if p in upper.positions})
            return above
        given = cast("dict[str, Any]", above)
        known = cast("dict[str, Any]", below) if isinstance(below, dict) else {}
        if path and any(
            _name(known.get(k)) != _name(given[k]) for k in (*NAMING, "replay") if k in given
        ):
            known = {}
        made = {key: value for key, value in known.items() if key not in given}
        for key, value in given.items():
            if value is not None:
                made[key] = merge(known.get(key), value, (*path, key))
        return made

    return Document(upper.name, merge(lower.data, upper.data, ()), positions)


def _name(ref: Any) -> Any:
    return ref.partition("@")[0] if isinstance(ref, str) else ref


def read_overrides(options: Iterable[str]) -> dict[str, Any]:
    """Options as a person types them, `lr=1e-3` or `lr.peak=0.1`, as paths and values; the value
    is read as YAML.

    Raises:
        InputError: no `=`, or a value that is not plain data.
    """
    found: dict[str, Any] = {}
    for option in options:
        path, equals, text = option.partition("=")
        if not equals or not path.strip():
            raise InputError(f"--set {option}: should be KEY=VALUE, such as lr=1e-3")
        found[path.strip()] = read_text(text or "null", f"--set {option}").data
    return found


def _with_override(document: Document, dotted: str, value: Any) -> Document:
    """The document with the value at a dotted path; mappings on the way are made."""
    label = f"--set {dotted}"
    document = _opened(document, dotted.split("."))
    patch: Any = plain(value, label)
    path: KeyPath = ()
    held: Any = document.data
    steps: list[str | int] = []
    for part in dotted.split("."):
        if isinstance(held, list):
            items = cast("list[Any]", held)
            if not (part.isascii() and part.isdigit() and int(part) < len(items)):
                there = f"items 0 to {len(items) - 1}" if items else "no items"
                raise InputError(f"{label}: {show(path)} has {there}")
            steps.append(int(part))
            held = items[int(part)]
        elif held is None and part.isdigit():
            raise InputError(
                f"{label}: {show(path) or 'the file'} is not there, so it has no item {part}"
            )
        elif held is None or isinstance(held, dict):
            steps.append(part)
            held = cast("dict[str, Any]", held).get(part) if held else None
        else:
            raise InputError(f"{label}: {show(path) or 'the file'} is {quoted(held)}, no mapping")
        path = tuple(steps)
    place = Position((0, 0), (0, 0), label)
    positions = {(*path, *below): place for below in ((), *_paths(patch))}
    patch = _patched(document.data, path, patch)
    merged = _merged(document, Document(label, patch, positions))
    return Document(document.name, merged.data, merged.positions)


def _opened(document: Document, parts: Sequence[str]) -> Document:
    """The document with the short forms on the way to a key written out: a name alone as a mapping,
    a list of controllers as what has terms too, `true` as the safeguards that it stands for."""
    data, positions = copy.deepcopy(document.data), document.positions
    whole, inside = _mapping(data), parts[1:2]
    if parts[0] == "safeguards" and inside and whole.get("safeguards") is True:
        whole["safeguards"] = {}
    regime = whole.get("regime")
    if parts[0] == "regime" and isinstance(regime, list) and inside and not inside[0].isdigit():
        whole["regime"] = {"controllers": regime}
        positions = {
            ("regime", "controllers", *path[1:]) if path[:1] == ("regime",) != path else path: place
            for path, place in positions.items()
        }
    held: Any = data
    for listed, part in zip(("", *parts), parts[:-1], strict=False):
        if isinstance(held, dict):
            held = cast("dict[str, Any]", held).get(part)
        elif isinstance(held, list) and part.isdigit() and int(part) < len(cast("list[Any]", held)):
            items, index = cast("list[Any]", held), int(part)
            if isinstance(items[index], str) and listed in LISTS:
                items[index] = {LISTS[listed]: items[index]}
            held = items[index]
        else:
            break
    return Document(document.name, data, positions)


def _patched(data: Any, path: KeyPath, value: Any) -> Any:
    """A merge patch that puts the value at the path; a list on the way is written out again."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(first, int):
        items = list(cast("list[Any]", data))
        inner = Document("", items[first])
        items[first] = _merged(inner, Document("", _patched(items[first], rest, value))).data
        return items
    below = cast("dict[str, Any]", data).get(first) if isinstance(data, dict) else None
    return {first: _patched(below, rest, value)}


def _paths(value: Any) -> list[KeyPath]:
    """The paths of all that is in a value."""
    if isinstance(value, dict):
        pairs: Iterable[tuple[str | int, Any]] = cast("dict[str, Any]", value).items()
    elif isinstance(value, list):
        pairs = enumerate(cast("list[Any]", value))
    else:
        return []
    return [(key, *below) for key, item in pairs for below in ((), *_paths(item))]
