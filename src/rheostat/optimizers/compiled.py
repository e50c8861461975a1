"""One kernel, compiled by torch, for a rule that does not mind the shape of a parameter: on
accelerators, and on the CPU for what `native` cannot write.

Large parameters are run one by one, as flat views. Where the rule works element by element, small
ones are gathered into one flat tensor, run together, and put back; their buffers lie one behind the
other in one piece of memory, so that they need no gathering.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx

from rheostat.core.transform import Transform
from rheostat.optimizers.tracing import guarded, traced

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

SMALL = 1 << 15
"""Elements below which a parameter is gathered with others: a call costs tens of microseconds,
as much as moving some ten thousand elements twice."""

FEW = 4
"""Parameters of one length from which it pays to run them as the rows of a matrix."""

TOGETHER = 1 << 17
"""Elements that are gathered at most for one call."""


class CompiledKernel:
    """A rule as one compiled function over flat tensors; compiled at the first step."""

    def __init__(self, rule: Transform, on_cpu: bool = True) -> None:
        found = traced(rule)
        assert found is not None
        self._rule = rule
        self._on_cpu = on_cpu
        self._traced = found
        self._homes: dict[int, _Home] = {}
        self._names = tuple(rule.buffers)
        self._like = tuple(n for n, buffer in rule.buffers.items() if buffer.like_parameter)
        # Otherwise what is summed over a parameter, or kept as one number, must be kept apart.
        self._flat = rule.scope == "element" and self._like == self._names

    @staticmethod
    def can_run(rule: Transform) -> bool:
        """Whether the rule takes flat tensors, and its scalars can be lifted."""
        return traced(rule) is not None

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledKernel:
        """A kernel for a copied optimizer, whose buffers live elsewhere."""
        return CompiledKernel(self._rule, self._on_cpu)

    def suits(self, param: Tensor, state: Mapping[str, Tensor]) -> bool:
        """Real float32 and float64 parameters that have elements."""
        return (
            (self._on_cpu or param.device.type != "cpu")
            # A length of one is special to the compiler.
            and param.numel() >= (1 if self._flat else 2)
            and param.dtype in (torch.float32, torch.float64)
            and all(state[name].dtype == param.dtype for name in self._like)
        )

    def takes(self, item: Item) -> bool:
        """Dense gradients, and neither they nor the parameter with holes."""
        param, gradient = item.param, item.update
        return (
            not gradient.is_sparse
            and gradient.dtype is param.dtype
            and param.is_contiguous()
            and gradient.is_contiguous()
        )

    def run(self, items: Sequence[Item]) -> None:
        """Large items one by one, small ones of one group, step, device and dtype together."""
        gathered: dict[tuple[Any, ...], list[Item]] = {}
        for item in items:
            param = item.param
            size = param.numel()
            alone = (item.name,) if size >= SMALL else () if self._flat else (size,)
            key = (id(item.numbers), item.same, param.dtype, param.device, *alone)
            gathered.setdefault(key, []).append(item)
        for batch in gathered.values():
            if self._flat and batch[0].param.numel() < SMALL:
                self._run_flat(batch)
            elif len(batch) >= FEW:
                self._run_stacked(batch)
            else:
                self._run_alone(batch)

    def _run_alone(self, items: list[Item]) -> None:
        run = self._bound(self._traced.graph, items[0])
        for item in items:
            buffers = [item.state[name] for name in self._names]
            flat = [buffer.view(-1) if buffer.ndim else buffer for buffer in buffers]
            run(item.param.detach().view(-1), item.update.view(-1), *flat)

    def _bound(self, graph: fx.GraphModule, item: Item) -> Callable[..., None]:
        """The compiled graph with its inputs beside tensors, the same for all items of a group that
        are at one step."""
        known = {**item.numbers, "step": item.step}
        vector = self._traced.numbers(known, item.measured or {})
        rest = [vector.to(item.param.device, item.param.dtype)]
        if item.ok is not None:
            graph = guarded(graph, 2 + len(self._names))
            rest.append(item.ok)
        compiled = _compiled(graph)
        return lambda *tensors: compiled(*tensors, *rest)

    def _run_flat(self, items: list[Item]) -> None:
        run = self._bound(self._traced.graph, items[0])
        for part in _parts(items):
            with self._together(part) as (params, updates, buffers):
                if len(updates) == 1:
                    # A length of one is special to the compiler, which would compile again for it.
                    wide = [tensor.repeat(2) for tensor in (params, updates, *buffers)]
                    run(*wide)
                    for tensor, pair in zip((params, *buffers), (wide[0], *wide[2:]), strict=True):
                        tensor.copy_(pair[:1])
                else:
                    run(params, updates, *buffers)

    def _run_stacked(self, items: list[Item]) -> None:
        """Parameters of one length, a row each; buffers of one number are a column."""
        rows = self._traced.over_rows
        if rows is None:
            self._run_alone(items)
            return
        run = self._bound(rows, items[0])
        for part in _parts(items):
            if len(part) == 1:
                self._run_alone(part)
                continue
            columns = {
                name: torch.stack([item.state[name] for item in part]).unsqueeze(1)
                for name in self._names
                if name not in self._like
            }
            with self._together(part) as tensors:
                params, updates, like = tensors
                wide = iter([buffer.view(len(part), -1) for buffer in like])
                buffers = [columns[n] if n in columns else next(wide) for n in self._names]
                moved = params.view(len(part), -1), updates.view(len(part), -1)
                run(*moved, *buffers)
            for name, column in columns.items():
                _copy([item.state[name] for item in part], list(column.view(-1).unbind()))

    @contextmanager
    def _together(self, items: Sequence[Item]) -> Generator[tuple[Tensor, Tensor, list[Tensor]]]:
        """Parameters, updates and the buffers shaped like them, one behind the other; what becomes
        of them is put back."""
        params = [item.param for item in items]
        flat, home = _flatten(params), self._home(items)
        buffers = home.buffers if home else self._gathered(items)
        yield flat, _flatten([item.update for item in items]), buffers
        _scatter(flat, params)
        if home is None:
            for name, buffer in zip(self._like, buffers, strict=True):
                _scatter(buffer, [item.state[name] for item in items])

    def _gathered(self, items: Sequence[Item]) -> list[Tensor]:
        return [_flatten([item.state[name] for item in items]) for name in self._like]

    def _home(self, items: Sequence[Item]) -> _Home | None:
        """Where the buffers of these items lie one behind the other, in this order.

        They are moved together when they first are run together. None where some of them live with
        others that have no gradient today: they stay, and are gathered.
        """
        states = [item.state for item in items]
        known = self._homes.get(id(states[0]))
        if known is not None and known.holds(states):
            return known
        here = {id(state) for state in states}
        homes = {id(home): home for s in states if (home := self._homes.get(id(s))) is not None}
        if any(id(state) not in here for home in homes.values() for state in home.states):
            return None
        made = _Home(states, self._like, self._gathered(items))
        self._homes.update(dict.fromkeys(here, made))
        return made


class _Home:
    """The buffers of several parameters in one piece of memory for each name."""

    def __init__(
        self, states: list[dict[str, Tensor]], names: Sequence[str], buffers: list[Tensor]
    ) -> None:
        self.states = states
        self.buffers = buffers
        self._names = names
        for name, flat in zip(names, buffers, strict=True):
            offset = 0
            for state in states:
                mine = state[name]
                # The same tensor at another address: who holds it need not know.
                mine.set_(flat.untyped_storage(), offset, mine.shape, mine.stride())
                offset += mine.numel()
        self._places = self._addresses()

    def _addresses(self) -> list[int]:
        return [state[name].data_ptr() for name in self._names for state in self.states]

    def holds(self, states: Sequence[dict[str, Tensor]]) -> bool:
        """Whether it is the home of these, and nobody has put another tensor into their states."""
        return (
            len(states) == len(self.states)
            and all(map(operator.is_, states, self.states))
            and self._places == self._addresses()
        )


def _parts(items: Sequence[Item]) -> list[list[Item]]:
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


def _flatten(tensors: list[Tensor]) -> Tensor:
    return torch._C._nn.flatten_dense_tensors(tensors)  # pyright: ignore


def _scatter(flat: Tensor, tensors: list[Tensor]) -> None:
    parts = torch._C._nn.unflatten_dense_tensors(flat, tensors)  # pyright: ignore
    _copy(tensors, cast("list[Tensor]", parts))


def _copy(tensors: list[Tensor], values: list[Tensor]) -> None:
    torch._foreach_copy_(tensors, values)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


@functools.cache
def _compiled(graph: fx.GraphModule) -> Any:
    """The graph's compiled function, one for all optimizers of a process."""
    # Dynamic from the first call on: no size is special, so none compiles anew.
    return torch.compile(graph.forward, dynamic=True, fullgraph=True)
