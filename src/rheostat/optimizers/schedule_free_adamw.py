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
     AdamWScheduleFreePaper corrects the step size). Warmup, t and the sums are each parameter's
     own; there they are the group's.
    Equals: schedulefree.AdamWScheduleFree (same defaults), to float32 rounding.
    Assumes: evaluation at the average: `opt.eval()` before, `opt.train()` after; batch norm
     statistics taken at that point.
    Theory: the average has the rate of the best schedule for convex losses, up to constants, for
     any β₁ (the paper's conversion of a regret bound).
    Practice: won AlgoPerf's self-tuning track; as a tuned cosine without knowing the horizon. lr 1
     to 10 times AdamW's, β₁ 0.9 to 0.98, and a warm-up.
    State: 8*m*n + 16 bytes for m × n, 8*n + 16 for n.
    Flops: about 18 an element.
    Use: where the length of the run is open, or checkpoints must be good at any time.
    Avoid: under an lr that falls: the average is the schedule; and where code cannot call eval()
     and train().
    Recipe: {optimizer: schedule_free_adamw, lr: 1e-2, warmup_steps: 20}
    Tags: adaptive, schedule-free, averaging
    Source: Defazio et al. 2024 (arXiv:2405.15682).
    lr: step size of the base point z; about the largest change of one weight in one update. Usual
     [1e-4, 2e-2] weight: more learns faster, until it diverges.
    betas: share of the average in the point where the gradient is taken; decay rate of the running
     mean square. Usual [0.8, 0.98], [0.95, 0.9999]: a higher first evaluates gradients nearer the
     average, for longer runs.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of step size. Usual [0, 0.3] 1/lr: more
     keeps weights smaller and fits less closely.
    warmup_steps: steps over which the step size rises linearly to lr. Usual [0, 10000] updates:
     more is safer, in place of a schedule's warm-up.
    r: power of the step in the weights of the average. Usual [0, 1]: higher weighs late iterates
     more.
    weight_lr_power: power of the largest step size so far in these weights. Usual [0, 2]: higher
     weighs the steps of a warm-up less.
    """
    rate = warmed_up(warmup_steps)
    numbers = {"lr": lr, "r": r, "weight_lr_power": weight_lr_power}
    return chain(
        scale_by_corrected_rms(betas, eps),
        add_decayed_weights(weight_decay),
        averaging_step(numbers, rate, lambda hyper: hyper.betas[0], averaged=not betas[0]),
    )
