"""Faster ways than piece by piece to run a whole rule: torch's fused kernels, compiled ones.

Never needed for correctness: what a kernel does not take runs eagerly. A kernel runs many
parameters at once, and its numbers agree with the eager ones to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from rheostat.core.errors import InputError
from rheostat.core.transform import Transform
from rheostat.optimizers.compiled import CompiledKernel, compiler_at_hand

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

Mode = Literal["auto", "eager", "fused", "compiled"]

PLAIN = (Tensor, nn.Parameter)
"""Types whose memory a kernel may take as it is; subclasses (DTensor …) have other ideas of it."""

COMPILE_FROM = 1 << 19
"""Elements in a group from which compiling its rule pays: below, the eager step takes less than a
few milliseconds, and a user who tries something out should not wait for a compiler."""


class Kernel(Protocol):
    """Runs a rule, from gradients to moved parameters, over many items."""

    def takes(self, item: Item) -> bool:
        """Whether this item can be run; others run eagerly."""
        ...

    def run(self, items: Sequence[Item]) -> None:
        """Move the items' parameters and write their buffers."""
        ...


def choose_mode(rule: Transform, params: Sequence[Tensor], mode: Mode) -> Mode:
    """What "auto" means for a rule over these parameters: a function of the rule and of sizes.

    Raises InputError for a mode that the rule cannot have.
    """
    fusible = _recipe(rule) is not None
    if mode == "fused" and not fusible:
        raise InputError(
            f"mode='fused': torch has no fused kernel for {rule.name}; 'auto' runs it fast without"
        )
    if mode == "compiled" and not CompiledKernel.can_run(rule):
        raise InputError(
            f"mode='compiled': {rule.name} does not work element by element; 'auto' runs it eagerly"
        )
    if mode != "auto":
        if mode not in ("eager", "fused", "compiled"):
            raise InputError(f"mode={mode!r}: should be 'auto', 'eager', 'fused' or 'compiled'")
        return mode
    if fusible:
        return "fused"
    large = sum(param.numel() for param in params) >= COMPILE_FROM
    return "compiled" if large and CompiledKernel.can_run(rule) and compiler_at_hand() else "eager"


def make_kernel(rule: Transform, mode: Mode) -> Kernel | None:
    """The kernel of a chosen mode; None runs the rule piece by piece."""
    if mode == "fused":
        return FusedKernel(rule)
    return CompiledKernel(rule) if mode == "compiled" else None


class FusedKernel:
    """One of torch's fused optimizer kernels, for a chain that computes what it computes.

    It is never given a gradient scale, with which it would write the gradients.
    """

    def __init__(self, rule: Transform) -> None:
        call = _recipe(rule)
        assert call is not None
        self._call = call

    def takes(self, item: Item) -> bool:
        """Dense real parameters whose tensors all have one layout, which the kernels assume."""
        param, gradient = item.param, item.update
        return (
            type(param) in PLAIN
            and param.dtype in (torch.float32, torch.float64)
            and gradient.dtype == param.dtype
            and gradient.layout == torch.strided
            and param.stride() == gradient.stride()
            and param.numel() > 0
        )

    def run(self, items: Sequence[Item]) -> None:
        """One call for all items that share their group, device and dtype."""
        batches: dict[tuple[Any, ...], list[Item]] = {}
        for item in items:
            key = (id(item.numbers), item.param.dtype, item.param.device)
            batches.setdefault(key, []).append(item)
        for batch in batches.values():
            self._call(
                [item.param for item in batch],
                [item.update for item in batch],
                [item.state for item in batch],
                batch[0].numbers,
            )


_Call = Callable[[list[Tensor], list[Tensor], list[dict[str, Tensor]], Mapping[str, Any]], None]


def _recipe(rule: Transform) -> _Call | None:
    """The fused kernel that computes what a chain computes; None where there is none."""
    pieces = [piece for piece in rule.pieces if piece.origin is not None]
    if len(pieces) != len(rule.pieces) or any(piece.after or piece.measure for piece in pieces):
        return None
    names = tuple(piece.name for piece in pieces)
    if names == ("scale_by_adam", "add_decayed_weights", "scale_by_learning_rate"):
        return _adam(torch._fused_adamw_, rule)  # pyright: ignore
    if names == ("scale_by_adam", "scale_by_learning_rate"):
        return _adam(torch._fused_adamw_, rule)  # pyright: ignore
    if names == ("add_decayed_weights", "scale_by_adam", "scale_by_learning_rate"):
        return _adam(torch._fused_adam_, rule)  # pyright: ignore
    return None


def _adam(fused: Callable[..., None], rule: Transform) -> _Call:
    def call(
        params: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Tensor]],
        numbers: Mapping[str, Any],
    ) -> None:
        b1, b2 = numbers["betas"]
        fused(
            params,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            lr=numbers["lr"],
            beta1=b1,
            beta2=b2,
            weight_decay=numbers.get("weight_decay", 0.0),
            eps=numbers["eps"],
            amsgrad=False,
            maximize=False,
        )

    return call
