"""Adam for sparse gradients."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.scaling import scale_by_learning_rate
from rheostat.transforms.sparse import lazily


@register("optimizer", "sparse_adam")
def sparse_adam(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
) -> Transform:
    """Adam that leaves everything without a gradient untouched: weights, moments and all.

    For the elements of a sparse gradient (`nn.Embedding(sparse=True)`):
    w ← w − lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + eps), with m and v the running mean of the
    gradient and of its square, and t the updates of the parameter, not of the element.

    Variant: lazy; eps stands beside √v before its correction, as in the paper's efficient form. A
     dense gradient, which torch refuses, counts for every element.
    Equals: torch.optim.SparseAdam (same defaults), to float32 rounding.
    Assumes: that what has no gradient in a step should not move, nor its moments decay.
    Theory: no proof is published with it; on dense gradients it is Adam.
    Practice: makes huge embedding tables affordable: time follows the rows touched. Rare rows take
     longer steps than under Adam.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 13 an element that has a gradient.
    Use: for embeddings with `sparse=True`.
    Avoid: for dense parameters, and with weight decay, which it has not.
    Recipe: {optimizer: sparse_adam, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: adaptive, momentum
    Source: Kingma & Ba 2015 (arXiv:1412.6980), section 2, last paragraph.
    lr: step size; about the largest change of one weight in one update. Usual [1e-5, 1e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    """
    rule = Transform(
        _direction,
        buffers={"exp_avg": Buffer(), "exp_avg_sq": Buffer()},
        hyperparameters={"betas": betas, "eps": eps},
        scope="element",
        name="scale_by_adam_before_correction",
    )
    return chain(lazily(rule), scale_by_learning_rate(lr))


def _direction(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    b1, b2 = hyper.betas
    mean = state["exp_avg"].lerp_(u, 1 - b1)
    root = state["exp_avg_sq"].mul_(b2).addcmul_(u, u, value=1 - b2).sqrt().add_(hyper.eps)
    return (mean / root) * ((1 - b2**hyper.step) ** 0.5 / (1 - b1**hyper.step))
