"""AdamW."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_adam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "adamw")
def adamw(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
) -> Transform:
    """Adam with decoupled weight decay.

    w ← w − lr · (m̂ / (√v̂ + eps) + weight_decay · w), with m̂ and v̂ the bias-corrected running
    mean of the gradient and of its square.

    Variant: decay is multiplied by the scheduled lr, as in torch.
    Equals: torch.optim.AdamW (same defaults), to float32 rounding.
    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 2.
    lr: step size; about the largest change of one weight in one update.
    betas: decay rates of the running mean and of the running mean square.
    eps: added to the denominator, in units of the gradient.
    weight_decay: fraction of each weight taken off per unit of lr.
    """
    return chain(
        scale_by_adam(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
