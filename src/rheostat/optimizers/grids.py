"""A traced rule over a matrix as single assignments, cut into passes over its rows.

A value is one of an element, of a row, of a column, or of the whole matrix. A sum along a row is
known when the row has been walked along, and another walk along the same row, which the cache still
holds, may use it: a pass has stages. A sum along a column, or over all, is known after the pass.
What there is of each column is computed between passes, and kept as long as the rule runs; of each
row, in the pass, and kept where a later one asks for it.

A vector is a matrix of one row, and what has more dimensions is one whose rows are the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from rheostat.optimizers.assignments import (
    PRODUCT,
    Axes,
    Reader,
    UnsupportedError,
    Value,
)

# As torch has it: exact at both ends.
_LERP = "({2} < T(0.5) ? {0} + {2} * ({1} - {0}) : {1} - ({1} - {0}) * (T(1) - {2}))"
_ROUNDED = "rounded({0})"
_VIEWS = ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze")
_COUNTS: Mapping[str, str] = {"r": "rows", "c": "columns", "rc": "rows * columns"}
_HALF = torch.bfloat16
_DTYPES = (torch.float32, torch.float64, _HALF)


def axes_of(tensor: Tensor, param: Tensor) -> Axes | None:
    """What a buffer has a value for; None where it is no part of a matrix like the parameter.

    One without elements is read by nobody.
    """
    ones = (1,) * (param.ndim - 1)
    if tensor.shape == param.shape or not tensor.numel():
        return "rc"
    if tensor.numel() == 1:
        return ""
    if tensor.shape in (param.shape[:1], (*param.shape[:1], *ones)):
        return "r"
    return "c" if tensor.shape == (1, *param.shape[1:]) else None


def grid_of(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns: the first dimension, and all others together; a vector is one row."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, math.prod(shape) // rows


class Grid(Reader):
    """A rule over a matrix of the shape that its graph was traced with.

    Raises UnsupportedError.
    """

    def __init__(self, graph: fx.GraphModule, axes: Sequence[Axes], shape: Sequence[int]) -> None:
        self._shape = tuple(shape)
        self._rows, self._columns = grid_of(shape)
        self._wide = _val(next(iter(graph.graph.nodes))).dtype is torch.float64
        super().__init__(graph, axes)
        if self.results:
            raise UnsupportedError("a measurement")
        wide = [store.value for store in self.stores if store.value.wide]
        computed = [v for v in self.values if v.axes == "r" and not v.summed]
        summed = [total.inputs[0] for total in self.sums]
        walked = [v for v in (*wide, *computed, *summed) if "r" in v.axes]
        self.passes = 1 + max((value.level for value in walked), default=0)
        self.stages = [
            1 + max((v.stage for v in walked if v.level == number), default=0)
            for number in range(self.passes)
        ]
        self._settle([(p, s) for p, stages in enumerate(self.stages) for s in range(stages)])

    # -- reading the graph ----------------------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        name = cast("Any", node.target).__name__.partition(".")[0]
        if name in _VIEWS:  # what is written to the one is written to the other
            of = cast("fx.Node", node.args[0])
            if _val(node).dtype is not _val(of).dtype:
                raise UnsupportedError("bits as another type")
            self._cells[node] = self._cells[of]
        else:
            if name != "mm":
                _agree(node)
            super()._call(node)
        self._fits(node)

    def _fits(self, node: fx.Node) -> None:
        """Raises UnsupportedError where a value for each row, say, does not lie as one: beside a
        square matrix it might be taken for one of columns."""
        val, axes = _val(node), self._cells[node][0].axes
        if not isinstance(val, Tensor):  # a number of the vector
            return
        rows, columns, shape = self._rows, self._columns, self._shape
        ones = (1,) * (len(shape) - 1)
        lie: Mapping[Axes, tuple[tuple[int, ...], ...]] = {
            "rc": (shape, (rows, columns), (1, rows * columns)),
            "r": ((rows,), (rows, 1), (rows, *ones)),
            "c": ((1, columns), (1, *shape[1:])),
            "": (),
        }
        if tuple(val.shape) not in lie[axes] and (axes or val.numel() > 1):
            raise UnsupportedError("a tensor that does not lie as the parameter does")

    def _computed(
        self, name: str, args: list[Any], options: Mapping[str, Any], node: fx.Node
    ) -> Value:
        match name:
            case "mm":
                found = self._outer(args, node)
            case "_to_copy":
                found = args[0]
                if found.kind == "bool":
                    found = self._apply("T({0})", [found])
                if _val(node).dtype is torch.float32 and self._wide:
                    raise UnsupportedError("float32 of a float64 parameter")
            case "div" if (
                not options and isinstance(args[1], Value) and args[0].axes and not args[1].axes
            ):
                # A division of elements takes as long as ten products.
                found = self._apply(PRODUCT, [args[0], self._apply("T(1) / {0}", args[1:])])
            case "lerp" if len(args) == 3:
                found = self._apply(_LERP, args)
            case "linalg_vector_norm" if args[1:2] in ([], [2]) and not options:
                square = self._apply("{0} * {0}", args[:1])
                found = self._apply("root({0})", [self._sum([square, *args[2:]], node)[0]])
            case _:
                found = super()._computed(name, args, options, node)
        dtype = _val(node).dtype if isinstance(_val(node), Tensor) else None
        if dtype is _HALF:
            return self._apply(_ROUNDED, [found])
        if dtype is not None and found.axes and dtype not in (*_DTYPES, torch.bool):
            raise UnsupportedError(f"{dtype}")
        return found

    def _outer(self, args: list[Any], node: fx.Node) -> Value:
        shapes = [tuple(_val(one).shape) for one in cast("tuple[fx.Node, ...]", node.args)]
        left, right = args[0].axes, args[1].axes
        of_rows = "c" not in left or self._columns == 1
        of_columns = "r" not in right or self._rows == 1
        if shapes != [(self._rows, 1), (1, self._columns)] or not (of_rows and of_columns):
            raise UnsupportedError("a product of matrices")
        return self._apply(PRODUCT, args)

    def _sum(self, args: list[Any], node: fx.Node) -> tuple[Value, str]:
        """A sum over all, or along one axis, and what counts its terms."""
        of: Value = args[0]
        if not of.axes:
            return of, "1"
        shape = tuple(_val(cast("fx.Node", node.args[0])).shape)
        given = args[1] if len(args) > 1 and shape else None
        dims = {*range(len(shape))} if not given else {dim % len(shape) for dim in given}
        along = self._along(of, shape, dims)
        if along == "c" and "r" in of.axes:
            when = of.level, of.stage + 1
        else:
            # What there is of each column is summed between passes.
            when = of.level + ("r" in of.axes), 0
        left = cast("Axes", "".join(axis for axis in of.axes if axis not in along))
        return self._total(left, of, when), _COUNTS[along]

    def _along(self, of: Value, shape: tuple[int, ...], dims: set[int]) -> Axes:
        """The axes that a sum goes along."""
        if all(length == 1 for dim, length in enumerate(shape) if dim not in dims):
            return of.axes
        rows = self._rows if "r" in of.axes else 1
        columns = self._columns if "c" in of.axes else 1
        for first in range(1, len(shape)):
            if (math.prod(shape[:first]), math.prod(shape[first:])) == (rows, columns):
                if dims == {*range(first)} and "r" in of.axes:
                    return "r"
                if dims == {*range(first, len(shape))} and "c" in of.axes:
                    return "c"
        raise UnsupportedError("a sum over a part")


def _val(node: Any) -> Any:
    return node.meta.get("val")


def _agree(node: fx.Node) -> None:
    """Raises UnsupportedError for a row of numbers beside a matrix, which means its columns."""
    found = [_val(one) for one in node.all_input_nodes]
    ranks = {one.ndim for one in found if isinstance(one, Tensor) and one.numel() > 1}
    if len(ranks) > 1:
        raise UnsupportedError("tensors of unlike dimensions")
