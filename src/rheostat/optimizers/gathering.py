"""Many small parameters as one: gathered into one flat tensor, run together, and put back.

Their buffers lie one behind the other in one piece of memory, so that they need no gathering.
"""

from __future__ import annotations

import operator
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

SMALL = 1 << 15
"""Elements below which a parameter is gathered with others: a call costs tens of microseconds,
as much as moving some ten thousand elements twice."""

TOGETHER = 1 << 17
"""Elements that are gathered at most for one call."""


class Gathering:
    """Where the buffers of small parameters live; `names` are those shaped like them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._homes: dict[str, _Home] = {}

    @contextmanager
    def together(self, items: Sequence[Item]) -> Generator[tuple[Tensor, Tensor, list[Tensor]]]:
        """Parameters, updates and the buffers shaped like them, one behind the other; what becomes
        of them is put back."""
        params = [item.param for item in items]
        flat, home = _flatten(params), self._home(items)
        buffers = home.buffers if home else list(map(_flatten, self._columns(items)))
        yield flat, _flatten([item.update for item in items]), buffers
        _scatter(flat, params)
        if home is None:
            for buffer, column in zip(buffers, self._columns(items), strict=True):
                _scatter(buffer, column)

    def _columns(self, items: Sequence[Item]) -> list[list[Tensor]]:
        """The buffers of each name."""
        return [[item.state[name] for item in items] for name in self._names]

    def _home(self, items: Sequence[Item]) -> _Home | None:
        """Where the buffers of these items lie one behind the other, in this order.

        They are moved together when they first are run together. None where some of them live with
        others that have no gradient today, or are views of others (of complex numbers): they stay,
        and are gathered.
        """
        names, columns = [item.name for item in items], self._columns(items)
        known = self._homes.get(names[0])
        if known is not None and known.holds(columns):
            return known
        if any(tensor._is_view() for column in columns for tensor in column):
            return None
        here = set(names)
        homes = {id(home): home for name in names if (home := self._homes.get(name)) is not None}
        if not all(here.issuperset(home.names) for home in homes.values()):
            return None
        made = _Home(names, columns)
        self._homes.update(dict.fromkeys(names, made))
        return made


class _Home:
    """The buffers of several parameters in one piece of memory for each name."""

    def __init__(self, names: Sequence[str], columns: list[list[Tensor]]) -> None:
        self.names = names
        self.buffers = list(map(_flatten, columns))
        self._columns = columns
        for flat, column in zip(self.buffers, columns, strict=True):
            offset = 0
            for mine in column:
                # The same tensor at another address: who holds it need not know.
                mine.set_(flat.untyped_storage(), offset, mine.shape, mine.stride())
                offset += mine.numel()
        self._places = _addresses(columns)

    def holds(self, columns: list[list[Tensor]]) -> bool:
        """Whether it is the home of these very tensors, and nobody has put them elsewhere."""
        return (
            all(
                len(mine) == len(column) and all(map(operator.is_, mine, column))
                for mine, column in zip(self._columns, columns, strict=True)
            )
            and _addresses(columns) == self._places
        )


def dense(item: Item) -> bool:
    """A dense gradient of the parameter's dtype, and neither it nor the parameter with holes."""
    param, gradient = item.param, item.update
    return (
        not gradient.is_sparse
        and gradient.dtype is param.dtype
        and param.is_contiguous()
        and gradient.is_contiguous()
    )


def parts(items: Sequence[Item]) -> list[list[Item]]:
    """The items in runs of at most `TOGETHER` elements, which the nearer caches hold."""
    parts: list[list[Item]] = [[]]
    size = 0
    for item in items:
        if size + item.param.numel() > TOGETHER and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += item.param.numel()
    return parts


def copy_all(tensors: list[Tensor], values: list[Tensor]) -> None:
    """The values into the tensors, one by one."""
    torch._foreach_copy_(tensors, values)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def _addresses(columns: list[list[Tensor]]) -> list[int]:
    return [tensor.data_ptr() for column in columns for tensor in column]


def _flatten(tensors: list[Tensor]) -> Tensor:
    return torch._C._nn.flatten_dense_tensors(tensors)  # pyright: ignore


def _scatter(flat: Tensor, tensors: list[Tensor]) -> None:
    parts = torch._C._nn.unflatten_dense_tensors(flat, tensors)  # pyright: ignore
    copy_all(tensors, cast("list[Tensor]", parts))
