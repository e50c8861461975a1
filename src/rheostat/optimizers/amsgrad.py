"""AMSGrad."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_amsgrad
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "amsgrad")
def amsgrad(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Adam over the largest mean square so far, so that no weight's step size grows back.

    w ← w − lr · m̂ / (√(v⁺ / (1 − β₂ᵗ)) + eps),  v⁺ ← max(v⁺, v), with m̂ the bias-corrected running
    mean of g, v the running mean of g², and g the gradient plus weight_decay · w.

    Variant: with Adam's bias corrections, which the paper leaves out; the maximum is taken before
    them. Weight decay is L2.
    Equals: torch.optim.Adam(amsgrad=True) (same defaults), to float32 rounding.
    Source: Reddi, Kale & Kumar 2018 (arXiv:1904.09237), Algorithm 2.
    lr: step size; about the largest change of one weight in one update.
    betas: decay rates of the running mean and of the running mean square.
    eps: added to the denominator, in units of the gradient.
    weight_decay: L2 coefficient, added to the gradient.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_amsgrad(*betas, eps),
        scale_by_learning_rate(lr),
    )
