"""Schedule-free AdamW."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative, Steps
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.schedule_free import (
    averaging_step,
    scale_by_corrected_rms,
    warmed_up,
)


@register("optimizer", "schedule_free_adamw")
def schedule_free_adamw(
    lr: NonNegative = 2.5e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    warmup_steps: Steps = 0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
) -> Transform:
    """AdamW whose momentum is an average of its iterates, and whose schedule is that average.

    With γ the step size, g the gradient at y, u = g / (√v̂ + eps) + weight_decay · y:
    z ← z − γ u,  x ← (1 − c) x + c z,  y ← (1 − β₁) z + β₁ x,  c = w / Σ w,
    where w = tʳ · (largest γ)^weight_lr_power. Parameters are y in training, x after `opt.eval()`.

    Variant: decay at y and bias-corrected v, as AdamWScheduleFree of the authors' package (its
    AdamWScheduleFreePaper corrects the step size). Warmup, t and the sums are each parameter's own;
    there they are the group's.
    Equals: schedulefree.AdamWScheduleFree (same defaults), to float32 rounding.
    Source: Defazio et al. 2024 (arXiv:2405.15682).
    lr: step size of the base point z; about the largest change of one weight in one update.
    betas: share of the average in the point where the gradient is taken; decay rate of the running
        mean square.
    eps: added to the denominator, in units of the gradient.
    weight_decay: fraction of each weight taken off per unit of step size.
    warmup_steps: steps over which the step size rises linearly to lr.
    r: power of the step in the weights of the average.
    weight_lr_power: power of the largest step size so far in these weights.
    """
    rate = warmed_up(warmup_steps)
    numbers = {"lr": lr, "r": r, "weight_lr_power": weight_lr_power}
    return chain(
        scale_by_corrected_rms(betas, eps),
        add_decayed_weights(weight_decay),
        averaging_step(numbers, rate, lambda hyper: hyper.betas[0], averaged=not betas[0]),
    )
