"""NAdamW."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_nadam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "nadamw")
def nadamw(
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
    momentum_decay: NonNegative = 4e-3,
) -> Transform:
    """NAdam with decoupled weight decay.

    w ← w − lr · (u + weight_decay · w), with u the direction of `nadam` from the bare gradient.

    Variant: Dozat's momentum schedule; decay multiplied by the scheduled lr. Others of this name
    (optax's, AlgoPerf's) have a constant momentum.
    Equals: torch.optim.NAdam(decoupled_weight_decay=True, weight_decay=1e-2), the rest its
    defaults, to float32 rounding.
    Source: Dozat 2016 (ICLR workshop), Algorithm 2; Loshchilov & Hutter 2019 (arXiv:1711.05101).
    lr: step size; about the largest change of one weight in one update.
    betas: decay rates of the running mean and of the running mean square.
    eps: added to the denominator, in units of the gradient.
    weight_decay: fraction of each weight taken off per unit of lr.
    momentum_decay: speed of the momentum's warmup, per update; at 0 it stays at β₁ / 2.
    """
    return chain(
        scale_by_nadam(*betas, eps, momentum_decay),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
