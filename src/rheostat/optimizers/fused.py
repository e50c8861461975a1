"""torch's fused optimizer kernels, for chains that compute what they compute.

A clip by the global norm may come before: then gradients are scaled tile by tile on their way into
the kernel, because the kernels' own `grad_scale` would write to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rheostat.core.transform import Transform
from rheostat.optimizers.layout import is_dense
from rheostat.optimizers.numbers import known_of

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item
    from rheostat.optimizers.straight import Batch

PLAIN = (Tensor, nn.Parameter)
"""Types whose memory a kernel may take as it is; subclasses (DTensor …) have other ideas of it."""

TILE = 1 << 17
"""Elements whose scaled gradients are still in a near cache when the kernel reads them."""


@dataclass
class _Lists:
    """Parameters and what belongs to them, in one order."""

    params: list[Tensor]
    gradients: list[Tensor]
    buffers: list[list[Tensor]]
    steps: list[Tensor]

    def tiles(self) -> Iterator[_Lists]:
        """The same in parts of at most `TILE` elements, or of one tensor that has more.

        On a device no cache is as near, and every part is a launch: there a part has as many
        elements as the largest tensor.
        """
        limit = TILE
        if not self.params[0].is_cpu:
            limit = max(TILE, *(param.numel() for param in self.params))
        start, size = 0, 0
        for i, param in enumerate(self.params):
            if size + param.numel() > limit and i > start:
                yield self._slice(start, i)
                start, size = i, 0
            size += param.numel()
        yield self._slice(start, len(self.params))

    def _slice(self, start: int, end: int) -> _Lists:
        part = slice(start, end)
        buffers = [buffer[part] for buffer in self.buffers]
        return _Lists(self.params[part], self.gradients[part], buffers, self.steps[part])


_Call = Callable[[_Lists, Mapping[str, Any], bool], None]
"""Lists, the hyperparameters, and whether these are the parameters' first updates."""


class FusedKernel:
    """One of torch's fused optimizer kernels.

    It is never given a gradient scale, with which it would write the gradients.
    """

    finishes = True  # there is nothing after what it runs
    takes_measured = False  # in a batch; a clip of items runs tile by tile

    def __init__(self, rule: Transform) -> None:
        found = _find(rule)
        assert found is not None
        self._clip, self._call = found
        own: Mapping[str, Any] = self._clip.hyperparameters if self._clip else {}
        self._plain = [name for name in rule.hyperparameters if name != "lr" and name not in own]
        self._names = tuple(rule.buffers)
        self._with_momentum = "momentum_buffer" in rule.buffers

    @staticmethod
    def can_run(rule: Transform) -> bool:
        """Whether torch has a fused kernel for the rule."""
        return _find(rule) is not None

    @staticmethod
    def copies_gradients(rule: Transform) -> bool:
        """Whether its gradients are scaled, into other memory, before the kernel has them."""
        found = _find(rule)
        return found is not None and found[0] is not None

    def suits(self, param: Tensor, state: Mapping[str, Tensor]) -> bool:
        """Real float32 and float64 parameters that have elements, and buffers laid out as they
        are."""
        return (
            type(param) in PLAIN
            and param.dtype in (torch.float32, torch.float64)
            and param.numel() > 0
            and is_dense(param)
            and all(state[name].dtype == param.dtype for name in self._names)
            and all(_lie_alike(state[name], param) for name in self._names)
        )

    def can(self, numbers: Mapping[str, Any]) -> bool:
        """Whether it can run with these numbers: without momentum torch's kernel does not write a
        buffer of it, or fails."""
        return not self._with_momentum or known_of(numbers["momentum"]) != 0

    def takes(self, item: Item) -> bool:
        """Dense gradients laid out as the parameter is, which the kernels assume; where a device
        counts, numbers that the host knows, the learning rate aside."""
        param, gradient = item.param, item.update
        return (
            self.can(item.numbers)
            and gradient.dtype is param.dtype
            and not gradient.is_sparse
            and _lie_alike(gradient, param)
            and (item.frame is None or self._settled(item))
        )

    def run_batch(self, batch: Batch) -> None:
        """One call for all."""
        buffers = [[state[name] for state in batch.states] for name in self._names]
        counted = self._call not in (_sgd, _nesterov)
        steps = [state["step"] for state in batch.states] if counted else []
        lists = _Lists(batch.params, batch.gradients, buffers, steps)
        self._call(lists, batch.numbers, self._call is _sgd and batch.count == 1)

    def run(self, items: Sequence[Item]) -> None:
        """One call for all items that share their group, dtype and device; with a clip, one for
        each tile."""
        batches: dict[tuple[Any, ...], list[Item]] = {}
        on_host = items[0].frame is None
        may_be_first = on_host and self._call is _sgd
        for item in items:
            param, first = item.param, may_be_first and item.count == 1
            device = count = None
            if not param.is_cpu:
                # The kernels of a device want the count there: where the host has it, as a number.
                device, count = param.device, item.count if on_host else None
            key = (id(item.numbers), param.dtype, device, first, count)
            if key not in batches:
                batches[key] = []
            batches[key].append(item)
        for (*_, first, count), batch in batches.items():
            steps = [item.state["step"] for item in batch]
            if count is not None:
                steps = [batch[0].param.new_full((), count, dtype=torch.float32)] * len(batch)
            lists = _Lists(
                [item.param for item in batch],
                [item.update for item in batch],
                [[item.state[name] for item in batch] for name in self._names],
                steps,
            )
            self._run_lists(lists, batch[0], first)
            for item in batch:
                item.finish()

    def _run_lists(self, lists: _Lists, like: Item, first: bool) -> None:
        numbers = self._numbers(like)
        if self._clip is None:
            self._call(lists, numbers, first)
            return
        factor = _factor(self._clip, like)
        for tile in lists.tiles():
            tile.gradients = list(torch._foreach_mul(tile.gradients, factor))  # pyright: ignore
            self._call(tile, numbers, first)

    def _settled(self, item: Item) -> bool:
        """Whether the host knows what the kernel takes as plain numbers: all but the learning rate;
        and the first update, which the host does not, is like the others."""
        known = [known_of(item.numbers[name]) for name in self._plain]
        return None not in known and not known_of(item.numbers.get("dampening", 0.0))

    def _numbers(self, item: Item) -> Mapping[str, Any]:
        """What the kernel is given; on a device also `found_inf`, whether to leave all as it is."""
        frame = item.frame
        if frame is None:
            return item.numbers
        # The kernels of the CPU read the number, those of CUDA take float32.
        on_cpu = item.param.device.type == "cpu"
        frame.plain += [(item.group, name, item.group[name]) for name in self._plain]
        return {
            **{name: known_of(item.numbers[name]) for name in self._plain},
            "lr": item.numbers["lr"].to(torch.float64 if on_cpu else torch.float32),
            "found_inf": None if frame.ok is None else frame.ok.logical_not().to(torch.float32),
        }


def _lie_alike(one: Tensor, other: Tensor) -> bool:
    return one.stride() == other.stride() or (one.is_contiguous() and other.is_contiguous())


def _factor(clip: Transform, item: Item) -> Tensor:
    """What the clip multiplies by: what it makes of one."""
    hyper = item.hyper
    assert item.measured is not None
    hyper.measured = item.measured
    return clip.update(item.param.new_ones((), requires_grad=False), {}, item.param, hyper)


def _find(rule: Transform) -> tuple[Transform | None, _Call] | None:
    """A clip to run first, if any, and the kernel that computes the rest of the chain; None where
    torch has none."""
    pieces = rule.pieces
    if any(piece.origin is None or piece.after for piece in pieces):
        return None
    if any("." in name for name in (*rule.hyperparameters, *rule.buffers)):
        return None  # of `named`: the kernels are given numbers by their plain names
    clips = pieces[0].name == "clip_by_global_norm"
    rest = pieces[1:] if clips else pieces
    call = _KERNELS.get(tuple(piece.name for piece in rest))
    if call is None or any(piece.measure for piece in rest):
        return None
    if any(piece.origin and piece.origin.arguments.get("nesterov") for piece in rest):
        call = _nesterov
    return pieces[0] if clips else None, call


def _adam(fused: Callable[..., None]) -> _Call:
    def call(lists: _Lists, numbers: Mapping[str, Any], first: bool) -> None:
        b1, b2 = numbers["betas"]
        means, squares, *largest = lists.buffers
        fused(
            lists.params,
            lists.gradients,
            means,
            squares,
            largest[0] if largest else [],
            lists.steps,
            lr=numbers["lr"],
            beta1=b1,
            beta2=b2,
            weight_decay=numbers.get("weight_decay", 0.0),
            eps=numbers["eps"],
            amsgrad=bool(largest),
            maximize=False,
            found_inf=numbers.get("found_inf"),
        )

    return call


def _sgd(lists: _Lists, numbers: Mapping[str, Any], first: bool, nesterov: bool = False) -> None:
    torch._fused_sgd_(  # pyright: ignore
        lists.params,
        lists.gradients,
        lists.buffers[0] if lists.buffers else [],
        weight_decay=numbers.get("weight_decay", 0.0),
        momentum=numbers.get("momentum", 0.0),
        lr=numbers["lr"],
        dampening=numbers.get("dampening", 0.0),
        nesterov=nesterov,
        maximize=False,
        is_first_step=first,
        found_inf=numbers.get("found_inf"),
    )


def _nesterov(lists: _Lists, numbers: Mapping[str, Any], first: bool) -> None:
    _sgd(lists, numbers, first, nesterov=True)


def _adagrad(lists: _Lists, numbers: Mapping[str, Any], first: bool) -> None:
    torch._fused_adagrad_(  # pyright: ignore
        lists.params,
        lists.gradients,
        lists.buffers[0],
        lists.steps,
        lr=numbers["lr"],
        lr_decay=numbers["lr_decay"],
        weight_decay=numbers.get("weight_decay", 0.0),
        eps=numbers["eps"],
        maximize=False,
        found_inf=numbers.get("found_inf"),
    )


_adamw, _adam_l2 = _adam(torch._fused_adamw_), _adam(torch._fused_adam_)  # pyright: ignore
_LR, _DECAY = "scale_by_learning_rate", "add_decayed_weights"
_KERNELS: Mapping[tuple[str, ...], _Call] = {
    ("scale_by_adam", _DECAY, _LR): _adamw,
    ("scale_by_adam", _LR): _adamw,
    (_DECAY, "scale_by_adam", _LR): _adam_l2,
    (_DECAY, "scale_by_amsgrad", _LR): _adam_l2,
    ("scale_by_amsgrad", _DECAY, _LR): _adamw,
    ("scale_by_amsgrad", _LR): _adamw,
    (_DECAY, "trace", _LR): _sgd,
    ("trace", _LR): _sgd,
    (_DECAY, _LR): _sgd,
    (_LR,): _sgd,
    (_DECAY, "scale_by_adagrad", _LR): _adagrad,
    ("scale_by_adagrad", _LR): _adagrad,
}
"""The pieces of a chain -> the kernel that computes it."""
