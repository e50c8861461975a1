"""Files that people write, YAML 1.2, TOML or JSON, read as a Document.

Anchors, aliases and tags are refused: data never names code, and what a key holds is what is
written beside it. Numbers follow the core schema of YAML 1.2: `3e-4` is a float, `on` and `yes`
are text. A file is read once, whole, and never beyond the limits below, which keep a hostile one
from taking more than a second.
"""

from __future__ import annotations

import importlib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from rheostat.core.errors import InputError, MachineError
from rheostat.recipes.document import (
    DEEPEST,
    TOO_LONG,
    Document,
    KeyPath,
    NotPlainError,
    Position,
    ProblemsError,
    plain,
    show,
)
from rheostat.recipes.toml_places import KEY, toml_places

LARGEST = 256 * 1024
"""Bytes of a file; a recipe or a study is a page."""
MOST = 10_000
"""Keys and values in a file."""
HEAVY = 3
"""Values that a list or a mapping counts for, which takes that much longer to read."""

_NULL = {"", "~", "null", "Null", "NULL"}
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_RADIX = re.compile(r"0o[0-7]{1,300}|0x[0-9a-fA-F]{1,250}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_LONG = re.compile(r"[0-9_]{1000}")
_TOML_DEEP = re.compile(rf"(?<![A-Za-z0-9_-])(?:{KEY}[ \t]*+\.[ \t]*+){{{DEEPEST + 1}}}")


def open_document(source: str | Path | Mapping[str, Any] | Document, name: str) -> Document:
    """A Document out of a file (a `str` is a path) or a mapping, which is then called `name`.

    The ending says the format: `.toml`, `.json`, and YAML for all else.

    Raises:
        InputError: no such file, or not one of ours; where it is not, with line and column; or no
            name of a file.
        MachineError: the disk fails.
    """
    if isinstance(source, Document):
        return source
    if isinstance(source, Mapping):
        return Document(name, plain(source, name))
    if not isinstance(cast("object", source), str | os.PathLike):
        what = "should be a file's name or a mapping, such as {'optimizer': 'adamw'}"
        raise InputError(f"{name}: {source!r}: {what}")
    return read_text(read_file(Path(source)), str(source), Path(source).suffix)


def read_text(text: str, name: str, suffix: str = ".yaml") -> Document:
    """A Document out of a text in the format of this ending; its places are called `name`.

    Raises:
        InputError: it is not in that format, or holds more than plain data, with line and column.
    """
    return _toml(name, text) if suffix == ".toml" else _yaml(name, text, json=suffix == ".json")


def read_file(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it is not there, is a folder, too large, or not UTF-8.
        MachineError: the disk fails.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; should be a YAML, TOML or JSON file") from None
    except (PermissionError, NotADirectoryError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(path)!r}: cannot be read: {why}") from None
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}; check the disk") from error
    if len(data) > LARGEST:
        raise InputError(f"{path}: is larger than {LARGEST // 1024} KiB; is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: is not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from None


def _yaml(name: str, text: str, *, json: bool) -> Document:
    # Imported here, for it takes time. Any, for its own annotations are partial.
    ruamel: Any = importlib.import_module("ruamel.yaml")

    # JSON may be indented by tabs, YAML not; in JSON every raw tab is white space.
    text = text.replace("\t", " ") if json else text
    try:
        return _Builder(name).document(ruamel.YAML(typ="safe", pure=True).parse(text))
    except InputError:
        raise
    except ruamel.error.MarkedYAMLError as error:
        fault: Any = error
        mark = fault.problem_mark or fault.context_mark
        about = " ".join(f"{fault.context or ''} {fault.problem or ''}".split())
        where = f"{name}:{mark.line + 1}:{mark.column + 1}"
        raise InputError(f"{where}: is not valid YAML: {about}") from None
    except ruamel.reader.ReaderError as error:
        at: int = error.position
        where = f"{name}:{text.count(chr(10), 0, at) + 1}"
        raise InputError(
            f"{where}: is not valid YAML: the character {text[at]!r} is not allowed"
        ) from None
    except (OverflowError, ValueError) as error:  # an escape such as "\UFFFFFFFF"
        raise InputError(f"{name}: is not valid YAML: no such character: {error}") from None


def _toml(name: str, text: str) -> Document:
    deep = _TOML_DEEP.search(text)
    if deep:
        line = text.count("\n", 0, deep.start()) + 1
        raise InputError(f"{name}:{line}: is nested deeper than {DEEPEST} levels")
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{name}: is nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        if long := _LONG.search(text):
            where = f"{name}:{text.count(chr(10), 0, long.start()) + 1}"
            raise InputError(f"{where}: {TOO_LONG}") from None
        why = str(error).replace("(at end of document)", f"(at line {text.count(chr(10)) + 1})")
        found = re.fullmatch(r"(.*) \(at line (\d+)(?:, column (\d+))?\)", why, re.DOTALL)
        where = ":".join(filter(None, (name, *found.groups()[1:]))) if found else name
        raise InputError(f"{where}: is not valid TOML: {found[1] if found else why}") from None
    try:
        made = plain(data, name)
    except NotPlainError as error:  # a date, a number without end
        document = Document(name, data, toml_places(name, text))
        raise ProblemsError([document.problem(error.path, error.message)]) from None
    if _size(made) > MOST:
        raise InputError(f"{name}: holds more than {MOST} keys and values; is it the right file?")
    return Document(name, made, toml_places(name, text))


def _size(value: Any) -> int:
    """How many keys and items are in a value."""
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    return (
        sum(1 + _size(part) for part in cast("list[Any]", value)) if isinstance(value, list) else 0
    )


class _Builder:
    """Plain data out of the parser's events; each event knows its line and column."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._positions: dict[KeyPath, Position] = {}
        self._count = 0
        self._make: Mapping[str, Callable[[Any, Iterator[Any], KeyPath], Any]] = {
            "ScalarEvent": self._scalar,
            "SequenceStartEvent": self._list,
            "MappingStartEvent": self._mapping,
        }

    def document(self, events: Iterator[Any]) -> Document:
        next(events)  # the stream's start
        start = next(events)
        if _kind(start) == "StreamEndEvent":
            self._refuse(start, "holds nothing but white space and comments")
        if start.version not in (None, (1, 2)):
            self._refuse(start, "asks for another YAML than 1.2; leave the %YAML line out")
        first = next(events)
        self._positions[()] = Position(_place(first), _place(first), self._name)
        data = self._value(first, events, ())
        next(events)  # the document's end
        after = next(events)
        if _kind(after) != "StreamEndEvent":
            self._refuse(after, "a second document begins here; a file holds one")
        return Document(self._name, data, self._positions)

    def _value(self, event: Any, events: Iterator[Any], path: KeyPath) -> Any:
        if _kind(event) == "AliasEvent":
            self._refuse(event, f"the alias *{event.anchor} is not supported; write the value out")
        if event.anchor is not None:
            self._refuse(event, f"the anchor &{event.anchor} is not supported; write values out")
        self._count += 1 if _kind(event) == "ScalarEvent" else HEAVY
        if self._count > MOST:
            self._refuse(event, f"holds more than {MOST} keys and values; is it the right file?")
        if event.tag is not None:
            self._refuse(event, f"the tag {event.tag} is not supported; write plain values")
        if len(path) > DEEPEST:
            self._refuse(event, f"is nested deeper than {DEEPEST} levels")
        return self._make[_kind(event)](event, events, path)

    def _scalar(self, event: Any, events: Iterator[Any], path: KeyPath) -> Any:
        del events, path
        # A quoted or block scalar is text, whatever it looks like.
        return _resolve(event.value) if event.style is None else self._text(event)

    def _list(self, event: Any, events: Iterator[Any], path: KeyPath) -> list[Any]:
        del event
        items: list[Any] = []
        while _kind(item := next(events)) != "SequenceEndEvent":
            place = _place(item)
            here = (*path, len(items))
            self._positions[here] = Position(place, place, self._name)
            items.append(self._value(item, events, here))
        return items

    def _mapping(self, event: Any, events: Iterator[Any], path: KeyPath) -> dict[str, Any]:
        del event
        made: dict[str, Any] = {}
        while _kind(key := next(events)) != "MappingEndEvent":
            if _kind(key) == "ScalarEvent":
                self._value(key, events, path)  # refuses anchors and tags; a key's text is its name
            else:
                self._refuse(key, "a key should be a plain name")
            name = self._text(key)
            here = (*path, name)
            if name in made:
                first = self._positions[here].key[0]
                self._refuse(key, f"{show(here)}: is written twice; first on line {first}")
            item = next(events)
            self._positions[here] = Position(_place(key), _place(item), self._name)
            made[name] = self._value(item, events, here)
        return made

    def _text(self, event: Any) -> str:
        text = cast("str", event.value)
        try:
            # JSON escapes a character beyond 16 bits as two surrogates; here they become one.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._refuse(event, "holds half of a surrogate pair, which is no character")

    def _refuse(self, event: Any, message: str) -> NoReturn:
        line, column = _place(event)
        raise InputError(f"{self._name}:{line}:{column}: {message}")


def _kind(event: Any) -> str:
    return type(event).__name__


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _resolve(text: str) -> Any:
    """A plain scalar by the core schema of YAML 1.2."""
    if text in _NULL:
        return None
    if text in _FLAGS:
        return _FLAGS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text
