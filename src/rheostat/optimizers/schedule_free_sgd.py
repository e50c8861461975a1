"""Schedule-free SGD."""

from __future__ import annotations

from rheostat.core.hyper import Fraction, NonNegative, Steps
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.schedule_free import schedule_free_step


@register("optimizer", "schedule_free_sgd")
def schedule_free_sgd(
    lr: NonNegative = 1.0,
    momentum: Fraction = 0.9,
    weight_decay: NonNegative = 0.0,
    warmup_steps: Steps = 0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
) -> Transform:
    """SGD that averages its iterates instead of following a schedule.

    With γ the step size and u = g(y) + weight_decay · y:
    z ← z − γ u,  x ← (1 − c) x + c z,  y ← (1 − momentum) z + momentum · x,  c = w / Σ w,
    where w = tʳ · (largest γ)^weight_lr_power. Parameters are y in training, x after `opt.eval()`.

    Variant: decay at y, weights by step size, and warmup as in the authors' package. Warmup, t and
     the sums are each parameter's own; there they are the group's.
    Equals: schedulefree.SGDScheduleFree (same defaults), to float32 rounding.
    Assumes: evaluation at the average: `opt.eval()` before, `opt.train()` after; batch norm
     statistics taken at that point.
    Theory: O(1 / √T) for convex Lipschitz losses, the best constant included, for any momentum (the
     paper).
    Practice: as SGD under a tuned schedule for convolutional networks; lr higher than SGD's by 10
     and more.
    State: 4*m*n + 16 bytes for m × n, 4*n + 16 for n.
    Flops: about 9 an element.
    Use: for convolutional networks and convex models with an open horizon.
    Avoid: under an lr that falls, or where code cannot call eval() and train().
    Recipe: {optimizer: schedule_free_sgd, lr: 0.5, warmup_steps: 20}
    Tags: schedule-free, averaging, low-memory
    Source: Defazio et al. 2024 (arXiv:2405.15682).
    lr: step size of the base point z, in units of weight per unit of gradient. Usual [0.1, 10]
     weight/gradient: more learns faster, until it diverges.
    momentum: share of the average in the point where the gradient is taken; 0 is averaged SGD.
     Usual [0.8, 0.98]: higher evaluates gradients nearer the average.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    warmup_steps: steps over which the step size rises linearly to lr. Usual [0, 10000] updates:
     more is safer, in place of a schedule's warm-up.
    r: power of the step in the weights of the average. Usual [0, 1]: higher weighs late iterates
     more.
    weight_lr_power: power of the largest step size so far in these weights. Usual [0, 2]: higher
     weighs the steps of a warm-up less.
    """
    return chain(
        add_decayed_weights(weight_decay),
        schedule_free_step(lr, momentum, warmup_steps, r, weight_lr_power),
    )
