"""What a hyperparameter may be: annotated types, and the checks that enforce them.

A component's signature is its schema: `lr: NonNegative = 1e-3` is the default, the range
that every check enforces, and the JSON Schema, at once (`arguments_of`). Numbers (and tuples
of numbers) can be scheduled and live in `param_groups`; flags, counts and names are structure,
fixed when the component is made.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, SupportsFloat, SupportsIndex, cast

import annotated_types as at

from rheostat.core.errors import InputError, nearest
from rheostat.core.schedule import Schedule

if TYPE_CHECKING:
    from pydantic import TypeAdapter

NonNegative = Annotated[float, at.Ge(0)]
Positive = Annotated[float, at.Gt(0)]
Fraction = Annotated[float, at.Ge(0), at.Lt(1)]
"""A coefficient of a running average, or a momentum: in [0, 1)."""
UnitInterval = Annotated[float, at.Ge(0), at.Le(1)]
Betas = tuple[Fraction, Fraction]
Count = Annotated[int, at.Ge(1), at.Le(2**53)]
"""A whole number that a float64 holds exactly, as schedules compute in."""
Steps = Annotated[int, at.Ge(0), at.Le(2**53)]

REQUIRED = inspect.Parameter.empty
"""The default of an argument that has none."""

_LONGEST = 120
"""Characters that an error shows of a value."""

_EXPECTED = {
    "float_type": "should be a number",
    "int_type": "should be a whole number",
    "bool_type": "should be a boolean, true or false",
    "string_type": "should be text",
    "tuple_type": "should be a list",
    "finite_number": "should be finite",
    "missing": "is required",
}
"""What was expected, in plain words, by pydantic's type of error; else its own message serves."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one value. `path` leads to it inside the argument (`(1,)`: its second
    part); `message` says what is allowed."""

    path: tuple[str | int, ...]
    found: Any
    message: str


@dataclass(frozen=True)
class Argument:
    """One argument of a component: its type is its schema. `default` may be `REQUIRED`."""

    name: str
    annotation: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED

    @property
    def number(self) -> bool:
        """Whether it can be scheduled: a number, or a tuple of numbers, each on its own."""
        return is_number(self.annotation)

    @property
    def scalar(self) -> bool:
        """Whether it is a single number."""
        return _bare(self.annotation) is float

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Pydantic's view of the type: strict, and without infinities."""
        # pydantic costs a tenth of a second to import, so it is loaded at the first component made.
        from pydantic import ConfigDict, TypeAdapter

        config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
        # A Schedule says itself how it is checked, and pydantic refuses a config for dataclasses.
        own = is_dataclass(_bare(self.annotation))
        return TypeAdapter(self.annotation, config=None if own else config)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The least and the greatest number that its bounds allow, both included; what is in
        between needs no other check."""
        low, high = -sys.float_info.max, sys.float_info.max
        is_annotated = typing.get_origin(self.annotation) is Annotated
        for bound in typing.get_args(self.annotation)[1:] if is_annotated else ():
            match bound:
                case at.Ge(ge=edge):
                    low = max(low, cast("float", edge))
                case at.Gt(gt=edge):
                    low = max(low, math.nextafter(cast("float", edge), math.inf))
                case at.Le(le=edge):
                    high = min(high, cast("float", edge))
                case at.Lt(lt=edge):
                    high = min(high, math.nextafter(cast("float", edge), -math.inf))
                case _:
                    return math.inf, -math.inf
        return low, high

    def parts(self, count: int) -> list[Argument] | None:
        """The parts of an argument that is a tuple, as many as `count`; None where it cannot be."""
        annotation = _bare(self.annotation)
        if typing.get_origin(annotation) is not tuple:
            return None
        types_ = typing.get_args(annotation)
        if len(types_) == 2 and types_[1] is Ellipsis:
            types_ = types_[:1] * count
        if len(types_) != count:
            return None
        return [Argument(f"{self.name}[{i}]", part) for i, part in enumerate(types_)]

    def check(self, value: Any) -> tuple[Any, list[Fault]]:
        """The value in its type (a list as a tuple, 1 as 1.0, 2.0 as a count), and every fault."""
        from pydantic import ValidationError

        length = _length(self.annotation)
        if length and _count(value) != length:
            wanted = "a pair" if length == 2 else f"a list of {length}"
            return value, [Fault((), value, f"should be {wanted}")]
        try:
            return self.adapter.validate_python(_coerced(self.annotation, value)), []
        except ValidationError as error:
            return value, [
                Fault(
                    item["loc"], item["input"], _expected(item["type"], item["msg"], item["input"])
                )
                for item in error.errors()
            ]


def _expected(kind: str, message: str, found: Any) -> str:
    text = _EXPECTED.get(kind) or re.sub("^[A-Z][a-z]* should", "should", message)
    text = text.replace(" after validation", "")
    return f"{text}, not text" if kind == "float_type" and isinstance(found, str) else text


def _bare(annotation: Any) -> Any:
    """The type without its bounds."""
    is_annotated = typing.get_origin(annotation) is Annotated
    return typing.get_args(annotation)[0] if is_annotated else annotation


def _count(value: Any) -> int:
    """How many values a list has; 0 for what is none."""
    return len(cast("list[Any]", value)) if isinstance(value, list | tuple) else 0


def _length(annotation: Any) -> int:
    """How many values there must be; 0 for what is no such list."""
    parts = typing.get_args(_bare(annotation))
    listed = typing.get_origin(_bare(annotation)) is tuple and Ellipsis not in parts
    return len(parts) if listed else 0


def _coerced(annotation: Any, value: Any) -> Any:
    """The value in the shape that the strict check wants, where only the spelling differs.

    Files have lists for tuples, and JSON has no difference between 2 and 2.0; a flag is never a
    number, and text never is either.
    """
    annotation = _bare(annotation)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and isinstance(value, list | tuple):
        items = tuple(cast("tuple[Any, ...]", value))
        if parts and parts[-1] is Ellipsis:
            parts = parts[:1] * len(items)
        whole = len(parts) == len(items)
        return tuple(map(_coerced, parts, items)) if whole else items
    if origin is Mapping and isinstance(value, Mapping):
        given = cast("Mapping[Any, Any]", value)
        return {key: _coerced(parts[1], item) for key, item in given.items()}
    if origin in (typing.Union, types.UnionType):
        for part in parts:
            value = _coerced(part, value)
        return value
    if annotation is int and not isinstance(value, bool):
        if isinstance(value, float):
            return int(value) if value.is_integer() else value
        return operator.index(value) if isinstance(value, SupportsIndex) else value
    return value


@cache
def arguments_of(factory: Callable[..., object]) -> Mapping[str, Argument]:
    """The arguments of a factory (a dataclass too) by name, in order. Raises InputError for a bare
    parameter."""
    hints = typing.get_type_hints(factory, include_extras=True)
    parameters = inspect.signature(factory).parameters
    for name in parameters:
        if name not in hints:
            where = f"{factory.__module__}.{factory.__qualname__}"
            raise InputError(
                f"{where}: parameter {name!r} has no annotation; its type is its schema"
            )
    defaults = {name: p.default for name, p in parameters.items()} | _made_anew(factory)
    return {name: Argument(name, hints[name], default) for name, default in defaults.items()}


def _made_anew(factory: object) -> dict[str, Any]:
    """The defaults that a dataclass makes for each of its objects."""
    known = fields(factory) if is_dataclass(factory) else ()
    return {f.name: f.default_factory() for f in known if f.default_factory is not MISSING}


def is_number(annotation: Any) -> bool:
    """Whether values of this annotation can be scheduled: a float, or a tuple of floats."""
    annotation = _bare(annotation)
    if typing.get_origin(annotation) is tuple:
        return all(is_number(part) for part in typing.get_args(annotation) if part is not Ellipsis)
    return annotation is float


def _present(value: Any, live: bool) -> Any:
    """The number that a schedule or a tensor stands for now; what is then checked."""
    if isinstance(value, tuple | list):
        return tuple(_present(part, live) for part in cast("tuple[Any, ...]", value))
    if isinstance(value, Schedule):
        return value(0) if live else value
    if isinstance(value, bool | int | float) or not isinstance(value, SupportsFloat):
        return value
    size: int = getattr(value, "numel", lambda: getattr(value, "size", 1))()
    if size != 1:
        raise InputError(f"should be one number, not {size}")
    return float(cast("Any", value).item() if hasattr(value, "item") else value)


def _kept(argument: Argument, given: Any, checked: Any, where: str) -> Any:
    """The checked value, with schedules and tensors as they were given."""
    if isinstance(given, tuple | list):
        items = tuple(cast("tuple[Any, ...]", given))
        parts = argument.parts(len(items)) or []
        return tuple(
            _kept(part, item, value, f"{where}.{i}")
            for i, (part, item, value) in enumerate(zip(parts, items, checked, strict=True))
        )
    if isinstance(given, Schedule):
        return _in_range(argument, given, where)
    return given if hasattr(given, "detach") else checked  # a tensor may be filled in place


def _in_range(argument: Argument, schedule: Schedule, where: str) -> Schedule:
    """The schedule, held against the argument's range: now as far as it is known, and by whoever
    runs it at each step."""

    low, high = argument.interval

    def fault(value: float) -> str | None:
        if low <= value <= high:
            return None
        faults = argument.check(value)[1]
        return faults[0].message if faults else None

    try:
        extremes = schedule.extremes()
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for step, value in extremes:
        if wrong := fault(value):
            at = f"at step {step:.10g}"
            raise InputError(f"{where}: its schedule gives {value:g} {at}; it {wrong}")
    return replace(schedule, fault=fault)


def check_arguments(
    factory: Callable[..., object], arguments: Mapping[str, Any], where: str, live: bool = True
) -> dict[str, Any]:
    """The arguments with defaults filled in, in the signature's order.

    Schedules and tensors stay as they were given; the numbers they stand for are checked. Where
    numbers are not `live`, tensors become numbers, and schedules are refused for them.

    Raises:
        InputError: an unknown name (with the nearest real one), a missing one, a wrong type, a
            value out of range or not finite; `where` begins the message.
    """
    known = arguments_of(factory)
    for name in arguments:
        if name not in known:
            raise InputError(f"{where}: unknown argument {name!r}; {nearest(name, known)}")
    complete: dict[str, Any] = {}
    for name, argument in known.items():
        if name not in arguments:
            if argument.required:
                raise InputError(f"{where}: {name}: is required")
            complete[name] = argument.default
            continue
        complete[name] = check_argument(argument, arguments[name], where, live)
    return complete


def check_argument(argument: Argument, given: Any, where: str, live: bool = True) -> Any:
    """The value in its type; schedules and tensors stay as they were given.

    Raises InputError for a wrong type, a value out of range or not finite; a schedule of numbers
    is held against the range at the steps that are known, and bears it from here on.
    """
    path = f"{where}: {argument.name}"
    try:
        present = _present(given, live) if argument.number else given
    except InputError as error:  # of a schedule's own
        raise InputError(f"{path}: {error}") from None
    checked, faults = argument.check(present)
    if faults:
        inside = "".join(f".{part}" for part in faults[0].path)
        hint = _hint(argument, given) if argument.number and live else ""
        raise InputError(f"{path}{inside}={_shown(faults[0].found)}: {faults[0].message}{hint}")
    return _kept(argument, given, checked, path) if argument.number and live else checked


def _shown(found: object) -> str:
    """What was found, in one line that is no longer than a line: what has parts by its type."""
    text = " ".join(repr(found).split())
    if len(text) <= _LONGEST:
        return text
    return f"<{type(found).__name__}>" if is_dataclass(found) else f"{text[:_LONGEST]}…"


def _hint(argument: Argument, given: Any) -> str:
    """How what was given for numbers becomes a schedule of them, where it is near to one."""
    if isinstance(given, Schedule):
        return "" if argument.scalar else "; each of its parts may be a schedule"
    if isinstance(given, Mapping):
        return "; in Python a schedule is made by a call, such as schedules.cosine(…)"
    if hasattr(given, "get_last_lr"):
        return "; schedules.from_torch(…) makes schedules of it"
    if callable(given):
        return "; call it if it makes a schedule, or give it to schedules.from_function(…)"
    return ""
