"""Schedule-free RAdam."""

from __future__ import annotations

import torch
from torch import Tensor

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.schedule_free import (
    Scalar,
    as_tensor,
    averaging_step,
    scale_by_corrected_rms,
)


@register("optimizer", "schedule_free_radam")
def schedule_free_radam(
    lr: NonNegative = 2.5e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
    silent_sgd_phase: bool = True,
) -> Transform:
    """Schedule-free AdamW with RAdam's rectified step size in place of a warmup.

    As schedule_free_adamw with γ = lr · √((ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ)) where ρ > 4;
    ρ∞ = 2 / (1 − β₂) − 1,  ρ = ρ∞ − 2 t β₂ᵗ / (1 − β₂ᵗ).

    Variant: in the first steps, where ρ ≤ 4, nothing moves; with silent_sgd_phase=False they are
     steps along the plain gradient, of size lr. t and the sums are each parameter's own.
    Equals: schedulefree.RAdamScheduleFree (same defaults), to float32 rounding.
    Assumes: evaluation at the average: `opt.eval()` before, `opt.train()` after.
    Theory: as schedule_free_adamw's.
    Practice: as schedule_free_adamw without choosing a warm-up; stands still for the first few
     steps.
    State: 8*m*n + 16 bytes for m × n, 8*n + 16 for n.
    Flops: about 18 an element.
    Use: where neither horizon nor warm-up is known.
    Avoid: under an lr that falls, or where code cannot call eval() and train().
    Recipe: {optimizer: schedule_free_radam, lr: 1e-2}
    Tags: adaptive, schedule-free, averaging
    Source: Defazio et al. 2024 (arXiv:2405.15682); Liu et al. 2020 (arXiv:1908.03265), Algorithm 2.
    lr: step size of the base point z; about the largest change of one weight in one update. Usual
     [1e-4, 2e-2] weight: more learns faster, until it diverges.
    betas: share of the average in the point where the gradient is taken; decay rate of the running
     mean square. Usual [0.8, 0.98], [0.95, 0.9999]: a higher first evaluates gradients nearer the
     average, for longer runs.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of step size. Usual [0, 0.3] 1/lr: more
     keeps weights smaller and fits less closely.
    r: power of the step in the weights of the average. Usual [0, 1]: higher weighs late iterates
     more.
    weight_lr_power: power of the largest step size so far in these weights. Usual [0, 2]: higher
     weighs the steps of a warm-up less.
    silent_sgd_phase: stand still until the mean square is worth dividing by. Usual True: False
     moves at once, by plain gradients.
    """
    denominator = scale_by_corrected_rms(betas, eps)

    def direction(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        scaled = denominator.update(u, state, param, hyper)
        return scaled if silent_sgd_phase else torch.where(_length(hyper, u) > 4, scaled, u)

    def rate(hyper: Hyper, like: Tensor) -> Scalar:
        longest, length = 2 / (1 - hyper.betas[1]) - 1, _length(hyper, like)
        factor = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        return torch.where(length > 4, factor.sqrt(), float(not silent_sgd_phase)) * hyper.lr

    numbers = {"lr": lr, "r": r, "weight_lr_power": weight_lr_power}
    return chain(
        Transform(
            direction,
            buffers=denominator.buffers,
            hyperparameters=denominator.hyperparameters,
            scope="element",
            name="scale_by_rectified_rms",
        ),
        add_decayed_weights(weight_decay),
        averaging_step(numbers, rate, lambda hyper: hyper.betas[0], averaged=not betas[0]),
    )


def _length(hyper: Hyper, like: Tensor) -> Tensor:
    """ρ: how many squares the running mean holds, in effect (float64, 0-dim)."""
    b2 = hyper.betas[1]
    longest, weight = 2 / (1 - b2) - 1, b2**hyper.step
    return as_tensor(longest - 2 * hyper.step * weight / (1 - weight), like)
