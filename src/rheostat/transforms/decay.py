"""Weight decay. Where a piece stands in the chain says which kind it is."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform


@register("transform", "add_decayed_weights")
def add_decayed_weights(weight_decay: NonNegative = 0.0) -> Transform:
    """Add a fraction of the weights: u ← u + weight_decay · w.

    After the rule and before the step size this is decoupled decay (Loshchilov & Hutter 2019,
    arXiv:1711.05101); before the rule it is L2 regularisation, which the rule then rescales.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.weight_decay * param

    return Transform(update, scope="element")
