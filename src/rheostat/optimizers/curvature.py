"""Samples of the Hessian's diagonal, for rules that precondition by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.optimizers.items import Held, noise


def curvature_samples(
    groups: Sequence[dict[str, Any]],
    held: Sequence[Held],
    closure: Callable[[], Tensor],
    estimator: Literal["hutchinson", "gnb"],
    batch_size: int,
) -> list[Tensor | None]:
    """One sample a parameter, in float32 at least; None where the loss does not depend on it.

    Raises InputError where the closure's loss has no graph.
    """
    params = [one.param for one in held]
    with torch.enable_grad():
        loss = closure()
        if not loss.requires_grad:
            raise InputError("observe: the closure should return the loss with its graph")
        create = estimator == "hutchinson"
        # With allow_unused the result may hold None, which torch's annotation leaves out.
        gradients = cast(
            "tuple[Tensor | None, ...]",
            torch.autograd.grad(loss, params, create_graph=create, allow_unused=True),
        )
        if estimator == "gnb":
            return [g if g is None else batch_size * _wide(g).square() for g in gradients]
        used = [i for i, g in enumerate(gradients) if g is not None and g.requires_grad]
        slopes = [cast("Tensor", gradients[i]) for i in used]
        signs = [_signs(groups, held[i]) for i in used]
        products = cast(
            "tuple[Tensor | None, ...]",
            torch.autograd.grad(slopes, [params[i] for i in used], signs, allow_unused=True),
        )
    samples: list[Tensor | None] = [None] * len(held)
    for i, z, product in zip(used, signs, products, strict=True):
        samples[i] = None if product is None else _wide(z * product)
    return samples


def _signs(groups: Sequence[dict[str, Any]], one: Held) -> Tensor:
    # A stream of its own beside the noise that the rule draws at this step.
    draw = noise(groups[one.group]["seed"], one.state["step"].item(), f"signs {one.name}")
    return torch.where(draw(one.param) >= 0, 1.0, -1.0).to(one.param.dtype)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.detach()
