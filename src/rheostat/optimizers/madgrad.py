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

    Source: Defazio & Jelassi 2021 (arXiv:2101.11075), Algorithm 1.
    lr: step size, before its growth with √t.
    momentum: share of the old weights in the new.
    eps: added to the cube root.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        start, weight = state["x0"], hyper.lr * hyper.step**0.5
        # Weights that were loaded after the optimizer was made are the ones to start from.
        start.lerp_(param.to(start.dtype), 1.0 * (hyper.step == 1))
        dual = state["s"].add_(weight * u)
        # The cube root by logarithms takes a third of the time of a power; of 0 it is 0.
        root = state["grad_sum_sq"].add_(weight * u * u).log().mul_(1 / 3).exp_()
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
    Assumes: that one centre, the first weights, is a fair place to average from: small or moderate
     distances.
    Theory: O(1 / √T) for convex Lipschitz losses (the paper).
    Practice: strong on MRI reconstruction and some vision tasks; its lr is on no other rule's
     scale, and a long sum of gradients makes late changes of lr slow.
    State: 12*m*n bytes for m × n, 12*n for n.
    Flops: about 14 an element, a cube root among them.
    Use: for sparse or badly scaled problems where Adam generalises poorly.
    Avoid: to fine-tune far from the first weights, or with restarts: all gradients so far stay in
     the sum.
    Recipe: {optimizer: madgrad, lr: {schedule: cosine, peak: 5e-3, warmup: 20}}
    Tags: adaptive, momentum
    Source: Defazio & Jelassi 2021 (arXiv:2101.11075), Algorithm 1.
    lr: step size; not comparable with Adam's or SGD's. Usual [1e-4, 5e-2] its own: more learns
     faster, until it diverges; do not carry one over from Adam.
    momentum: share of the present weights in the next; the averaging of the iterates. Usual
     [0, 0.97]: higher averages over more iterates.
    eps: added to the cube root. Usual [1e-10, 1e-3] ∛(gradient²): larger damps weights whose
     gradients are small.
    weight_decay: L2 coefficient, added to the gradient; often best at 0. Usual [0, 1e-4]
     gradient/weight: more keeps weights smaller; often best at 0.
    """
    return chain(add_decayed_weights(weight_decay), average_duals(lr, momentum, eps))
