"""Adamax."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_adamax
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "adamax")
def adamax(
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Adam by the maximum norm: the running mean over the decaying largest gradient.

    w ← w − lr · m̂ / n,  n ← max(β₂ n, |g| + eps), with m̂ the bias-corrected running mean of g, the
    gradient plus weight_decay · w.

    Variant: eps, which the paper has not, is added to every |g|. Weight decay is L2.
    Equals: torch.optim.Adamax (same defaults), to float32 rounding.
    Assumes: noise whose size changes slowly beside 1 / (1 − β₂) steps; coordinates that mean
     something, since each has a scale of its own.
    Theory: the paper's regret bound is Adam's, and so is the gap in its proof; no other is
     published.
    Practice: a little more stable than Adam where gradients are rarely large (embeddings, speech);
     seldom better.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 9 an element.
    Use: where rare large gradients should keep steps small for long.
    Avoid: as a default: adamw is better understood.
    Recipe: {optimizer: adamax, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: adaptive, momentum
    Source: Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 2.
    lr: step size; a bound on the change of one weight in one update, nearly. Usual [1e-5, 1e-2]
     weight: more learns faster, until it diverges.
    betas: decay rates of the running mean and of the largest gradient. Usual [0.8, 0.95],
     [0.95, 0.9999]: a higher second remembers a large gradient longer.
    eps: least denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger damps
     weights whose gradients are small.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_adamax(*betas, eps),
        scale_by_learning_rate(lr),
    )
