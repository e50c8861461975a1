"""A rule that sums along the rows and columns of a matrix (Adafactor's, Adam-mini's) as one C++
function over all matrices, on the CPU.

The rule is traced once for each shape, so that it may do with shapes what it likes; shapes that
differ by numbers alone share a function, and are done in one call.
"""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers.assignments import Axes, UnsupportedError
from rheostat.optimizers.cpp_grids import Kind, source
from rheostat.optimizers.grids import Grid, axes_of, grid_of
from rheostat.optimizers.native import (
    check_memory,
    compiles,
    finish,
    library,
    lie_plain,
    takes_address,
)
from rheostat.optimizers.structure import structure
from rheostat.optimizers.tracing import Traced, graph_of, through

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

Key = tuple[torch.Size, torch.dtype]


@dataclass(frozen=True)
class _Program:
    """A rule for one shape."""

    graph: Traced
    text: str
    """The C++."""
    constants: array.array[float]
    dtypes: tuple[torch.dtype, ...]
    """Of the buffers."""


class MatrixKernel:
    """Runs a rule over matrices and vectors."""

    finishes = True

    def __init__(self, rule: Transform) -> None:
        self._rule = rule
        self._names = tuple(rule.buffers)
        self._programs: dict[Key, _Program | None] = {}

    @staticmethod
    def can_run(rule: Transform, params: Sequence[Tensor]) -> bool:
        """Whether the rule can be written for one of these parameters at least."""
        keys = dict.fromkeys((p.shape, p.dtype) for p in params if p.device.type == "cpu")
        return any(program_of(rule, *key) is not None for key in keys)

    @staticmethod
    def can_write(rule: Transform) -> bool:
        """Whether the rule can be written for some matrix or vector."""
        examples = torch.Size((64, 96)), torch.Size((96,))
        return any(program_of(rule, shape, torch.float32) is not None for shape in examples)

    def __deepcopy__(self, memo: dict[int, object]) -> MatrixKernel:
        """Itself: it holds no tensor."""
        return self

    def suits(self, param: Tensor, state: Mapping[str, Tensor]) -> bool:
        """Real float32 and float64 matrices and vectors on the CPU, whose buffers have the dtypes
        that they were declared with; none where the compiler fails."""
        program = self._program(param)
        if program is None or not compiles(program.text):
            return False
        buffers = zip((state[name] for name in self._names), program.dtypes, strict=True)
        return lie_plain([(param, param.dtype), *buffers])

    def _program(self, param: Tensor) -> _Program | None:
        key = param.shape, param.dtype
        if key not in self._programs:
            self._programs[key] = program_of(self._rule, *key)
        return self._programs[key]

    def takes(self, item: Item) -> bool:
        """Dense gradients, and neither they nor the parameter with holes."""
        return takes_address(item)

    def run(self, items: Sequence[Item]) -> None:
        """Move the items' parameters and write their buffers: those of one program in one call."""
        together: dict[tuple[Any, ...], list[tuple[Item, _Program]]] = {}
        for item in items:
            program = self._program(item.param)
            assert program is not None  # or it would not have suited
            key = (
                id(item.numbers),
                item.same,
                item.param.dtype,
                program.text,
                program.graph.meaning,
            )
            together.setdefault(key, []).append((item, program))
        for batch in together.values():
            self._launch(batch)
            finish([item for item, _ in batch])

    def _launch(self, batch: Sequence[tuple[Item, _Program]]) -> None:
        first, program = batch[0]
        vector = program.graph.numbers({**first.numbers, "step": first.step}, {})
        shapes, addresses, constants = array.array("q"), array.array("Q"), array.array("Q")
        for item, own in batch:
            buffers = (item.state[name] for name in self._names)
            row = [one.data_ptr() for one in (item.param, item.update, *buffers)]
            if not all(row[:2]):  # buffers may have no elements
                check_memory([[item.param, item.update]])
            addresses.extend(row)
            shapes.extend(grid_of(item.param.shape))
            constants.append(own.constants.buffer_info()[0])
        functions = library(program.text)
        assert functions is not None
        functions[first.param.dtype](
            len(batch),
            shapes.buffer_info()[0],
            addresses.buffer_info()[0],
            vector.data_ptr(),
            constants.buffer_info()[0],
            torch.get_num_threads(),
        )


_NARROW, _MANY = 8, 1024
"""So many short rows take as long as the eager run: what is done once a row counts."""
_cache: dict[tuple[Any, ...], _Program | None] = {}


def program_of(rule: Transform, shape: torch.Size, dtype: torch.dtype) -> _Program | None:
    """The rule for parameters of this shape; None where it cannot be written."""
    pieces = rule.pieces
    if rule.scope != "matrix" or any(p.measure or p.probe or p.search or p.after for p in pieces):
        return None
    if not shape.numel() or dtype not in (torch.float32, torch.float64):
        return None
    rows, columns = grid_of(shape)
    if columns < _NARROW and rows > _MANY:
        return None
    made_of = structure(rule, pieces)
    if made_of is None:
        return None
    key = (shape, dtype, made_of)
    if key not in _cache:
        _cache[key] = _written(rule, torch.empty(shape, dtype=dtype, device="meta"))
    return _cache[key]


def _written(rule: Transform, like: Tensor) -> _Program | None:
    def move(update: Tensor, state: State, param: Tensor, hyper: Hyper) -> None:
        param.sub_(through(rule.pieces, update, state, param, hyper))

    graph = graph_of(rule, move, (), like)
    if graph is None:
        return None
    buffers = [buffer.make(like) for buffer in rule.buffers.values()]
    axes: list[Axes] = ["rc", "rc"]
    kinds: list[Kind] = ["T", "T"]
    for buffer in buffers:
        of, kind = axes_of(buffer, like), _kind(buffer, like)
        if of is None or kind is None:
            return None
        axes.append(of)
        kinds.append(kind)
    try:
        grid = Grid(graph.graph, axes, like.shape)
    except UnsupportedError:
        return None
    text, numbers = source(grid, kinds)
    dtypes = tuple(buffer.dtype for buffer in buffers)
    return _Program(graph, text, array.array("d", [*numbers, 0.0]), dtypes)


def _kind(buffer: Tensor, like: Tensor) -> Kind | None:
    if buffer.dtype is like.dtype:
        return "T"
    return "half" if buffer.dtype is torch.bfloat16 and buffer.shape == like.shape else None
