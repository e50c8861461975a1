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
    Source: Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 2.
    lr: step size; a bound on the change of one weight in one update, nearly.
    betas: decay rates of the running mean and of the largest gradient.
    eps: least denominator, in units of the gradient.
    weight_decay: L2 coefficient, added to the gradient.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_adamax(*betas, eps),
        scale_by_learning_rate(lr),
    )
