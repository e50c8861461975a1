"""Choices between numbers that may live on an accelerator, where a branch would wait for them.

A hyperparameter or a step count is a plain number on the host, and on an accelerator a stand-in
with the arithmetic of one. These take both, and plain numbers as Python does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers."""
    if _plain(a) and _plain(b):
        return max(a, b)
    return torch.maximum(_like(b, a), _like(a, b))


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two numbers."""
    if _plain(a) and _plain(b):
        return min(a, b)
    return torch.minimum(_like(b, a), _like(a, b))


def chosen(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, otherwise `no`; numbers or tensors, both evaluated."""
    if _plain(condition):
        return yes if condition else no
    return torch.where(condition, yes, no)


def log(a: Any) -> Any:
    """The natural logarithm; −inf of 0."""
    if not _plain(a):
        return torch.log(a)
    return math.log(a) if a else -math.inf


def _plain(a: Any) -> bool:
    return isinstance(a, int | float)


def _like(other: Any, a: Any) -> Any:
    """`a` as what the other is: torch takes no plain numbers here."""
    if not _plain(a):
        return a
    return other.new_full((), a) if isinstance(other, Tensor) else (other == other) * a
