"""Adagrad."""

from __future__ import annotations

from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.rms import scale_by_adagrad
from rheostat.transforms.scaling import scale_by_learning_rate
from rheostat.transforms.sparse import add_decayed_weights_if_any, lazily


@register("optimizer", "adagrad")
def adagrad(
    lr: NonNegative = 1e-2,
    lr_decay: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 0.0,
    eps: NonNegative = 1e-10,
) -> Transform:
    """The gradient over the root of the sum of all its squares.

    w ← w − lr / (1 + (t − 1) lr_decay) · g / (√s + eps),  s ← s + g², with g the gradient plus
    weight_decay · w.

    Variant: the diagonal form. Takes sparse gradients where weight_decay is 0: elements without a
     gradient stay as they are, and lose nothing by it.
    Equals: torch.optim.Adagrad (same defaults, sparse gradients too), to float32 rounding.
    Assumes: that coordinates which had large gradients need no large steps again: convex problems,
     sparse features.
    Theory: regret O(√T), and better where gradients are sparse (the paper); O(log T / √T) to a
     stationary point (Ward et al. 2019, arXiv:1806.01811, for one common step size).
    Practice: excellent for sparse features and embeddings; in deep networks steps die out, because
     the sum only grows.
    State: 4*m*n bytes for m × n, 4*n for n.
    Flops: about 7 an element.
    Use: for sparse features, embeddings and convex models.
    Avoid: for long training of deep networks.
    Recipe: {optimizer: adagrad, lr: {schedule: cosine, peak: 0.05}}
    Tags: adaptive, low-memory
    Source: Duchi, Hazan & Singer 2011 (JMLR 12:2121–2159).
    lr: step size; the change of a weight in its first update. Usual [1e-3, 0.5] weight: more learns
     faster, until it diverges.
    lr_decay: fall of the step size, as a fraction of lr per update. Usual [0, 1e-2] 1/update: more
     falls faster, on top of what the sum does.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    initial_accumulator_value: what s begins with, in units of the squared gradient. Usual [0, 1]
     gradient²: larger makes the first steps smaller.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    """
    return chain(
        add_decayed_weights_if_any(weight_decay),
        lazily(scale_by_adagrad(lr_decay, initial_accumulator_value, eps)),
        scale_by_learning_rate(lr),
    )
