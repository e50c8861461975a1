"""Rprop."""

from __future__ import annotations

from rheostat.core.hyper import NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Transform
from rheostat.transforms.signs import Growth, Shrink, resilient_steps


@register("optimizer", "rprop")
def rprop(
    lr: NonNegative = 1e-2,
    etas: tuple[Shrink, Growth] = (0.5, 1.2),
    step_sizes: tuple[Positive, Positive] = (1e-6, 50.0),
) -> Transform:
    """Resilient propagation: a step size for every weight, from the signs of its gradients alone.

    w ← w − δ · sign(g), where δ ← etas[1] · δ as long as g keeps its sign; where g changes it,
    δ ← etas[0] · δ and w rests this once. δ stays between the two step_sizes. For full batches.

    Variant: iRprop⁻: no weight goes back to where it was.
    Equals: torch.optim.Rprop (same defaults), to the bit, unless the product of two successive
    gradients underflows (torch then sees no sign).
    Source: Riedmiller & Braun 1993; Igel & Hüsken 2000 (iRprop⁻).
    lr: δ at a parameter's first update, which alone reads it: a schedule of it does nothing later.
    etas: factors of δ at a change of sign and without one.
    step_sizes: least and greatest δ, in units of the weights.
    """
    return resilient_steps(lr, etas, step_sizes)
