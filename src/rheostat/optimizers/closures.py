"""Gradients at other points than where the parameters are, by calling the closure again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Evaluate
from rheostat.optimizers.items import HALF, Item
from rheostat.optimizers.layout import resolved


def first_loss(closure: object) -> Any:
    """What the closure of a step returns where the parameters are; None where there is none.

    Raises InputError for what cannot be called.
    """
    if closure is None:
        return None
    if not callable(closure):
        raise InputError(
            f"step: should be called with nothing, or a function that returns the loss, not with "
            f"an object of type {type(closure).__name__}"
        )
    with torch.enable_grad():
        return closure()


def evaluator(
    closure: Callable[[], Any],
    groups: Sequence[Mapping[str, Any]],
    params: Sequence[Tensor],
    items: Sequence[Item],
) -> Evaluate:
    """What gives rules the loss and the gradients elsewhere; the parameters, one an item, and the
    gradients of all that are in the groups are put back to the bit, also where the closure raises.
    """
    # One without a gradient may get its first one elsewhere, where another expert is asked.
    every: list[Tensor] = [param for group in groups for param in group["params"]]

    def evaluate(moves: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        before = [param.clone() for param in params]
        gradients = [param.grad for param in every]
        try:
            for param, displacement in zip(params, moves, strict=True):
                param.add_(displacement)
            for param in every:
                param.grad = None
            with torch.enable_grad():
                loss = closure()
            # A parameter that the closure leaves out has no slope there.
            found = [torch.zeros_like(p) if p.grad is None else resolved(p.grad) for p in params]
        finally:
            for param, old in zip(params, before, strict=True):
                param.copy_(old)
            for param, gradient in zip(every, gradients, strict=True):
                param.grad = gradient
        signs = [-1 if item.group["maximize"] else 1 for item in items]
        return loss_of(loss, items), [
            # As gradients that come: rules with float32 state mix no halves with it.
            sign * (new.float() if new.dtype in HALF else new.to(item.param.dtype))
            for sign, new, item in zip(signs, found, items, strict=True)
        ]

    return evaluate


def loss_of(returned: Any, items: Sequence[Item]) -> float:
    """What a closure returned, as a number that is to become small.

    Raises InputError for a closure that returned nothing.
    """
    if returned is None:
        raise InputError("the closure returned None; it should return the loss")
    value = float(returned.detach() if isinstance(returned, Tensor) else returned)
    return -value if items and items[0].group["maximize"] else value
