"""Whether a variable that a function takes from elsewhere is bound again, by code in sight."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any, cast


def is_rebound(function: FunctionType, names: Iterable[str]) -> bool:
    """Whether some function binds one of these global names of the function's module, or one of the
    variables that it closes over, once the function is made.

    What is assigned from outside (`module.name = …`) is not seen.
    """
    code, known = function.__code__, function.__globals__
    own = [one.__code__ for one in _functions(known) if one.__globals__ is known]
    wanted = set(names)
    if any(wanted & _bound(one, "STORE_GLOBAL") for one in (code, *own)):
        return True
    free = frozenset(code.co_freevars)
    if not free:
        return False
    outer = next(filter(None, (_around(one, code) for one in own)), None)
    return bool(
        free & (_bound(code, "STORE_DEREF") | (_bound_after(outer, code) if outer else set()))
    )


def _functions(known: dict[str, Any]) -> Iterator[FunctionType]:
    """The functions of a module, and those of its classes."""
    for value in [*known.values()]:
        held = [*vars(value).values()] if isinstance(value, type) else [value]
        for one in held:
            inner: Any = one
            while inner is not None:
                if isinstance(inner, FunctionType):
                    yield inner
                inner = _within(inner)


def _within(value: Any) -> Any:
    """What a decorator was put around; None where it is none. Nothing is asked but what is held:
    some objects have an answer to every name."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, classmethod | staticmethod):
        return cast("Any", value).__func__
    held: Any = getattr(value, "__dict__", None)
    return cast("dict[str, Any]", held).get("__wrapped__") if type(held) is dict else None


def _inner(code: CodeType) -> list[CodeType]:
    return [one for one in code.co_consts if isinstance(one, CodeType)]


def _around(outer: CodeType, code: CodeType) -> CodeType | None:
    """The code that makes a function of this code, somewhere within the outer one."""
    inner = _inner(outer)
    if any(one is code for one in inner):
        return outer
    return next(filter(None, (_around(one, code) for one in inner)), None)


@functools.cache
def _bound(code: CodeType, how: str) -> frozenset[str]:
    """The names that a code, or the code within it, binds in this way."""
    mine = {step.argval for step in dis.get_instructions(code) if step.opname == how}
    return frozenset(mine).union(*(_bound(one, how) for one in _inner(code)))


def _bound_after(outer: CodeType, code: CodeType) -> frozenset[str]:
    """The variables that the outer code binds after it has made the function, before it in the same
    loop, or in another function within it."""
    others = [_bound(one, "STORE_DEREF") & set(one.co_freevars) for one in _inner(outer)]
    steps = [*dis.get_instructions(outer)]
    made = next((step.offset for step in steps if step.argval is code), 0)
    # Backwards a code jumps to the beginning of a loop.
    loops = [step for step in steps if step.opcode in _JUMPS and step.argval < step.offset]
    begun = [loop.argval for loop in loops if loop.argval <= made <= loop.offset]
    again = min(begun, default=made)
    later = {s.argval for s in steps if s.opname == "STORE_DEREF" and s.offset >= again}
    return frozenset(later).union(*others)


_JUMPS = {*dis.hasjrel, *dis.hasjabs}
