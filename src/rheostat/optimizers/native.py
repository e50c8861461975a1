"""A rule as one C++ function over all parameters of a group, on the CPU.

Nothing is gathered, copied or allocated but the addresses: one call runs through the tensors where
they lie, small and large. The compiler is called once for a rule on a machine, and takes about a
second (`core.compiler`).
"""

from __future__ import annotations

import array
import ctypes
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from rheostat.core import compiler
from rheostat.core.errors import InputError
from rheostat.core.transform import Buffer, Transform
from rheostat.optimizers.assignments import UnsupportedError
from rheostat.optimizers.cpp import source
from rheostat.optimizers.tracing import Traced, traced

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item
    from rheostat.optimizers.straight import Batch

_PLAIN = (Tensor, torch.nn.Parameter)

LOST = "rules that torch has no fused kernel for run eagerly, several times slower"

Run = Callable[[int, int, int, int, int, int], None]


class NativeKernel:
    """A rule as a compiled function of addresses, and another of what it measures, where that can
    be written; compiled at the first step."""

    takes_measured = True

    def __init__(self, rule: Transform) -> None:
        graph = traced(rule)
        assert graph is not None
        moving, measuring = graph, graph.measuring
        text = program(rule, moving)
        assert text is not None
        self._moving = moving, text
        self._measuring = None
        if measuring is not None and (text := program(rule, measuring)) is not None:
            self._measuring = measuring, text
        self._measured = graph.measured
        self.finishes = graph.finishes
        self._names = tuple(rule.buffers)
        self._doubles = {name for name, buffer in rule.buffers.items() if _is_double(buffer)}

    @staticmethod
    def can_run(rule: Transform) -> bool:
        """Whether the rule can be written in C++."""
        graph = traced(rule)
        return graph is not None and program(rule, graph) is not None

    def suits(self, param: Tensor, state: Mapping[str, Tensor]) -> bool:
        """Real float32 and float64 parameters on the CPU, whose buffers have the dtype that they
        were declared with, or the parameter's; none where the compiler fails."""
        tensors = [(param, param.dtype)]
        for name in self._names:
            dtype = torch.float64 if name in self._doubles else param.dtype
            tensors.append((state[name], dtype))
        texts = [one[1] for one in (self._moving, self._measuring) if one]
        served = self._moving[0].serves(param.dtype)
        return served and lie_plain(tensors) and all(map(compiles, texts))

    def takes(self, item: Item) -> bool:
        """Dense gradients, and neither they nor the parameter with holes."""
        return takes_address(item)

    @property
    def measures(self) -> bool:
        """Whether it can take the rule's measurements."""
        return self._measuring is not None

    def measure(self, items: Sequence[Item]) -> Mapping[str, Tensor]:
        """What the rule measures, summed over the items in their order."""
        assert self._measuring is not None
        results = torch.zeros(len(self._measured), dtype=torch.float64)
        self._call(*self._measuring, items, results)
        return dict(zip(self._measured, results.unbind(), strict=True))

    def run(self, items: Sequence[Item]) -> None:
        """Move the items' parameters and write their buffers."""
        self._call(*self._moving, items, None)

    def can(self, numbers: Mapping[str, Any]) -> bool:
        """With any numbers."""
        del numbers
        return True

    def run_batch(self, batch: Batch) -> None:
        """Move the batch's parameters and write their buffers."""
        graph, text = self._moving
        known = {**batch.numbers, "step": batch.count}
        vector = graph.numbers(known, batch.measured, batch.params[0].dtype)
        launch(text, vector, self._columns(batch.params, batch.gradients, batch.states))
        increment_version(batch.params)

    def _call(
        self, graph: Traced, text: str, items: Sequence[Item], results: Tensor | None
    ) -> None:
        """All items of one group, count and dtype in one call."""
        together: dict[tuple[Any, ...], list[Item]] = {}
        for item in items:
            key = (id(item.numbers), item.same, item.param.dtype)
            together.setdefault(key, []).append(item)
        for batch in together.values():
            first = batch[0]
            known = {**first.numbers, "step": first.step}
            vector = graph.numbers(known, first.measured or {}, first.param.dtype)
            params, gradients = [item.param for item in batch], [item.update for item in batch]
            states = [item.state for item in batch]
            launch(text, vector, self._columns(params, gradients, states), results)
            if results is None:
                finish(batch)

    def _columns(
        self,
        params: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[Mapping[str, Tensor]],
    ) -> list[Sequence[Tensor]]:
        return [params, gradients, *([state[name] for state in states] for name in self._names)]


def lie_plain(tensors: Sequence[tuple[Tensor, torch.dtype]]) -> bool:
    """Whether real tensors, of which the parameter is the first, lie on the CPU without holes, each
    with the dtype beside it."""
    return tensors[0][1] in (torch.float32, torch.float64) and all(
        # An address says nothing of what a subclass holds.
        type(one) in _PLAIN
        and one.device.type == "cpu"
        and one.dtype is dtype
        and one.is_contiguous()
        and not one.is_neg()
        for one, dtype in tensors
    )


def takes_address(item: Item) -> bool:
    """Whether the item's gradient is dense, and neither it nor the parameter has holes."""
    param, gradient = item.param, item.update
    return (
        item.frame is None
        and type(gradient) is Tensor
        and gradient.dtype is param.dtype
        and gradient.layout is torch.strided
        and gradient.is_contiguous()
        and param.is_contiguous()
    )


def finish(items: Sequence[Item]) -> None:
    """Say that these items have their updates."""
    # A graph that still holds the parameters must notice that they have moved.
    increment_version([item.param for item in items])
    for item in items:
        item.finish()


def compiles(text: str) -> bool:
    """Whether the machine's compiler makes a library of a source."""
    return library(text) is not None


def launch(
    text: str,
    vector: Tensor,
    columns: Sequence[Sequence[Tensor]],
    results: Tensor | None = None,
) -> None:
    """Run a program over many parameters, each with a place in every column: the parameters, the
    gradients, and the buffers in their order. Raises InputError for one whose memory was freed."""
    functions = library(text)
    assert functions is not None  # or nothing would have suited
    params = columns[0]
    rows = itertools.chain.from_iterable(zip(*columns, strict=True))
    addresses = array.array("Q", map(Tensor.data_ptr, rows))
    lengths = array.array("q", map(Tensor.numel, params))
    if not all(addresses):
        check_memory(columns)
    functions[params[0].dtype](
        len(params),
        lengths.buffer_info()[0],
        addresses.buffer_info()[0],
        vector.data_ptr(),
        0 if results is None else results.data_ptr(),
        torch.get_num_threads(),
    )


def check_memory(columns: Sequence[Sequence[Tensor]]) -> None:
    """Refuse tensors without memory, such as a shard that is gathered elsewhere. Raises
    InputError."""
    for one in itertools.chain(*columns):
        if one.numel() and not one.data_ptr():
            raise InputError(
                f"the memory of a parameter, gradient or state of shape {tuple(one.shape)} was "
                "freed; step when it is there"
            )


def program(rule: Transform, graph: Traced) -> str | None:
    """The C++ of one of the rule's graphs; None where it has none."""
    wide = (True, True, *(buffer.like_parameter for buffer in rule.buffers.values()))
    doubles = (False, False, *map(_is_double, rule.buffers.values()))
    return _source(graph, wide, doubles)


def _is_double(buffer: Buffer) -> bool:
    """Whether it is one number in float64, whatever the parameter is."""
    return buffer.dtype is torch.float64 and not buffer.like_parameter


@functools.cache
def _source(graph: Traced, wide: tuple[bool, ...], doubles: tuple[bool, ...]) -> str | None:
    try:
        return source(graph.graph, wide, doubles)
    except UnsupportedError:
        return None


def compiler_at_hand() -> bool:
    """Whether there is a C++ compiler; says once what is lost without one."""
    return compiler.at_hand(LOST)


@functools.cache
def library(text: str) -> Mapping[torch.dtype, Run] | None:
    """The functions of a source; None (said once) where it cannot be compiled."""
    loaded = compiler.library(text, LOST)
    if loaded is None:
        return None
    found: dict[torch.dtype, Run] = {}
    for dtype, name in ((torch.float32, "run_float"), (torch.float64, "run_double")):
        function = getattr(loaded, name)
        function.argtypes = (ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_int)
        function.restype = None
        found[dtype] = function
    return found
