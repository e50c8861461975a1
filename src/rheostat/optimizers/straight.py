"""A step of parameters that kernels take just as they are: column by column, without an item each.

What is asked and made for each parameter of a step costs microseconds, for many small ones more
than their arithmetic. Where nothing but a kernel has to see them, columns are made once, and serve
as long as parameters, buffers and gradients lie as they did.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rheostat.core.transform import Transform, square
from rheostat.optimizers.items import Held, numbers_of


@dataclass(slots=True)
class Batch:
    """Parameters of one group, dtype and count of updates, on the CPU, and what belongs to each.

    `measured` is what the rule has measured, over all parameters of the step.
    """

    params: list[Tensor]
    gradients: list[Tensor]
    states: list[dict[str, Tensor]]
    numbers: Mapping[str, Any]
    measured: Mapping[str, Tensor]
    count: float = 0.0


@runtime_checkable
class BatchKernel(Protocol):
    """A kernel that needs no items."""

    finishes: bool
    takes_measured: bool
    """Whether it runs rules that measure, once that is done."""

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
    params: list[Tensor]
    states: list[dict[str, Tensor]]


def columns_of(
    rules: Sequence[Transform], held: Sequence[Held], gradients: Sequence[Tensor]
) -> list[Column] | None:
    """The columns of a step with gradients that lie like these; None where it takes more than one
    kernel a group to run it, or a gradient is laid out in another way than kernels expect."""
    made: list[Column] = []
    pairs = zip(held, gradients, strict=True)
    for group, together in itertools.groupby(pairs, lambda pair: pair[0].group):
        members, mine = zip(*together, strict=True)
        kernel, dtype = members[0].kernel, members[0].dtype
        if (
            not isinstance(kernel, BatchKernel)
            or not _straight(rules[group], kernel)
            or any(one.kernel is not kernel or not one.param.is_cpu for one in members)
            # torch's own kernels read another order where a tensor has strides.
            or not all(one.param.is_contiguous() for one in members)
            or any(one.dtype != dtype for one in members)
            or not all(_dense(gradient, dtype) for gradient in mine)
        ):
            return None
        params, states = [one.param for one in members], [one.state for one in members]
        made.append(Column(group, kernel, params, states))
    # What is measured is the whole step's only where all rules begin with the same piece.
    measuring = any(rules[column.group].measuring for column in made)
    first = {id(rules[column.group].pieces[0]) for column in made if measuring}
    return None if len(first) > 1 else made


def _straight(rule: Transform, kernel: BatchKernel) -> bool:
    """Whether the kernel is all that the rule needs, but for the squares of its gradients."""
    first, *rest = rule.pieces
    return (
        not rule.scalars
        and (kernel.finishes or not any(p.after for p in rule.pieces))
        and (first.measure is None or (first.measure is square and kernel.takes_measured))
        and not any(p.measure for p in rest)
        and not any(p.settle or p.probe or p.search for p in rule.pieces)
        and not any(buffer.fill == "param" for buffer in rule.buffers.values())
    )


def _dense(gradient: Tensor, dtype: torch.dtype) -> bool:
    """Whether it is a plain gradient of the dtype that its parameter has, without holes."""
    return (
        type(gradient) is Tensor
        and gradient.dtype is dtype
        and gradient.layout is torch.strided
        and gradient.is_contiguous()
    )


def run(
    columns: Sequence[Column],
    groups: Sequence[Mapping[str, Any]],
    rules: Sequence[Transform],
    gradients: Sequence[Tensor],
    squares: Tensor | None,
    held: Sequence[Held],
    count: Callable[[Sequence[Held], int], Sequence[float]],
) -> bool:
    """Run a step over all of the columns, whose gradients and parameters (`held`) come in the same
    order; `squares` are their sums of squares, where somebody has taken them, and `count` counts
    the step. False where a group or its numbers want more than its kernel does: nothing is done
    then. What a fault leaves where it was is not counted."""
    batches: list[Batch] = []
    rest = iter(gradients)
    measured: Mapping[str, Tensor] = {}
    if rules[columns[0].group].measuring:
        if squares is None:
            return False
        measured = {"square": squares.sum()}
    for column in columns:
        group, params = groups[column.group], column.params
        numbers = numbers_of(group, rules[column.group])
        if group["maximize"] or not column.kernel.can(numbers):
            return False
        mine = list(itertools.islice(rest, len(params)))
        batches.append(Batch(params, mine, column.states, numbers, measured))
    counts = iter(count(held, 1))
    shares = [list(itertools.islice(counts, len(batch.params))) for batch in batches]
    moved: set[tuple[int, float]] = set()
    try:
        for i, (column, batch, own) in enumerate(zip(columns, batches, shares, strict=True)):
            for batch.count in sorted({*own}):
                alone = own.count(batch.count) == len(own)
                column.kernel.run_batch(batch if alone else _some(batch, own))
                moved.add((i, batch.count))
    except BaseException:
        still = [(i, each) not in moved for i, own in enumerate(shares) for each in own]
        count([*itertools.compress(held, still)], -1)
        raise
    return True


def _some(batch: Batch, counts: Sequence[float]) -> Batch:
    """Those of a batch that have its count."""
    chosen = [i for i, count in enumerate(counts) if count == batch.count]
    return replace(
        batch,
        params=[batch.params[i] for i in chosen],
        gradients=[batch.gradients[i] for i in chosen],
        states=[batch.states[i] for i in chosen],
    )
