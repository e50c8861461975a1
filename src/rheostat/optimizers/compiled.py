"""One kernel, compiled by torch, for a rule that does not mind the shape of a parameter: on
accelerators, and on the CPU for what `native` cannot write.

Large parameters are run one by one, as flat views; small ones are gathered, where the rule works
element by element.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rheostat.core import compiler
from rheostat.core.transform import Transform
from rheostat.optimizers.gathering import SMALL, Gathering, copy_all, dense, parts
from rheostat.optimizers.tracing import traced

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

LOST = "a rule that torch cannot compile runs operation by operation, several times slower"

FEW = 4
"""Parameters of one length from which it pays to run them as the rows of a matrix."""


class CompiledKernel:
    """A rule as one compiled function over flat tensors; compiled at the first step."""

    def __init__(self, rule: Transform, on_cpu: bool = True) -> None:
        found = traced(rule)
        assert found is not None
        self._rule = rule
        self._on_cpu = on_cpu
        self._traced = found
        self.finishes = found.finishes
        self._names = tuple(rule.buffers)
        self._like = tuple(n for n, buffer in rule.buffers.items() if buffer.like_parameter)
        self._gathering = Gathering(self._like)
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
            and all(state[name].is_contiguous() for name in self._like)
            and self._traced.serves(param.dtype)
        )

    def takes(self, item: Item) -> bool:
        """Dense gradients, and neither they nor the parameter with holes."""
        return dense(item)

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
            for item in batch:
                item.finish()

    def _run_alone(self, items: list[Item]) -> None:
        run = self._bound(self._traced.of(items[0].param.dtype).graph, items[0])
        for item in items:
            buffers = [item.state[name] for name in self._names]
            flat = [buffer.view(-1) if buffer.ndim else buffer for buffer in buffers]
            run(item.param.detach().view(-1), item.update.view(-1), *flat)

    def _bound(self, graph: fx.GraphModule, item: Item) -> Callable[..., None]:
        """The compiled graph with its inputs beside tensors, the same for all items of a group that
        are at one step."""
        known = {**item.numbers, "step": item.step}
        vector = self._traced.numbers(known, item.measured or {}, item.param.dtype)
        rest = [vector.to(item.param.device, item.param.dtype)]
        if item.ok is not None:
            graph = guarded(graph, 2 + len(self._names))
            rest.append(item.ok)
        compiled = _compiled(graph)
        return lambda *tensors: compiled(*tensors, *rest)

    def _run_flat(self, items: list[Item]) -> None:
        run = self._bound(self._traced.of(items[0].param.dtype).graph, items[0])
        for part in parts(items):
            with self._gathering.together(part) as (params, updates, buffers):
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
        rows = self._traced.of(items[0].param.dtype).over_rows
        if rows is None:
            self._run_alone(items)
            return
        run = self._bound(rows, items[0])
        for part in parts(items):
            if len(part) == 1:
                self._run_alone(part)
                continue
            columns = {
                name: torch.stack([item.state[name] for item in part]).unsqueeze(1)
                for name in self._names
                if name not in self._like
            }
            with self._gathering.together(part) as tensors:
                params, updates, like = tensors
                wide = iter([buffer.view(len(part), -1) for buffer in like])
                buffers = [columns[n] if n in columns else next(wide) for n in self._names]
                moved = params.view(len(part), -1), updates.view(len(part), -1)
                run(*moved, *buffers)
            for name, column in columns.items():
                copy_all([item.state[name] for item in part], list(column.view(-1).unbind()))


@functools.cache
def _compiled(graph: fx.GraphModule) -> Any:
    """The graph's compiled function, one for all optimizers of a process."""
    # Dynamic from the first call on: no size is special, so none compiles anew.
    # A cast to half precision and back rounds; torch's compiler leaves that out unless it is told.
    options: dict[str, Any] = {"emulate_precision_casts": True}
    made = torch.compile(graph.forward, dynamic=True, fullgraph=True, options=options)
    failed = False

    def run(*tensors: Tensor) -> None:
        nonlocal failed
        if not failed:
            try:
                made(*tensors)
            except Exception as fault:
                if not _is_compilers(fault):
                    raise
                # It fails before anything has run.
                failed = True
                compiler.warn_once(str(fault).strip().partition("\n")[0], LOST)
        if failed:
            graph(*tensors)

    return run


def _is_compilers(fault: Exception) -> bool:
    """Whether torch's compiler has failed, and not what it made."""
    homes = ("torch._dynamo.", "torch._inductor.")
    return any(kind.__module__.startswith(homes) for kind in type(fault).__mro__)


@functools.cache
def guarded(graph: fx.GraphModule, tensors: int) -> fx.GraphModule:
    """The graph with one more input, a bool: where it is False, the first `tensors` inputs but the
    second (the update) keep their values. Compiled, the choice is made as they are written."""
    whole = fx.Graph()
    given = [node for node in graph.graph.nodes if node.op == "placeholder"]
    inputs = [whole.placeholder(f"input_{i}") for i in range(len(given))]
    ok = whole.placeholder("ok")
    kept = [i for i in range(tensors) if i != 1]
    moved = {given[i]: node for i, node in enumerate(inputs)}
    for i in kept:
        moved[given[i]] = whole.call_function(torch.ops.aten.clone.default, (inputs[i],))
    copies = [moved[given[i]] for i in kept]
    whole.graph_copy(graph.graph, moved)
    for i, copy in zip(kept, copies, strict=True):
        chosen = whole.call_function(torch.ops.aten.where.self, (ok, copy, inputs[i]))
        whole.call_function(torch.ops.aten.copy_.default, (inputs[i], chosen))
    whole.output(None)
    return fx.GraphModule(graph, whole)
