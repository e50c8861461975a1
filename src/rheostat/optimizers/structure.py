"""What a rule's program is made of: rules of the same structure share one."""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Number
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast

from torch import Tensor, nn

from rheostat.core.transform import Transform
from rheostat.optimizers.rebound import is_rebound

_CHANGES = "a rule that reads what may change (a dict, a list, an object) cannot be compiled"
_IMMUTABLE = (str, bytes, int, float, complex, tuple, frozenset)
_CLOCKS = {"time", "datetime", "posix", "nt", "sys"}
"""Modules whose builtins answer something else each time."""


def structure(rule: Transform, pieces: Sequence[Transform]) -> tuple[Any, ...] | None:
    """The code of these pieces, the names and kinds of the rule's buffers, and how many numbers
    each hyperparameter has; not their values, which a program is given.

    It holds what it names, so that nothing else can come to be called the same. None where a piece
    reads what may change, which a program would not notice.
    """
    try:
        return _structure(rule, pieces)
    except TypeError:
        return None


def _structure(rule: Transform, pieces: Sequence[Transform]) -> tuple[Any, ...]:
    numbers: Mapping[str, Any] = {**rule.hyperparameters, **rule.scalars}
    return (
        tuple((name, _length(value)) for name, value in numbers.items()),
        tuple((name, one.dtype, code_of(one.shape)) for name, one in rule.buffers.items()),
        tuple(
            (p.name, *(one and code_of(one) for one in (p.update, p.measure, p.after)))
            for p in pieces
        ),
    )


def code_of(function: Any, seen: frozenset[int] = frozenset()) -> tuple[Any, ...]:
    """The code of a function, and what it takes from elsewhere: its object, its closure, its
    defaults, the functions and the plain values that it finds in its module.

    Raises TypeError where it reads what may change under the same name: a dict, a list, an
    attribute of an object or a class, a variable that somebody binds again.
    """
    if isinstance(function, functools.partial):
        made = cast("functools.partial[Any]", function)
        parts = (made.func, *made.args, *made.keywords.values())
        return tuple(made.keywords), *(_told(one, seen) for one in parts)
    if isinstance(function, MethodType):
        return *_owner(function, seen), code_of(function.__func__, seen)
    code = getattr(function, "__code__", None)
    if code is None:
        return _object(function, seen)
    if id(function) in seen:
        return ()
    if not _is_torch(function) and is_rebound(function, (path[0] for path in _globals(code))):
        raise TypeError(_CHANGES)
    inside = seen | {id(function)}
    closure = zip(code.co_freevars, function.__closure__ or (), strict=True)
    cells = {name: cell.cell_contents for name, cell in closure}
    keywords: Mapping[str, Any] = function.__kwdefaults__ or {}
    found = [*cells.values(), *(function.__defaults__ or ()), *keywords.values()]
    if not _is_torch(function):
        found += [_at(function.__globals__, path) for path in _globals(code)]
        found += [_at(cells, path) for path in _cells(code) if path[0] in cells]
    return code, tuple(keywords), *(_told(one, inside) for one in found)


def _told(content: Any, seen: frozenset[int]) -> Any:
    """What tells a value that a rule reads from another; raises TypeError where nothing does."""
    if content is None or isinstance(content, bool | Number | str | bytes | Enum):
        return repr(content)
    if isinstance(content, tuple | frozenset):
        return type(cast("object", content)), *(_told(one, seen) for one in cast("Any", content))
    if isinstance(content, Transform):  # one piece may call another's
        return tuple(code_of(piece.update, seen) for piece in content.pieces)
    if isinstance(content, type | ModuleType | Tensor):
        return _Same(content)
    if _is_frozen(content):
        return _Same(type(cast("object", content))), *(
            _told(getattr(content, field.name), seen) for field in fields(content)
        )
    return code_of(content, seen) if callable(content) else _object(content, seen)


def _object(content: Any, seen: frozenset[int]) -> tuple[Any, ...]:
    """An object that is no Python function: one of torch's, a builtin, or one that is called."""
    owner = getattr(content, "__self__", None)  # a builtin method's, such as a dict's
    if isinstance(owner, ModuleType | type):
        if getattr(owner, "__module__", owner.__name__) in _CLOCKS:
            raise TypeError(_CHANGES)
    elif owner is not None and not isinstance(owner, _IMMUTABLE):
        raise TypeError(_CHANGES)
    if _is_torch(type(content)) and not isinstance(content, nn.Module):
        return (_Same(content),)
    if callable(content):
        call = getattr(content, "__call__", None)  # noqa: B004  (it is read, not asked for)
        wrapped = getattr(content, "__wrapped__", None)
        inner = call if isinstance(call, MethodType) else wrapped
        return (_Same(content), *(code_of(inner, seen) if inner else ()))
    raise TypeError(_CHANGES)


def _owner(method: MethodType, seen: frozenset[int]) -> Iterator[Any]:
    """What tells a method's object from another, and the other methods that are read of it; raises
    TypeError where the object or its class holds what may change."""
    code = cast("FunctionType", method.__func__).__code__
    owner: Any = method.__self__
    yield _Same(cast("object", owner if isinstance(owner, type) else type(owner)))
    fields_of: Mapping[str, Any] = {}
    if not isinstance(owner, type):
        fields_of = getattr(owner, "__dataclass_fields__", {})
        if _is_frozen(owner):
            yield _told(owner, seen)
        elif getattr(owner, "__dict__", None) or not hasattr(owner, "__dict__"):
            raise TypeError(_CHANGES)
    if id(code) in seen:
        return
    for name in _names(code):
        value = inspect.getattr_static(owner, name, _Same)
        if value is _Same or name in fields_of:
            continue
        if isinstance(value, property):
            yield code_of(MethodType(value.fget or repr, owner), seen | {id(code)})
        elif isinstance(value, FunctionType | classmethod | staticmethod):
            yield code_of(getattr(owner, name), seen | {id(code)})
        elif not callable(value):
            raise TypeError(_CHANGES)


def _is_frozen(content: Any) -> bool:
    return is_dataclass(content) and cast("Any", content).__dataclass_params__.frozen


@functools.cache
def _names(code: CodeType) -> tuple[str, ...]:
    """All names that a code, and the code within it, reads of anything."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return tuple(dict.fromkeys([*code.co_names, *itertools.chain(*inner)]))


def _globals(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """The names of its module that a function's code, and the code within it, reads, each with the
    attributes that are read of it at once."""
    return _paths(code, ("LOAD_GLOBAL", "LOAD_NAME"))


def _cells(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """The same of the variables that it closes over, and of its own that others close over."""
    return _paths(code, ("LOAD_DEREF",))


@functools.cache
def _paths(code: CodeType, reads: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    paths: list[list[str]] = []
    reading = False
    for step in dis.get_instructions(code):
        if step.opname in reads:
            paths.append([step.argval])
            reading = True
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and reading:
            paths[-1].append(step.argval)
        elif step.opname not in ("CACHE", "EXTENDED_ARG"):
            reading = False
    inner = [_paths(one, reads) for one in code.co_consts if isinstance(one, CodeType)]
    return tuple(dict.fromkeys([*map(tuple, paths), *itertools.chain(*inner)]))


def _at(known: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """What stands at a path: the attributes of modules are followed, the methods of classes, and
    nothing of an object. Raises TypeError for a value that a class or a function holds."""
    name, *rest = path
    found = known.get(name)  # a builtin is the same for all
    for attribute in rest:
        if isinstance(found, FunctionType):
            raise TypeError(_CHANGES)
        if not isinstance(found, ModuleType | type) or _is_torch(found):
            break
        owner, found = found, getattr(found, attribute, None)
        if isinstance(owner, type) and not (callable(found) or isinstance(found, Enum)):
            raise TypeError(_CHANGES)
    return found


def _is_torch(found: Any) -> bool:
    """Whether it is torch's: what its functions read does not change a rule."""
    name = getattr(found, "__name__" if isinstance(found, ModuleType) else "__module__", None)
    return (name or "").partition(".")[0] == "torch"


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
