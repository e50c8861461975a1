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
    Assumes: the full batch: signs without noise.
    Theory: no proof of global convergence; step sizes shrink around a local minimum.
    Practice: fast and hardly tuned on small full-batch problems; fails under minibatch noise, where
     signs change for no reason.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 6 an element.
    Use: for small problems with the whole data in one batch.
    Avoid: with minibatches.
    Recipe: {optimizer: rprop}
    Tags: sign, full-batch
    Source: Riedmiller & Braun 1993; Igel & Hüsken 2000 (iRprop⁻).
    lr: δ at a parameter's first update, which alone reads it: a schedule of it does nothing later.
     Usual [1e-4, 0.1] weight: the first step; a poor one is corrected within some steps.
    etas: factors of δ at a change of sign and without one. Usual [0.3, 0.8], [1.1, 1.5]: a higher
     second grows steps faster.
    step_sizes: least and greatest δ, in units of the weights. Usual [1e-10, 1e-4], [0.1, 50]
     weight: a lower second bounds the boldest step.
    """
    return resilient_steps(lr, etas, step_sizes)
