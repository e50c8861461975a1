"""What users hand to a run, looked at before anything is changed."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from rheostat.core.errors import InputError, nearest
from rheostat.core.registry import component, components
from rheostat.core.signal import Signal


def check_step(loss: Any, closure: Any, consumed: Any) -> None:
    """Refuse what `Run.step` cannot take. Raises InputError."""
    if callable(loss) and not isinstance(loss, Tensor):
        raise InputError("run.step: the loss is a function; give it as closure=…")
    if loss is not None and not _is_number(loss):
        raise InputError(f"run.step: loss: {_said(loss)}; should be one real number")
    if closure is not None and not callable(closure):
        raise InputError(f"run.step: closure: {_said(closure)}; should be a function")
    if consumed is not None and not isinstance(consumed, Mapping):
        what = 'should say of what, such as {"samples": 32}'
        raise InputError(f"run.step: consumed: {_said(consumed)}; {what}")


def check_reported(values: Mapping[str, Any], signals: Iterable[Signal]) -> None:
    """Refuse what none of these signals waits for, nor any other there is as it comes; and what is
    no number. Raises InputError."""
    heard = frozenset(name for one in signals for name in one.reported)
    for name, value in values.items():
        if name not in heard and name not in (known := heard | _every_report()):
            raise InputError(f"run.report: no signal waits for {name!r}; {nearest(name, known)}")
        if not _is_number(value):
            raise InputError(f"run.report: {name}: {_said(value)}; should be one real number")


def check_attached(
    model: Any, directory: Any, extra: Any, signals: Any, loss_of: Any, numbers: Any
) -> None:
    """Refuse what `attach` cannot take. Raises InputError."""
    if not isinstance(model, nn.Module):
        raise InputError(f"attach: model: {_said(model)}; should be a torch module")
    if directory is not None and not isinstance(directory, str | os.PathLike):
        raise InputError(f"attach: directory: {_said(directory)}; should be a folder's name")
    if extra is not None and not isinstance(extra, Mapping):
        raise InputError(f"attach: extra: {_said(extra)}; should be objects by their names")
    if isinstance(signals, str):
        raise InputError(f"attach: signals={signals!r}: should be a list; put it in [ ]")
    listed = (
        cast("Mapping[str, Any]", signals).values() if isinstance(signals, Mapping) else signals
    )
    for signal in listed:
        if not isinstance(signal, str | Signal):
            raise InputError(f"attach: signals: {_said(signal)}; should be a signal or its name")
    if loss_of is not None and not callable(loss_of):
        raise InputError(f"attach: loss_of: {_said(loss_of)}; should be a function of a number")
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"attach: {name}={value!r}: should be a number")


def _every_report() -> frozenset[str]:
    return _reported(*(one.ref for one in components("signal")))


@functools.cache
def _reported(*signals: str) -> frozenset[str]:
    """What these signals wait for; made once, as a loop may report at every step."""
    return frozenset(name for ref in signals for name in component(ref).factory().reported)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return hasattr(value, "__float__") and not isinstance(value, str | bytes)


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
