"""A step of parameters that kernels take just as they are: column by column, without an item each.

What is asked and made for each parameter of a step costs microseconds, for many small ones more
than their arithmetic. Where nothing but a kernel has to see them, all that is asked anew is how the
gradients are laid out.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rheostat.core.transform import Transform
from rheostat.optimizers.items import Held, numbers_of


@dataclass(slots=True)
class Batch:
    """Parameters of one group, dtype and count of updates, on the CPU, and what belongs to each."""

    params: list[Tensor]
    gradients: list[Tensor]
    states: list[dict[str, Tensor]]
    numbers: Mapping[str, Any]
    count: float


@runtime_checkable
class BatchKernel(Protocol):
    """A kernel that needs no items."""

    finishes: bool

    def can(self, numbers: Mapping[str, Any]) -> bool:
        """Whether it can run with these numbers."""
        ...

    def run_batch(self, batch: Batch) -> None:
        """Move the parameters and write their buffers."""
        ...


@dataclass(slots=True)
class Column:
    """The parameters of a group, one behind the other in the list of those that take part."""

    group: int
    kernel: BatchKernel
    dtype: torch.dtype
    params: list[Tensor]
    states: list[dict[str, Tensor]]


def columns_of(rules: Sequence[Transform], held: Sequence[Held]) -> list[Column] | None:
    """The columns of a step; None where it takes more than one kernel a group to run it."""
    made: list[Column] = []
    for group, together in itertools.groupby(held, lambda one: one.group):
        members = list(together)
        kernel = members[0].kernel
        if (
            not isinstance(kernel, BatchKernel)
            or not _straight(rules[group], kernel)
            or any(one.kernel is not kernel or not one.param.is_cpu for one in members)
            # torch's own kernels read another order where a tensor has strides.
            or not all(one.param.is_contiguous() for one in members)
            or len({one.dtype for one in members}) > 1
        ):
            return None
        params, states = [one.param for one in members], [one.state for one in members]
        made.append(Column(group, kernel, members[0].dtype, params, states))
    return made


def _straight(rule: Transform, kernel: BatchKernel) -> bool:
    """Whether the kernel is all that the rule needs."""
    return (
        not rule.scalars
        and (kernel.finishes or not any(p.after for p in rule.pieces))
        and not any(p.measure or p.probe or p.search for p in rule.pieces)
        and not any(buffer.fill == "param" for buffer in rule.buffers.values())
    )


def run(
    columns: Sequence[Column],
    groups: Sequence[Mapping[str, Any]],
    rules: Sequence[Transform],
    gradients: Sequence[Tensor],
    count: Callable[[], Sequence[float]],
) -> bool:
    """Run a step over all of the columns, whose gradients come in the same order; `count` counts
    it. False where a gradient is turned, or laid out in another way than the kernels expect:
    nothing is done then."""
    batches: list[Batch] = []
    rest = iter(gradients)
    for column in columns:
        group, params = groups[column.group], column.params
        numbers = numbers_of(group, rules[column.group])
        mine = list(itertools.islice(rest, len(params)))
        if group["maximize"] or not column.kernel.can(numbers) or not _dense(column, mine):
            return False
        batches.append(Batch(params, mine, column.states, numbers, 0.0))
    counts = iter(count())
    for column, batch in zip(columns, batches, strict=True):
        own = list(itertools.islice(counts, len(batch.params)))
        for batch.count in sorted({*own}):
            alone = own.count(batch.count) == len(own)
            column.kernel.run_batch(batch if alone else _some(batch, own))
    return True


def _dense(column: Column, gradients: list[Tensor]) -> bool:
    """Plain gradients of the dtype that the parameters have, without holes."""
    # Each question to all of them in turn: a loop over the parameters takes three times as long.
    if {*map(type, gradients)} != {Tensor} or {*map(_dtype, gradients)} != {column.dtype}:
        return False
    try:
        # Where it holds, the layout is strided.
        return all(map(Tensor.is_contiguous, gradients))
    except RuntimeError:  # some sparse ones have no answer
        return False


_dtype = operator.attrgetter("dtype")


def _some(batch: Batch, counts: Sequence[float]) -> Batch:
    """Those of a batch that have its count."""
    chosen = [i for i, count in enumerate(counts) if count == batch.count]
    return Batch(
        [batch.params[i] for i in chosen],
        [batch.gradients[i] for i in chosen],
        [batch.states[i] for i in chosen],
        batch.numbers,
        batch.count,
    )
