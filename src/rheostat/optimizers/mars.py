"""MARS: AdamW on variance-reduced gradients."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.adam import scale_by_adam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_mars")
def scale_by_mars(
    b1: Fraction = 0.95, b2: Fraction = 0.99, eps: Positive = 1e-8, gamma: NonNegative = 0.025
) -> Transform:
    """Adam's direction of c = u + gamma · β₁ / (1 − β₁) · (u − the u before), of norm 1 at most.

    The difference is 0 at a parameter's first update.

    Source: Yuan et al. 2024 (arXiv:2411.10438), Algorithm 2, in its approximate form.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares.
    eps: added to the denominator, in units of the update.
    gamma: how much of the difference to the last update is added.
    """
    adam = scale_by_adam(b1, b2, eps)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, _ = hyper.betas
        # The paper starts from w₀ = w₁, so that nothing is corrected at first.
        weight = hyper.gamma * b1 / (1 - b1) * (hyper.step > 1)
        corrected = u + weight * (u - state["last_grad"])
        state["last_grad"].copy_(u)
        corrected = corrected / corrected.square().sum().sqrt().clamp(min=1)
        return adam.update(corrected, state, param, hyper)

    return Transform(
        update,
        buffers={**adam.buffers, "last_grad": Buffer()},
        hyperparameters={**adam.hyperparameters, "gamma": gamma},
        scope="whole",
    )


@register("optimizer", "mars")
def mars(
    lr: NonNegative = 3e-3,
    betas: Betas = (0.95, 0.99),
    eps: Positive = 1e-8,
    gamma: NonNegative = 0.025,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """MARS-AdamW: AdamW on gradients whose variance the gradient before them reduces.

    c = g + gamma · β₁ / (1 − β₁) · (g − g₋₁), divided by its norm where that exceeds 1; then AdamW
    with c for g: w ← w − lr · (m̂ / (√v̂ + eps) + weight_decay · w).

    Variant: MARS-AdamW, approximate: g₋₁ is the last step's gradient, not that of the last weights
     on this batch. All parameters alike; the authors' code gives those that are not matrices to
     AdamW (here a policy can), and corrects the first gradient as if one of 0 came before it.
    Equals: pytorch_optimizer.MARS(optimize_1d=True) where the first gradient's norm is at least 1,
     to float32 rounding.
    Assumes: that successive batches' gradients share their noise enough for a difference to cancel
     it.
    Theory: O(T^(−1/3)) up to logarithms for the exact form with smooth samples (the paper); the
     approximate form, which this is, has no proof.
    Practice: below AdamW's loss on GPT-2 at equal tokens, with an lr two to five times AdamW's and
     its clipping of c.
    State: 12*m*n bytes for m × n, 12*n for n.
    Flops: about 22 an element, and a norm a parameter.
    Use: for language models with large batches.
    Avoid: for embeddings and norms, which its authors leave to AdamW: use a policy.
    Recipe: {optimizer: mars, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay: 0.1}
    Tags: adaptive, momentum, variance-reduction
    Source: Yuan et al. 2024 (arXiv:2411.10438), Algorithm 2.
    lr: step size; about the largest change of one weight in one update. Usual [1e-4, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.9, 0.98],
     [0.95, 0.999]: higher averages over more steps.
    eps: added to the denominator, in units of the corrected gradient. Usual [1e-10, 1e-4] gradient:
     larger damps weights whose gradients are small.
    gamma: strength of the correction; 0 leaves AdamW with gradients clipped per parameter. Usual
     [0, 0.1] 1: more corrects more, and adds noise where gradients do not repeat.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        scale_by_mars(*betas, eps, gamma),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
