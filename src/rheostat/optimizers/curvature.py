"""Samples of the Hessian's diagonal, for rules that precondition by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.sealed import Sealed
from rheostat.core.sharded import any_sharded
from rheostat.core.transform import Hyper, Transform
from rheostat.optimizers.items import Held, noise, numbers_of


def observe(
    groups: Sequence[dict[str, Any]],
    rules: Sequence[Transform],
    every: Sequence[Held],
    closure: Callable[[], Tensor],
    estimator: Literal["hutchinson", "gnb"],
    batch_size: int,
) -> None:
    """Show the rules that use it a sample of the Hessian's diagonal; see `Optimizer.observe`."""
    using = {index for index, rule in enumerate(rules) if any(p.observe for p in rule.pieces)}
    held = [one for one in every if one.param.requires_grad and one.group in using]
    if not held:
        raise InputError("observe: no rule of this optimizer uses the Hessian's diagonal")
    if any_sharded(one.param for one in held):
        raise InputError("observe: the parameters are sharded, and a sample needs whole ones")
    samples = curvature_samples(groups, held, closure, estimator, batch_size)
    for one, sample in zip(held, samples, strict=True):
        if sample is None:
            continue
        numbers = numbers_of(groups[one.group], rules[one.group])
        hyper = Hyper(**numbers, step=one.state["step"].item(), gradient=sample)
        state = Sealed(one.state, rules[one.group].name)
        for piece in rules[one.group].pieces:
            if piece.observe is not None:
                piece.observe(sample, state, one.param, hyper)


def curvature_samples(
    groups: Sequence[dict[str, Any]],
    held: Sequence[Held],
    closure: Callable[[], Tensor],
    estimator: Literal["hutchinson", "gnb"],
    batch_size: int,
) -> list[Tensor | None]:
    """One sample a parameter, in float32 at least; None where the loss does not depend on it.

    Raises InputError for an unknown estimator, or where the closure's loss has no graph.
    """
    if estimator not in ("hutchinson", "gnb"):
        raise InputError(f"estimator={estimator!r}: should be 'hutchinson' or 'gnb'")
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
