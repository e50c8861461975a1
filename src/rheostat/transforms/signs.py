"""Rules that read the gradient's signs alone."""

from __future__ import annotations

from typing import Annotated

import annotated_types as at
import torch
from torch import Tensor

from rheostat.core.hyper import NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform

Shrink = Annotated[float, at.Gt(0), at.Lt(1)]
Growth = Annotated[float, at.Gt(1)]


@register("transform", "resilient_steps")
def resilient_steps(
    lr: NonNegative = 1e-2,
    etas: tuple[Shrink, Growth] = (0.5, 1.2),
    step_sizes: tuple[Positive, Positive] = (1e-6, 50.0),
) -> Transform:
    """Rprop: every weight has its step size, and moves by it against the sign of its update.

    Where the sign is that of the last update, the step size grows by etas[1]; where it turned, it
    shrinks by etas[0] and the weight rests this once. It starts from lr and stays in `step_sizes`.

    Source: Riedmiller & Braun 1993 (Rprop); without taking back the last move, Igel & Hüsken 2000
     (Rprop⁻ with the rest, iRprop⁻).
    lr: first step size of every weight.
    etas: what a step size is multiplied by where the sign turned, and where it stayed.
    step_sizes: least and largest step size.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        (shrink, growth), (low, high) = hyper.etas, hyper.step_sizes
        prev, size = state["prev"], state["step_size"].add_((hyper.step == 1) * hyper.lr)
        # Signs first: the product of two small gradients may be 0.
        turn = u.sign() * prev.sign()
        changed = torch.where(turn < 0, size * shrink, torch.where(turn > 0, size * growth, size))
        size.copy_(changed).clamp_(low, high)
        prev.copy_(torch.where(turn < 0, 0.0, u))
        return prev.sign() * size

    return Transform(
        update, buffers={"prev": Buffer(), "step_size": Buffer()}, scope="element", scaled=True
    )
