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
    Source: Duchi, Hazan & Singer 2011 (JMLR 12:2121–2159).
    lr: step size; the change of a weight in its first update.
    lr_decay: fall of the step size, as a fraction of lr per update.
    weight_decay: L2 coefficient, added to the gradient.
    initial_accumulator_value: what s begins with, in units of the squared gradient.
    eps: added to the denominator, in units of the gradient.
    """
    return chain(
        add_decayed_weights_if_any(weight_decay),
        lazily(scale_by_adagrad(lr_decay, initial_accumulator_value, eps)),
        scale_by_learning_rate(lr),
    )
