"""Plain data that knows where each key stands, and what is said when something is wrong with it.

Plain data is what YAML, TOML and JSON share: mappings with text keys, lists, text, numbers, true,
false and null. `rheostat.recipes.formats` reads it from files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from rheostat.core.errors import InputError

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys of mappings, indices of lists."""

DEEPEST = 32
"""Levels of nesting."""
MOST_BITS = 1000
"""Of a whole number."""
TOO_LONG = "a whole number of more than 300 digits is none that a recipe could mean"


class Position(NamedTuple):
    """Line and column, from 1, of a value and of the key that holds it (of an item: itself).

    `file` is where they count; line 0 says that it has none (an option of the command line).
    """

    key: tuple[int, int]
    value: tuple[int, int]
    file: str


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where it stands, the path of keys to it, and what would be right.

    What does not fit together has a `code`, by which a recipe can silence it; a warning does not
    stop a recipe from running.
    """

    where: str
    path: str
    message: str
    position: tuple[int, int] = (0, 0)
    code: str = ""
    severity: Literal["error", "warning"] = "error"

    @property
    def line(self) -> str:
        """`recipe.yaml:4:1: momentumm: unknown key; …`."""
        message = f"{self.message} ({self.code})" if self.code else self.message
        # What is about the key that the path names need not say so twice.
        message = message.removeprefix(f"{self.path}: ") if self.path else message
        return ": ".join(dict.fromkeys(text for text in (self.where, self.path, message) if text))

    def data(self) -> dict[str, Any]:
        """For programs; `line` and `column` are None where it stands in no file."""
        line, column = self.position if self.position[0] else (None, None)
        file = self.where.removesuffix(f":{line}:{column}") if line else None
        place = {"file": file, "line": line, "column": column, "key": self.path}
        return {
            "severity": self.severity,
            "code": self.code or None,
            **place,
            "message": self.message,
        }


class ProblemsError(InputError):
    """What is wrong with a document, one line a problem; `problems` are the same for programs."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        ordered = sorted(problems, key=lambda problem: problem.position)
        self.problems = list({problem.line: problem for problem in ordered}.values())
        super().__init__("\n".join(problem.line for problem in self.problems))


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
        file, (line, column) = self._place(path, key)
        if not file:
            return show(self.path_in_file(path)) or self.name
        return f"{file}:{line}:{column}" if line else file

    def _place(self, path: KeyPath, key: bool) -> tuple[str, tuple[int, int]]:
        real = self.path_in_file(path)
        while real not in self.positions:
            if not real:
                return "", (0, 0)
            real, key = real[:-1], False
        position = self.positions[real]
        return position.file, position.key if key else position.value

    def problem(
        self,
        path: KeyPath,
        message: str,
        *,
        key: bool = False,
        code: str = "",
        severity: Literal["error", "warning"] = "error",
    ) -> Problem:
        """A problem with the value at this path, or with the key that holds it."""
        where, place = self.where(path, key=key), self._place(path, key)[1]
        return Problem(where, show(self.path_in_file(path)), message, place, code, severity)

    def overlaid(self, base: KeyPath, over: KeyPath, without: Collection[str] = ()) -> Document:
        """The mapping at `base` with the keys of the one at `over` in place of its own.

        `without` are keys that are not taken over from the base.
        """
        below: dict[str, Any] = self.get(base) if isinstance(self.get(base), dict) else {}
        above: dict[str, Any] = self.get(over)
        kept = {key: v for key, v in below.items() if key not in above and key not in without}
        moved: dict[str | int, KeyPath] = {key: self.path_in_file((*base, key)) for key in kept}
        root = self.path_in_file(over)
        return Document(self.name, {**kept, **above}, self.positions, root, moved)


def show(path: KeyPath) -> str:
    """`arms.cosine.betas[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def quoted(value: object) -> str:
    """A value as a message quotes it: in the spelling of YAML, cut short."""
    text = spelt(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def spelt(value: object) -> str:
    """Plain data on one line, in the spelling of YAML: JSON but for numbers that are not finite."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return re.sub(r"\b(Infinity|NaN)\b", lambda found: _NOT_FINITE[found[0]], text)


_NOT_FINITE = {"Infinity": ".inf", "NaN": ".nan"}


def as_problems(error: InputError) -> list[dict[str, Any]]:
    """What an error says of a document, for programs."""
    if isinstance(error, ProblemsError):
        return [problem.data() for problem in error.problems]
    found = re.fullmatch(r"(?s)(.*?):(\d+)(?::(\d+))?: (.*)", str(error))
    if found is None:
        return [Problem("", "", str(error)).data()]
    place = (int(found[2]), int(found[3] or 1))
    return [Problem(f"{found[1]}:{place[0]}:{place[1]}", "", found[4], place).data()]


def refuse(problems: Iterable[Problem]) -> None:
    """Raise ProblemsError, in the order of the file, if there is any."""
    found = list(problems)
    if found:
        raise ProblemsError(found)


class NotPlainError(InputError):
    """A value that is not plain data: the path to it, and what is wrong."""

    def __init__(self, path: KeyPath, message: str, name: str = "") -> None:
        super().__init__(f"{show(path) or name}: {message}")
        self.path = path
        self.message = message


def plain(value: object, name: str, path: KeyPath = ()) -> Any:
    """A copy of plain data, which is called `name`; a tuple in it becomes a list.

    Raises:
        NotPlainError: anything else, such as a Schedule object; a whole number without end; more
            than `DEEPEST` levels.
    """
    if len(path) > DEEPEST:
        raise NotPlainError((*path[:3], "…"), f"nested deeper than {DEEPEST} levels")
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise NotPlainError(path, TOO_LONG, name)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = enumerate(cast("list[object]", value))
        return [plain(item, name, (*path, index)) for index, item in items]
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        made: dict[str, Any] = {}
        for key, item in pairs:
            if not isinstance(key, str):
                raise NotPlainError(path, f"a key should be text, not {key!r}", name)
            made[key] = plain(item, name, (*path, key))
        return made
    what = f"should be plain data, as a file would hold it, not a {type(value).__name__}"
    raise NotPlainError(path, what, name)
