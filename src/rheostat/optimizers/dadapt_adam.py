"""Adam with D-Adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rheostat.core.hyper import Betas, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.distance import Growth, estimate, inner, l1, ratio, relative_step
from rheostat.transforms.numbers import larger, smaller


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
    Assumes: a convex, Lipschitz loss, in the proof; in practice a distance to the solution that the
     first steps can estimate.
    Theory: without the distance known, asymptotically the optimal rate for convex Lipschitz losses
     (the paper, for dual averaging and AdaGrad); the Adam version has no proof.
    Practice: finds an lr close to a tuned Adam's on many tasks; can settle too low or too high on
     transformers. Prodigy grows its estimate faster.
    State: 12*m*n bytes for m × n, 12*n for n.
    Flops: about 20 an element, and two sums over all.
    Use: for a first run without tuning the lr, under a schedule whose peak is 1.
    Avoid: with an lr other than 1, or restarts: the estimate never falls.
    Recipe: {optimizer: dadapt_adam, lr: {schedule: cosine, peak: 1.0}, use_bias_correction: true}
    Tags: adaptive, momentum, parameter-free
    Source: Defazio & Mishchenko 2023 (arXiv:2301.07733), the Adam version.
    lr: factor on the estimated step size; schedule it, leave its peak at 1. Usual [0.1, 1] 1:
     another peak only rescales the estimate.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: added to the gradient, per unit of weight; decoupled, it is the fraction of each
     weight taken off per unit of γ. Usual [0, 0.1] gradient/weight: more keeps weights smaller and
     fits less closely.
    decouple: decay after the rule (AdamW) rather than as part of the gradient. Usual False: True
     decays as AdamW does.
    use_bias_correction: correct γ for the zero start of both moments. Usual False: True makes the
     first steps smaller.
    d0: the first bound, far below any plausible distance, in units of weight. Usual [1e-8, 1e-4]
     weight: too large cannot be undone, too small costs some steps.
    growth_rate: largest factor by which the bound grows in a step; None for no limit. Usual
     [1.02, 2.0] 1: lower grows the estimate with care, a warm-up of its own.
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

    def settle(sums: Mapping[str, Any], hyper: Hyper) -> Mapping[str, Any]:
        root = hyper.betas[1] ** 0.5
        numerator = root * hyper.numerator_weighted + (1 - root) * sums["numerator"]
        denominator = (1 - root) * sums["denominator"]
        d = hyper.d
        found = ratio(numerator, denominator, d)
        grown = found if growth_rate is None else smaller(found, d * growth_rate)
        return {"d": larger(d, grown), "d_before": d, "numerator_weighted": numerator}

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
