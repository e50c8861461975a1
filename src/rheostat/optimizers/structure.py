"""What a rule's program is made of: rules of the same structure share one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, MethodType
from typing import Any, cast

from rheostat.core.transform import Transform


def structure(rule: Transform, pieces: Sequence[Transform]) -> tuple[Any, ...]:
    """The code of these pieces, the names and kinds of the rule's buffers, and how many numbers
    each hyperparameter has; not their values, which a program is given.

    It holds what it names, so that nothing else can come to be called the same.
    """
    numbers: Mapping[str, Any] = {**rule.hyperparameters, **rule.scalars}
    return (
        tuple((name, _length(value)) for name, value in numbers.items()),
        tuple((name, one.dtype, code_of(one.shape)) for name, one in rule.buffers.items()),
        tuple((p.name, *map(code_of, (p.update, p.measure, p.after))) for p in pieces),
    )


def code_of(function: Any, seen: frozenset[int] = frozenset()) -> tuple[Any, ...]:
    """The code of a function, and what it takes from elsewhere: its object, its closure, its
    defaults, the functions and the plain values that it finds in its module."""
    if id(function) in seen:
        return ()
    inside = seen | {id(function)}
    if isinstance(function, MethodType):
        held: dict[str, Any] = getattr(function.__self__, "__dict__", {})
        return _Same(function.__self__), repr(held), code_of(function.__func__, inside)
    code = getattr(function, "__code__", None)
    if code is None:
        return (_Same(function),)
    found: list[Any] = [code, repr(function.__defaults__), repr(function.__kwdefaults__)]
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    for content in (*cells, *_globals(code, function.__globals__)):
        if isinstance(content, Transform):
            found += [code_of(piece.update, inside) for piece in content.pieces]
        elif callable(content):
            found.append(code_of(content, inside))
        else:
            found.append(repr(content))
    return tuple(found)


def _globals(code: CodeType, known: Mapping[str, Any]) -> Iterator[Any]:
    """What a function's code, and the code within it, may mean by a name of its module."""
    plain = (bool, int, float, str, tuple, frozenset, type(None))
    for name in code.co_names:
        content = known.get(name)
        if isinstance(content, plain) or hasattr(content, "__code__"):
            yield content
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant, known)


def _length(value: Any) -> int | None:
    return len(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else None


class _Same:
    """An object, equal to itself alone."""

    def __init__(self, of: object) -> None:
        self._of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._of is self._of

    def __hash__(self) -> int:
        return id(self._of)
