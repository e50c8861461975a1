"""Another library's classes as components: their signatures become schemas.

An optimizer's factory gives a `ForeignOptimizer`, which makes the library's own object for a model.
A scheduler's gives a Schedule that replays it on an optimizer without parameters to train, so that
it is a pure function of the step like any other. A class that data cannot make (it wants a model, a
function, another optimizer) is kept as broken, with the reason.
"""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from typing import Annotated, Any, Literal, Union, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from rheostat.core.component import BrokenPlugin, Component, adopt, mark_broken, one_line
from rheostat.core.errors import InputError
from rheostat.core.hyper import NonNegative, check_arguments
from rheostat.core.naming import named_parameters
from rheostat.core.schedule import Array, Schedule
from rheostat.optimizers.followed import Followed
from rheostat.optimizers.scheduled import START, at_counts, has_schedule

_PLAIN = (float, int, bool, str, type(None))
_NOT_DATA = ("self", "params", "optimizer", "last_epoch", "verbose")
"""What a constructor takes that is nobody's to choose."""


@dataclass(frozen=True)
class ForeignOptimizer:
    """Another library's optimizer with its hyperparameters, still without parameters.

    `arguments` holds what was given, schedules among it; the rest is left to the library.
    """

    component: str
    make: Callable[..., torch.optim.Optimizer]
    arguments: Mapping[str, Any]

    def on(self, target: nn.Module | Iterable[Any]) -> torch.optim.Optimizer:
        """The library's own optimizer for a module, or for what torch.optim takes.

        A scheduled hyperparameter is written into `param_groups` after each step, by a hook; the
        groups count their `updates`, which a checkpoint of the optimizer keeps.

        Raises:
            InputError: as `follow`.
        """
        scheduled = any(map(has_schedule, self.arguments.values()))
        return self.follow(target).theirs if scheduled else self._made(target)

    def follow(self, target: nn.Module | Iterable[Any]) -> Followed:
        """The same, with its schedules and counts at hand.

        Raises:
            InputError: the library refuses the arguments; what `Followed` refuses.
        """
        target = target if isinstance(target, nn.Module) else list(target)
        names: list[str] = []
        if isinstance(target, nn.Module):
            names = [name for name, _ in named_parameters(target)]
        schedules = {name: v for name, v in self.arguments.items() if has_schedule(v)}
        return Followed(self._made(target), schedules, names, self.component)

    def _made(self, target: nn.Module | Iterable[Any]) -> torch.optim.Optimizer:
        params = list(target.parameters()) if isinstance(target, nn.Module) else target
        try:
            return self.make(params, **{k: at_counts(v, START) for k, v in self.arguments.items()})
        # A constructor may refuse with any exception; the user gets one line.
        except Exception as error:  # noqa: BLE001
            raise InputError(f"{self.component}: {one_line(error)}") from None


def adopt_library(library: str, namespace: Mapping[str, Any]) -> None:
    """Give keys to the optimizers and schedulers that a library defines among these names."""
    number = version(library).partition("+")[0]
    for name, found in namespace.items():
        if not inspect.isclass(found) or name.startswith("_"):
            continue
        own = found.__module__.partition(".")[0] == library
        if not own or found in (torch.optim.Optimizer, lr_scheduler.LRScheduler):
            continue
        if issubclass(found, torch.optim.Optimizer):
            _adopt("optimizer", f"{library}/{name}", number, found)
        elif issubclass(found, lr_scheduler.LRScheduler):
            _adopt("schedule", f"{library}/{name}", number, found)


def _adopt(kind: str, name: str, number: str, found: type[Any]) -> None:
    library = name.partition("/")[0]
    try:
        parameters, closed = _parameters(found, "optimizer" if kind == "schedule" else "params")
        if kind == "schedule":
            _check_measures_nothing(found)
            peak = inspect.Parameter("peak", inspect.Parameter.KEYWORD_ONLY, annotation=NonNegative)
            parameters = {"peak": peak, **parameters}
    except InputError as error:
        mark_broken(BrokenPlugin.of(name, found.__module__, library, error))
        return
    build = _schedule if kind == "schedule" else ForeignOptimizer
    component = Component(
        kind, name, number, found.__module__, found.__qualname__, _about(found), tuple(parameters)
    )

    def make(**given: Any) -> Any:
        for argument in given:
            if argument in closed:
                raise InputError(f"{name}: {argument} cannot be given as data: {closed[argument]}")
        check_arguments(make, given, where=name)
        return build(component.ref, found, given)

    make.__name__ = make.__qualname__ = found.__name__
    make.__doc__ = component.doc
    make.__annotations__ = {p.name: p.annotation for p in parameters.values()}
    vars(make)["__signature__"] = inspect.Signature(list(parameters.values()))
    adopt(component, make)


def _about(found: type[Any]) -> str:
    """The first line that the class says of itself."""
    lines = [line.strip() for line in (found.__doc__ or "").splitlines()]
    said = next((line for line in lines if line), "")
    return said.rstrip(".:") + "." if said else f"{found.__name__} of {found.__module__}."


def _check_measures_nothing(found: type[Any]) -> None:
    needed = [
        p.name
        for p in list(inspect.signature(found.step).parameters.values())[1:]
        if p.default is p.empty
    ]
    if needed:
        raise InputError(f"its step needs {needed[0]}, and a schedule sees nothing but the step")


def _parameters(
    found: type[Any], first: str
) -> tuple[dict[str, inspect.Parameter], dict[str, str]]:
    """The constructor's arguments that data can be, and why the others cannot.

    Raises InputError where one of these is required.
    """
    signature = inspect.signature(found.__init__).parameters
    takes = list(signature)[1:2]
    if takes != [first]:
        raise InputError(f"its first argument is {takes[0] if takes else 'nothing'}, not {first}")
    hints = _hints(found)
    parameters: dict[str, inspect.Parameter] = {}
    closed: dict[str, str] = {}
    for name, parameter in signature.items():
        if name in _NOT_DATA or parameter.kind is parameter.VAR_KEYWORD:
            continue
        default = parameter.default
        default = default.value if isinstance(default, Enum) else default
        annotation = _data_type(hints[name]) if name in hints else _type_of(default)
        if annotation is not None:
            parameters[name] = inspect.Parameter(
                name, parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            continue
        closed[name] = f"its type is {_called(hints.get(name, type(default)))}"
        if default is parameter.empty:
            raise InputError(f"its argument {name} cannot be given as data: {closed[name]}")
    return parameters, closed


def _hints(found: type[Any]) -> dict[str, Any]:
    """The constructor's annotations, as far as they can be read: one at a time, and with the names
    that a library may import for its type checker alone."""
    init: Any = found.__init__
    names = {**vars(collections.abc), **vars(typing), **getattr(init, "__globals__", {})}
    hints: dict[str, Any] = {}
    for name, annotation in getattr(init, "__annotations__", {}).items():
        with contextlib.suppress(NameError, TypeError, SyntaxError):
            one = types.SimpleNamespace(__annotations__={name: annotation})
            hints |= typing.get_type_hints(one, names, include_extras=True)
    return hints


def _called(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else re.sub(r"[\w.]+\.", "", str(hint))


def _data_type(hint: Any) -> Any:
    """The part of an annotation that data can be, as our own annotations say it; None for none."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN or origin is Literal:
        return hint
    if origin is Annotated:
        return _data_type(parts[0])
    if origin in (Union, types.UnionType):
        kept = [kind for kind in map(_data_type, parts) if kind is not None]
        # None alone says only that there is something that data cannot be.
        return Union[tuple(kept)] if kept and kept != [type(None)] else None  # noqa: UP007
    if origin is tuple:
        inner = [part if part is Ellipsis else _data_type(part) for part in parts]
        return None if None in inner else tuple[tuple(inner)]
    if inspect.isclass(origin) and issubclass(origin, Iterable) and len(parts) == 1:
        inner = _data_type(parts[0])
        return None if inner is None else tuple[inner, ...]
    return None


def _type_of(default: object) -> Any:
    """The type of a default, for an argument without an annotation."""
    if isinstance(default, tuple):
        kinds = [_type_of(part) for part in cast("tuple[Any, ...]", default)]
        return None if None in kinds else tuple[tuple(kinds)]
    return next((kind for kind in (bool, int, float, str) if type(default) is kind), None)


class _Replay:
    """The rates that a scheduler sets, in order, as far as they have been asked for."""

    def __init__(self, name: str, make: Callable[..., Any], given: Mapping[str, Any]) -> None:
        arguments = dict(given)
        # With a momentum, because some schedulers move it too.
        peak = float(arguments.pop("peak"))
        self._optimizer: Any = torch.optim.SGD([nn.Parameter(torch.zeros(()))], peak, momentum=0.9)
        try:
            self._scheduler = make(self._optimizer, **arguments)
        # A constructor may refuse with any exception; the user gets one line.
        except Exception as error:  # noqa: BLE001
            raise InputError(f"{name}: {one_line(error)}") from None
        self._optimizer.step()  # schedulers warn where the first step is theirs
        self._rates = [self._rate()]

    def _rate(self) -> float:
        rate: float | Tensor = self._optimizer.param_groups[0]["lr"]
        return float(rate)

    def __call__(self, steps: Array) -> Array:
        last = int(steps.max()) if steps.size else 0
        while len(self._rates) <= last:
            try:
                self._scheduler.step()
            except ValueError:  # past the end of one that has an end: it keeps its last rate
                self._rates += [self._rates[-1]] * (last + 1 - len(self._rates))
                break
            self._rates.append(self._rate())
        return np.asarray(self._rates, dtype=np.float64)[np.floor(steps).astype(np.int64)]


def _schedule(component: str, make: Callable[..., Any], given: Mapping[str, Any]) -> Schedule:
    replay = _Replay(component, make, given)
    return Schedule(replay).stamped(component, dict(given), set[str]())
