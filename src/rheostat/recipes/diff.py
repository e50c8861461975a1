"""Where two recipes differ, in terms of their canonical forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from rheostat.recipes.document import KeyPath, quoted, show


class Difference(NamedTuple):
    """A key whose values differ; `None` where one side has no such key."""

    path: KeyPath
    left: str | None
    right: str | None

    @property
    def lines(self) -> list[str]:
        """`- lr.peak: 0.1` and `+ lr.peak: 0.2`."""
        sides = (("-", self.left), ("+", self.right))
        return [f"{sign} {show(self.path)}: {text}" for sign, text in sides if text is not None]


def differences(left: Any, right: Any, path: KeyPath = ()) -> Iterator[Difference]:
    """Where two canonical forms differ, key by key, in the order of the left one;
    lists are compared item by item."""
    if isinstance(left, dict) and isinstance(right, dict):
        one, two = cast("dict[str, Any]", left), cast("dict[str, Any]", right)
        for key in [*one, *(key for key in two if key not in one)]:
            yield from _at((*path, key), one, two, key)
    elif isinstance(left, list) and isinstance(right, list):
        first = dict(enumerate(cast("list[Any]", left)))
        second = dict(enumerate(cast("list[Any]", right)))
        for index in range(max(len(first), len(second))):
            yield from _at((*path, index), first, second, index)
    elif type(cast("object", left)) is not type(cast("object", right)) or left != right:
        yield Difference(path, quoted(cast("object", left)), quoted(cast("object", right)))


def _at(
    path: KeyPath, left: dict[Any, Any], right: dict[Any, Any], key: Any
) -> Iterator[Difference]:
    if key not in right:
        yield Difference(path, quoted(left[key]), None)
    elif key not in left:
        yield Difference(path, None, quoted(right[key]))
    else:
        yield from differences(left[key], right[key], path)
