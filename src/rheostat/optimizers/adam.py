"""Adam."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_adam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "adam")
def adam(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Adam: the running mean of the gradient over its running root mean square.

    w ← w − lr · m̂ / (√v̂ + eps), with m̂ and v̂ the bias-corrected running mean of g and of g², where
    g is the gradient plus weight_decay · w.

    Variant: weight decay is L2, rescaled by the rule as the gradient is; `adamw` decouples it.
    Equals: torch.optim.Adam (same defaults), to float32 rounding.
    Source: Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 1.
    lr: step size; about the largest change of one weight in one update.
    betas: decay rates of the running mean and of the running mean square.
    eps: added to the denominator, in units of the gradient.
    weight_decay: L2 coefficient, added to the gradient.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_adam(*betas, eps),
        scale_by_learning_rate(lr),
    )
