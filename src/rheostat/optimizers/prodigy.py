"""Prodigy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.distance import Growth, estimate, inner, l1, ratio, relative_step
from rheostat.transforms.numbers import chosen, larger, smaller


@register("optimizer", "prodigy")
def prodigy(
    lr: NonNegative = 1.0,
    betas: Betas = (0.9, 0.999),
    beta3: Fraction | None = None,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    decouple: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: Positive = 1e-6,
    d_coef: Positive = 1.0,
    growth_rate: Growth | None = None,
) -> Transform:
    """Adam that finds its own step size, from the distance travelled along the gradients.

    With d the estimate of the distance to the solution, γ = d · lr, and sums over all parameters:
    r ← β₃ r + (d / d₀) γ ⟨g, w₀ − w⟩,  s ← β₃ s + (d / d₀) γ g,  d⁺ = max(d, d_coef · r / ‖s‖₁),
    m ← β₁ m + (1 − β₁) d g,  v ← β₂ v + (1 − β₂) d² g²,
    w ← w − γ (m / (√v + d⁺ eps) + weight_decay · w).

    Variant: the authors' package: no bias correction unless asked for. Where all gradients so far
     are zero the package does nothing; here the decay goes on. Sums run in order of names.
    Equals: prodigyopt.Prodigy (same defaults), to float32 rounding.
    Assumes: a convex, Lipschitz loss, in the proof; in practice a distance to the solution that the
     first steps can estimate.
    Theory: for convex Lipschitz losses the optimal rate up to √log of how far d0 is off (the paper,
     for gradient descent and dual averaging); the Adam version has no proof.
    Practice: close to a hand-tuned AdamW on many tasks, and popular for fine-tuning; the estimate
     can overshoot where a warm-up inflates it (safeguard_warmup).
    State: 16*m*n bytes for m × n, 16*n for n.
    Flops: about 24 an element, and two sums over all.
    Use: where nobody tunes the lr, under a schedule whose peak is 1.
    Avoid: with an lr other than 1, with restarts and no safeguard, or several rules in one model
     that share no distance.
    Recipe: {optimizer: prodigy, lr: {schedule: cosine, peak: 1.0, warmup: 10}, safeguard_warmup:
     true}
    Tags: adaptive, momentum, parameter-free
    Source: Mishchenko & Defazio 2024 (arXiv:2306.06101), the Adam version.
    lr: factor on the estimated step size; schedule it, leave its peak at 1. Usual [0.1, 1] 1:
     another peak only rescales the estimate; use d_coef.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    beta3: decay rate of the sums of the estimate; √β₂ where None. Usual [0.9, 0.9999]: higher
     averages the estimate over more steps.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of step size. Usual [0, 0.1] 1/γ: more
     keeps weights smaller and fits less closely.
    decouple: decay after the rule (AdamW) rather than as part of the gradient. Usual True: False is
     L2 decay.
    use_bias_correction: correct the step size for the zero start of both moments. Usual False: True
     makes the first steps smaller.
    safeguard_warmup: keep lr out of s, so that a long warmup does not inflate the estimate. Usual
     False: True is safer under a long warm-up.
    d0: the first estimate, far below any plausible distance, in units of weight. Usual [1e-8, 1e-4]
     weight: too large cannot be undone, too small costs some steps.
    d_coef: factor on the estimate; the preferred way to make steps larger or smaller. Usual
     [0.5, 2] 1: more takes longer steps.
    growth_rate: largest factor by which the estimate grows in a step; None for no limit. Usual
     [1.02, 2.0] 1: lower grows the estimate with care.
    """

    def third(hyper: Hyper) -> Any:
        return hyper.betas[1] ** 0.5 if beta3 is None else beta3

    def weighed(u: Tensor, state: State, hyper: Hyper, d: Any) -> Tensor:
        """s with this step's gradient in it."""
        size = d if safeguard_warmup else relative_step(hyper, d, use_bias_correction)
        return state["s"] * third(hyper) + u * (d / d0 * size)

    def measure(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Mapping[str, Tensor]:
        scale = hyper.d / d0 * relative_step(hyper, hyper.d, use_bias_correction)
        return {
            "numerator": scale * inner(u, state["p0"] - param),
            "denominator": l1(weighed(u, state, hyper, hyper.d)),
        }

    def settle(sums: Mapping[str, Any], hyper: Hyper) -> Mapping[str, Any]:
        numerator = third(hyper) * hyper.d_numerator + sums["numerator"]
        d = hyper.d
        found = ratio(hyper.d_coef * numerator, sums["denominator"], d)
        largest = larger(hyper.d_max, found)
        # The first jump from d0 is free: growth is limited from where it lands.
        reached = chosen(d == d0, larger(d, found), d)
        grown = largest if growth_rate is None else smaller(largest, reached * growth_rate)
        return {"d": grown, "d_before": d, "d_max": largest, "d_numerator": numerator}

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        (b1, b2), d = hyper.betas, hyper.d_before
        state["s"].copy_(weighed(u, state, hyper, d))
        mean = state["exp_avg"].mul_(b1).add_(u * (d * (1 - b1)))
        square = state["exp_avg_sq"].mul_(b2).add_((u * d).square_().mul_(1 - b2))
        return mean / square.sqrt().add_(hyper.d * hyper.eps)

    def scale(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * relative_step(hyper, hyper.d_before, use_bias_correction)

    rule = Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_sq": Buffer(), "s": Buffer(), "p0": Buffer("param")},
        hyperparameters={"betas": betas, "eps": eps, "d_coef": d_coef},
        scalars={**estimate(d0, "prodigy"), "d_max": d0, "d_numerator": 0.0},
        scope="element",
        measure=measure,
        settle=settle,
        name="prodigy",
    )
    decay = add_decayed_weights(weight_decay)
    step = Transform(
        scale, hyperparameters={"lr": lr}, scope="element", scaled=True, name="scale_by_distance"
    )
    return chain(rule, decay, step) if decouple else chain(decay, rule, step)
