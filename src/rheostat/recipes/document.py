"""Files that people write, YAML 1.2 or JSON, as plain data that knows where each key stands.

Only what both languages share is read: mappings with text keys, lists, text, numbers, true,
false and null. Anchors, aliases and tags are refused: data never names code, and what a key
holds is what is written beside it. Numbers follow the core schema of YAML 1.2: `3e-4` is a
float, `on` and `yes` are text.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias, cast

from rheostat.core.errors import InputError, MachineError

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys of mappings, indices of lists."""

LARGEST = 256 * 1024
"""Bytes of a file; a recipe or a study is a page."""
DEEPEST = 32
"""Levels of nesting."""

_NULL = {"", "~", "null", "Null", "NULL"}
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_RADIX = re.compile(r"0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class Position(NamedTuple):
    """Line and column, from 1, of a value and of the key that holds it (of an item: itself)."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where it stands, the path of keys to it, and what would be right."""

    where: str
    path: str
    message: str
    position: tuple[int, int] = (0, 0)

    @property
    def line(self) -> str:
        """`recipe.yaml:4:1: momentumm: unknown key; …`."""
        return ": ".join(
            dict.fromkeys(text for text in (self.where, self.path, self.message) if text)
        )


@dataclass(frozen=True)
class Document:
    """Plain data and the positions of its keys and values (none for data out of a program).

    `root` is where the data stands in the file, and `moved` says so for those of its top-level
    keys that stand elsewhere (see `overlaid`).
    """

    name: str
    data: Any
    positions: Mapping[KeyPath, Position] = field(default_factory=dict[KeyPath, Position])
    root: KeyPath = ()
    moved: Mapping[str | int, KeyPath] = field(default_factory=dict[str | int, KeyPath])

    def get(self, path: KeyPath) -> Any:
        """The value at a path; None where there is none."""
        value = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def path_in_file(self, path: KeyPath) -> KeyPath:
        """The path as the file has it."""
        return self.moved.get(path[0], (*self.root, path[0])) + path[1:] if path else self.root

    def where(self, path: KeyPath, *, key: bool = False) -> str:
        """`file.yaml:12:3`, of the value at this path or (with `key`) of the key that holds it.

        For what is not there, the place of what should hold it; for data that came from no
        file, the path itself.
        """
        if not self.positions:
            return show(self.path_in_file(path)) or self.name
        line, column = self._position(path, key)
        return f"{self.name}:{line}:{column}"

    def _position(self, path: KeyPath, key: bool) -> tuple[int, int]:
        real = self.path_in_file(path)
        while real not in self.positions:
            if not real:
                return 0, 0
            real, key = real[:-1], False
        return self.positions[real].key if key else self.positions[real].value

    def problem(self, path: KeyPath, message: str, *, key: bool = False) -> Problem:
        """A problem with the value at this path, or with the key that holds it."""
        place = self._position(path, key)
        return Problem(self.where(path, key=key), show(self.path_in_file(path)), message, place)

    def overlaid(self, base: KeyPath, over: KeyPath) -> Document:
        """The mapping at `base` with the keys of the one at `over` in place of its own."""
        below: dict[str, Any] = self.get(base) if isinstance(self.get(base), dict) else {}
        above: dict[str, Any] = self.get(over)
        moved: dict[str | int, KeyPath] = {key: (*base, key) for key in below if key not in above}
        return Document(self.name, {**below, **above}, self.positions, over, moved)


def show(path: KeyPath) -> str:
    """`arms.cosine.betas[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def quoted(value: object) -> str:
    """A value as a message quotes it: in the spelling of the file, cut short."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}…"


def refuse(problems: Iterable[Problem]) -> None:
    """Raise InputError with one line per problem, in the order of the file, if there is any."""
    ordered = sorted(problems, key=lambda problem: problem.position)
    lines = list(dict.fromkeys(problem.line for problem in ordered))
    if lines:
        raise InputError("\n".join(lines))


def open_document(source: str | Path | Mapping[str, Any] | Document, name: str) -> Document:
    """A Document out of a file (a `str` is a path) or a mapping, which is then called `name`.

    Raises:
        InputError: no such file, or not one of ours; where it is not, with line and column.
        MachineError: the disk fails.
    """
    if isinstance(source, Document):
        return source
    if isinstance(source, Mapping):
        return Document(name, _plain(source, name, ()))
    return _parse(str(source), _read(Path(source)), json_file=Path(source).suffix == ".json")


def _plain(value: object, name: str, path: KeyPath) -> Any:
    """A copy of plain data; refuses everything else, such as a Schedule object."""
    if len(path) > DEEPEST:
        raise InputError(f"{show(path[:3])}…: nested deeper than {DEEPEST} levels")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = enumerate(cast("list[object]", value))
        return [_plain(item, name, (*path, index)) for index, item in items]
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        plain: dict[str, Any] = {}
        for key, item in pairs:
            if not isinstance(key, str):
                raise InputError(f"{show(path) or name}: a key should be text, not {key!r}")
            plain[key] = _plain(item, name, (*path, key))
        return plain
    raise InputError(
        f"{show(path)}: should be plain data, as a file would hold it, not a {type(value).__name__}"
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; should be a YAML or JSON file") from None
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


def _parse(name: str, text: str, *, json_file: bool) -> Document:
    # Imported here, for it takes time. Any, for its own annotations are partial.
    ruamel: Any = importlib.import_module("ruamel.yaml")

    # JSON may be indented by tabs, YAML not; in JSON every raw tab is white space.
    text = text.replace("\t", " ") if json_file else text
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


class _Builder:
    """Plain data out of the parser's events; each event knows its line and column."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._positions: dict[KeyPath, Position] = {}
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
        self._positions[()] = Position(_place(first), _place(first))
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
            self._positions[here] = Position(place, place)
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
            self._positions[here] = Position(_place(key), _place(item))
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
