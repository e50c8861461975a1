"""Adam with D-Adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rheostat.core.hyper import Betas, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.distance import Growth, estimate, inner, l1, relative_step


@register("optimizer", "dadapt_adam")
def dadapt_adam(
    lr: NonNegative = 1.0,
    betas: Betas = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    decouple: bool = False,
    use_bias_correction: bool = False,
    d0: Positive = 1e-6,
    growth_rate: Growth | None = None,
) -> Transform:
    """Adam that finds its own step size, from a lower bound on the distance to the solution.

    With d the bound, γ = d · lr, sums over all parameters, and v before this step's gradient in r:
    r ← √β₂ r + (1 − √β₂) γ ⟨g, s / (√v + eps)⟩,  s ← √β₂ s + (1 − √β₂) γ g,
    d ← max(d, r / ((1 − √β₂) ‖s‖₁)),
    m ← β₁ m + (1 − β₁) γ g,  v ← β₂ v + (1 − β₂) g²,  w ← w − m / (√v + eps).

    Variant: the authors' package, whose decay is L2 unless decoupled. γ enters with the gradient,
    so a new lr takes effect through the running mean. No layer_scale: a group has its lr_factor.
    Where all gradients so far are zero the package does nothing; here the decay goes on.
    Equals: dadaptation.DAdaptAdam (same defaults), to float32 rounding.
    Source: Defazio & Mishchenko 2023 (arXiv:2301.07733), the Adam version.
    lr: factor on the estimated step size; schedule it, leave its peak at 1.
    betas: decay rates of the running mean and of the running mean square.
    eps: added to the denominator, in units of the gradient.
    weight_decay: added to the gradient, per unit of weight; decoupled, it is the fraction of each
        weight taken off per unit of γ.
    decouple: decay after the rule (AdamW) rather than as part of the gradient.
    use_bias_correction: correct γ for the zero start of both moments.
    d0: the first bound, far below any plausible distance, in units of weight.
    growth_rate: largest factor by which the bound grows in a step; None for no limit.
    """

    def gamma(hyper: Hyper, d: Any) -> Any:
        return relative_step(hyper, d, use_bias_correction)

    def weighed(u: Tensor, state: State, hyper: Hyper, d: Any) -> Tensor:
        """s with this step's gradient in it."""
        root = hyper.betas[1] ** 0.5
        return state["s"] * root + u * (gamma(hyper, d) * (1 - root))

    def measure(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Mapping[str, Tensor]:
        direction = state["s"] / state["exp_avg_sq"].sqrt().add_(hyper.eps)
        return {
            "numerator": gamma(hyper, hyper.d) * inner(u, direction),
            "denominator": l1(weighed(u, state, hyper, hyper.d)),
        }

    def settle(sums: Mapping[str, Tensor], hyper: Hyper) -> Mapping[str, float]:
        root = hyper.betas[1] ** 0.5
        numerator = root * hyper.numerator_weighted + (1 - root) * float(sums["numerator"])
        denominator = (1 - root) * float(sums["denominator"])
        d = hyper.d
        found = numerator / denominator if denominator else d
        grown = found if growth_rate is None else min(found, d * growth_rate)
        return {"d": max(d, grown), "d_before": d, "numerator_weighted": numerator}

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        (b1, b2), d = hyper.betas, hyper.d_before
        state["s"].copy_(weighed(u, state, hyper, d))
        mean = state["exp_avg"].mul_(b1).add_(u * (gamma(hyper, d) * (1 - b1)))
        square = state["exp_avg_sq"].mul_(b2).addcmul_(u, u, value=1 - b2)
        return mean / square.sqrt().add_(hyper.eps)

    def decay(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.weight_decay * gamma(hyper, hyper.d_before) * param

    rule = Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_sq": Buffer(), "s": Buffer()},
        hyperparameters={"lr": lr, "betas": betas, "eps": eps},
        scalars={**estimate(d0, "dadapt_adam"), "numerator_weighted": 0.0},
        scope="element",
        scaled=True,
        measure=measure,
        settle=settle,
        name="dadapt_adam",
    )
    if not decouple:
        return chain(add_decayed_weights(weight_decay), rule)
    decayed = Transform(
        decay,
        hyperparameters={"weight_decay": weight_decay},
        scope="element",
        name="add_decayed_weights",
    )
    return chain(rule, decayed)
