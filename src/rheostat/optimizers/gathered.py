"""A rule piece by piece over many small parameters at once, where it works element by element."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheostat.core.transform import Transform
from rheostat.optimizers import fused
from rheostat.optimizers.gathering import SMALL, Gathering, copy_all, dense, parts
from rheostat.optimizers.pieces import advance

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

MANY = 16
"""Parameters from which it pays to gather them."""


class GatheredKernel:
    """What the pieces do to one parameter, they do to many laid end to end."""

    finishes = False

    def __init__(self, rule: Transform) -> None:
        self._rule = rule
        self._like = tuple(n for n, buffer in rule.buffers.items() if buffer.like_parameter)
        self._single = tuple(n for n in rule.buffers if n not in self._like)
        self._gathering = Gathering(self._like)

    @staticmethod
    def can_run(rule: Transform) -> bool:
        """Whether the rule works element by element, with buffers shaped like the parameter or of
        one number, and measures at most at first; and draws no noise, which is each parameter's
        own."""
        return (
            rule.scope == "element"
            and not any(piece.host_step for piece in rule.pieces)
            and all(b.like_parameter or b.shape(_PROBE) == () for b in rule.buffers.values())
            and not any(piece.measure for piece in rule.pieces[1:])
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> GatheredKernel:
        """A kernel for a copied optimizer, whose buffers live elsewhere."""
        return GatheredKernel(self._rule)

    def suits(self, param: Tensor, state: Mapping[str, Tensor]) -> bool:
        """Small real float32 and float64 parameters that have elements."""
        return (
            type(param) in fused.PLAIN
            and 0 < param.numel() < SMALL
            and param.dtype in (torch.float32, torch.float64)
            and all(state[name].dtype == param.dtype for name in self._like)
            and all(state[name].is_contiguous() for name in self._like)
            # Numbers are compared, for which a device would be waited for.
            and (param.is_cpu or not self._single)
        )

    def takes(self, item: Item) -> bool:
        """Dense gradients, and neither they nor the parameter with holes."""
        return dense(item)

    def run(self, items: Sequence[Item]) -> None:
        """Those of one group, step, device and dtype together, where they are many."""
        batches: dict[tuple[Any, ...], list[Item]] = {}
        for item in items:
            param, numbers = item.param, [item.state[name].item() for name in self._single]
            key = (id(item.numbers), item.same, param.dtype, param.device, *numbers)
            batches.setdefault(key, []).append(item)
        for batch in batches.values():
            if len(batch) < MANY:
                for item in batch:
                    advance(item)
                continue
            for part in parts(batch):
                with self._as_one(part) as whole:
                    advance(whole)
                for item in part:
                    item.finish()

    @contextmanager
    def _as_one(self, items: list[Item]) -> Generator[Item]:
        """One item of all; what becomes of it is put back."""
        first = items[0]
        with self._gathering.together(items) as (params, updates, buffers):
            state = {**first.state, **dict(zip(self._like, buffers, strict=True))}
            yield replace(first, param=params, update=updates, state=state, _hyper=None)
        for name in self._single:
            others = [item.state[name] for item in items[1:]]
            copy_all(others, [first.state[name]] * len(others))


_PROBE = torch.empty(2, 2)
