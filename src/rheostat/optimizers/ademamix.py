"""AdEMAMix: Adam with a second, much slower momentum."""

from __future__ import annotations

import math
from typing import Annotated, Any

import annotated_types as at
from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative, Positive, Steps
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.numbers import log, smaller
from rheostat.transforms.scaling import scale_by_learning_rate

OpenFraction = Annotated[float, at.Gt(0), at.Lt(1)]


@register("transform", "scale_by_ademamix")
def scale_by_ademamix(
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    b3: OpenFraction = 0.9999,
    alpha: NonNegative = 5.0,
    eps: Positive = 1e-8,
    alpha_warmup: Steps = 0,
    beta3_warmup: Steps = 0,
) -> Transform:
    """Adam's direction with α times a slow running mean, which is not bias-corrected, added to m̂.

    m₁ ← β₁ m₁ + (1 − β₁) u,  m₂ ← β₃(t) m₂ + (1 − β₃(t)) u,  v ← β₂ v + (1 − β₂) u²,
    u ← (m₁ / (1 − β₁ᵗ) + α(t) m₂) / (√(v / (1 − β₂ᵗ)) + eps).
    α(t) rises linearly from 0 over `alpha_warmup` steps, β₃(t) from β₁ over `beta3_warmup` steps,
    linearly in 1 / ln β (nearly the half-life of the mean), both by the parameter's own count.

    Source: Pagliardini et al. 2024 (arXiv:2409.03137), Algorithm 1 and its schedules.
    b1: β₁, decay rate of the fast running mean.
    b2: β₂, decay rate of the running mean of squares.
    b3: β₃, decay rate of the slow running mean.
    alpha: α, how much of the slow mean is added.
    eps: added to the denominator, in units of the update.
    alpha_warmup: steps over which α rises from 0.
    beta3_warmup: steps over which β₃ rises from β₁.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2, b3 = hyper.betas
        alpha = hyper.alpha * _share(hyper.step, alpha_warmup)
        if beta3_warmup:
            done = _share(hyper.step, beta3_warmup)
            b3 = math.e ** (1 / ((1 - done) * _inverse_log(b1) + done * _inverse_log(b3)))
        fast = state["exp_avg"].lerp_(u, 1 - b1)
        slow = state["exp_avg_slow"].lerp_(u, 1 - b3)
        square = state["exp_avg_sq"].mul_(b2).addcmul_(u, u, value=1 - b2)
        denominator = (square.sqrt() / (1 - b2**hyper.step) ** 0.5).add_(hyper.eps)
        return (fast / (1 - b1**hyper.step) + alpha * slow).div_(denominator)

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_slow": Buffer(), "exp_avg_sq": Buffer()},
        hyperparameters={"betas": (b1, b2, b3), "alpha": alpha, "eps": eps},
        scope="element",
    )


def _share(step: Any, steps: int) -> Any:
    """How much of a warm-up of `steps` is over, from 0 to 1; none is over at once."""
    if not steps:
        return 1.0
    return smaller(step / steps, 1.0)


def _inverse_log(beta: Any) -> Any:
    """1 / ln β: minus the number of steps in which a running mean forgets all but 1/e; β = 0: 0."""
    return 1 / log(beta)


@register("optimizer", "ademamix")
def ademamix(
    lr: NonNegative = 1e-3,
    betas: tuple[Fraction, Fraction, OpenFraction] = (0.9, 0.999, 0.9999),
    alpha: NonNegative = 5.0,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    alpha_warmup: Steps = 0,
    beta3_warmup: Steps = 0,
) -> Transform:
    """AdEMAMix: AdamW that adds a slow mean of the gradients of tens of thousands of steps.

    w ← w − lr · ((m̂₁ + α m₂) / (√v̂ + eps) + weight_decay · w), with m₂ the running mean of rate β₃,
    not bias-corrected; α and β₃ are warmed up.

    Variant: as published, with both schedules; the paper sets both warm-ups to the length of the
     run. Decay is multiplied by the scheduled lr.
    Equals: pytorch_optimizer.AdEMAMix (weight_decouple=True, t_alpha_beta3 = both warm-ups), and
     optax.contrib.ademamix without warm-ups, to float32 rounding.
    Assumes: that gradients from tens of thousands of steps ago still point the right way.
    Theory: no proof is published with it.
    Practice: reaches AdamW's loss on language models with about half the tokens at long horizons,
     and forgets less; unstable without both warm-ups.
    State: 12*m*n bytes for m × n, 12*n for n.
    Flops: about 19 an element.
    Use: for long pre-training, with both warm-ups set to the run's length.
    Avoid: for short runs and drifting data, where a mean over 10,000 steps is stale.
    Recipe: {optimizer: ademamix, lr: {schedule: cosine, peak: 3e-3, warmup: 20}, alpha_warmup:
     1000, beta3_warmup: 1000, weight_decay: 0.1}
    Tags: adaptive, momentum
    Source: Pagliardini et al. 2024 (arXiv:2409.03137), Algorithm 1.
    lr: step size; a weight changes in one update by about 1 + α times this at most. Usual
     [1e-5, 3e-3] weight: more learns faster, until it diverges.
    betas: decay rates of the fast mean, of the mean square, and of the slow mean. Usual
     [0.8, 0.95], [0.95, 0.9999], [0.999, 0.99999]: a higher third remembers longer and needs a
     longer warm-up.
    alpha: how much the slow mean counts beside the fast one. Usual [2, 10] 1: more follows the slow
     mean, and needs a lower lr.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    alpha_warmup: updates over which alpha rises from 0; 0 for none. Usual [0, 1000000] updates:
     shorter is bolder early.
    beta3_warmup: updates over which the slow rate rises from the fast one; 0 for none. Usual
     [0, 1000000] updates: shorter is bolder early.
    """
    return chain(
        scale_by_ademamix(*betas, alpha, eps, alpha_warmup, beta3_warmup),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
