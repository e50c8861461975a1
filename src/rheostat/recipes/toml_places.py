"""Where the keys and values of a TOML text stand, which Python's own reader does not tell.

The text has been read already and is sound, so that this looks only for beginnings and ends.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping

from rheostat.recipes.document import KeyPath, Position

KEY = r"""(?:[A-Za-z0-9_-]++|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+')"""
_KEYS = re.compile(rf"{KEY}(?:[ \t]*+\.[ \t]*+{KEY})*+")
_PART = re.compile(KEY)
_BLANK = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_SCALAR = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*+"'
    r"|'[^'\n]*+'"
    r"|[^,\]}#\r\n]*+",
    re.DOTALL,
)


def toml_places(name: str, text: str) -> dict[KeyPath, Position]:
    """The position of every key, value and item of a sound TOML text, which is called `name`."""
    return _Walk(name, text).document()


class _Walk:
    """A walk through the text from beginning to end; `at` is how far it has come."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.at = 0
        self.found: dict[KeyPath, Position] = {(): Position((1, 1), (1, 1), name)}
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> dict[KeyPath, Position]:
        table: KeyPath = ()
        counts: dict[KeyPath, int] = {}
        self.skip()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header(counts)
            else:
                start, parts = self.key()
                self.value((*table, *parts), start)
            self.skip()
        return self.found

    def header(self, counts: dict[KeyPath, int]) -> KeyPath:
        """The path of `[a.b]`, or of the next item of `[[a.b]]`."""
        brackets = 1 + self.text.startswith("[[", self.at)
        self.at += brackets
        self.skip()
        start, parts = self.key()
        self.at = self.text.index("]", self.at) + brackets
        path = _indexed(parts, counts)
        if brackets == 2:
            self.note(path, start, start)
            index = counts.get(path, 0)
            counts[path] = index + 1
            path = (*path, index)
        self.note(path, start, start)
        return path

    def value(self, path: KeyPath, key: int) -> None:
        """Past the `=` of the key that begins at `key`, and past its value."""
        self.at = self.text.index("=", self.at) + 1
        self.skip()
        inside: list[tuple[KeyPath, bool]] = []  # the lists and tables that are open
        items: list[int] = []
        while True:
            self.note(path, key, self.at)
            if self.text[self.at] in "[{":
                inside.append((path, self.text[self.at] == "["))
                items.append(0)
                self.at += 1
            else:
                scalar = _SCALAR.match(self.text, self.at)
                assert scalar is not None
                self.at = scalar.end()
            self.skip()
            while inside and self.text[self.at] in ",]}":
                if self.text[self.at] != ",":
                    inside.pop()
                    items.pop()
                self.at += 1
                self.skip()
            if not inside:
                return
            above, listed = inside[-1]
            if listed:
                path, key = (*above, items[-1]), self.at
                items[-1] += 1
            else:
                key, parts = self.key()
                path = (*above, *parts)
                self.at = self.text.index("=", self.at) + 1
                self.skip()

    def key(self) -> tuple[int, KeyPath]:
        """Where the dotted key here begins, and its parts."""
        start = self.at
        match = _KEYS.match(self.text, start)
        assert match is not None
        self.at = match.end()
        return start, tuple(part.strip("\"'") for part in _PART.findall(match[0]))

    def skip(self) -> None:
        """Past white space and comments."""
        blank = _BLANK.match(self.text, self.at)
        assert blank is not None
        self.at = blank.end()

    def note(self, path: KeyPath, key: int, value: int) -> None:
        at_key = Position(self.place(key), self.place(key), self.name)
        for length in range(1, len(path)):  # what a dotted key makes on its way
            self.found.setdefault(path[:length], at_key)
        self.found.setdefault(path, Position(at_key.key, self.place(value), self.name))

    def place(self, at: int) -> tuple[int, int]:
        line = bisect_right(self.lines, at)
        return line, at - self.lines[line - 1] + 1


def _indexed(parts: KeyPath, counts: Mapping[KeyPath, int]) -> KeyPath:
    """The path of a header, with the present item after each part that is a list of tables."""
    made: KeyPath = ()
    for place, part in enumerate(parts):
        made = (*made, part)
        if made in counts and place < len(parts) - 1:
            made = (*made, counts[made] - 1)
    return made
