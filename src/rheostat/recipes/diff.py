"""Where two recipes differ, in terms of their canonical forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from rheostat.recipes.document import KeyPath, show, spelt

ABSENT = object()
"""What stands for a side that has no such key."""


class Difference(NamedTuple):
    """A key whose values differ; `ABSENT` where one side has no such key."""

    path: KeyPath
    left: Any
    right: Any

    @property
    def lines(self) -> list[str]:
        """`- lr.peak: 0.1` and `+ lr.peak: 0.2`."""
        return [
            f"{sign} {show(self.path)}: {spelt(value)}" for sign, value in self._sides("-", "+")
        ]

    def data(self) -> dict[str, Any]:
        """For programs: the key, and `left` and `right` where the sides have it."""
        return {"key": show(self.path), **dict(self._sides("left", "right"))}

    def _sides(self, left: str, right: str) -> list[tuple[str, Any]]:
        return [(n, v) for n, v in ((left, self.left), (right, self.right)) if v is not ABSENT]


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
        yield Difference(path, left, right)


def _at(
    path: KeyPath, left: dict[Any, Any], right: dict[Any, Any], key: Any
) -> Iterator[Difference]:
    if key not in right:
        yield Difference(path, left[key], ABSENT)
    elif key not in left:
        yield Difference(path, ABSENT, right[key])
    else:
        yield from differences(left[key], right[key], path)
