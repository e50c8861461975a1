"""MADGRAD: momentumised adaptive dual averaging."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights


@register("transform", "average_duals")
def average_duals(
    lr: NonNegative = 1e-2, momentum: Fraction = 0.9, eps: Positive = 1e-6
) -> Transform:
    """Dual averaging from the first weights w₀, scaled by a cube root, with averaged iterates.

    With λ = lr · √t: s ← s + λ u,  v ← v + λ u²,  z = w₀ − s / (∛v + eps),
    w ← momentum · w + (1 − momentum) · z. It contains the step size.
    Defazio & Jelassi 2021 (arXiv:2101.11075), Algorithm 1.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        start, weight = state["x0"], hyper.lr * hyper.step**0.5
        # Weights that were loaded after the optimizer was made are the ones to start from.
        start.lerp_(param.to(start.dtype), 1.0 * (hyper.step == 1))
        dual = state["s"].add_(weight * u)
        root = state["grad_sum_sq"].add_(weight * u * u) ** (1 / 3)
        target = start - dual / root.add_(hyper.eps)
        return (param - target) * (1 - hyper.momentum)

    return Transform(
        update,
        buffers={"grad_sum_sq": Buffer(), "s": Buffer(), "x0": Buffer("param")},
        scope="element",
        scaled=True,
    )


@register("optimizer", "madgrad")
def madgrad(
    lr: NonNegative = 1e-2,
    momentum: Fraction = 0.9,
    eps: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """MADGRAD: every step starts anew from the first weights, with all gradients so far.

    λ = lr · √t,  s ← s + λ g,  v ← v + λ g²,  z = w₀ − s / (∛v + eps),
    w ← momentum · w + (1 − momentum) · z.

    Variant: as published; decay is L2, added to the gradient. The first weights are kept whatever
    momentum is.
    Equals: pytorch_optimizer.MADGRAD and optax.contrib.madgrad at lr − eps (both, like the authors'
    code, add eps to lr), to float32 rounding.
    Source: Defazio & Jelassi 2021 (arXiv:2101.11075), Algorithm 1.
    lr: step size; not comparable with Adam's or SGD's.
    momentum: share of the present weights in the next; the averaging of the iterates.
    eps: added to the cube root.
    weight_decay: L2 coefficient, added to the gradient; often best at 0.
    """
    return chain(add_decayed_weights(weight_decay), average_duals(lr, momentum, eps))
