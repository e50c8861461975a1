"""Pulls towards a reference: what was learnt before is held while new data come.

Before the rule such a pull is a term of the loss, as in the papers; after it, before the step size,
it is decoupled, as AdamW's decay is. The reference is the weights at the start, until `anchor`
takes the present ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform

_REFERENCE, _IMPORTANCE, _SQUARES = "reference", "importance", "running_squares"


@register("transform", "pull_towards")
def pull_towards(pull: NonNegative = 1e-2) -> Transform:
    """L2-SP: u ← u + pull · (w − r), with r the weights at the start or at the last anchor.

    The gradient of pull/2 ‖w − r‖². Li, Grandvalet & Davoine 2018 (arXiv:1802.01483).

    pull: strength; as weight decay is towards zero.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.pull * (param - state[_REFERENCE])

    return Transform(update, buffers={_REFERENCE: Buffer("param", lasts=True)}, scope="element")


@register("transform", "pull_by_importance")
def pull_by_importance(pull: NonNegative = 1.0, importance_decay: Fraction = 0.999) -> Transform:
    """EWC: u ← u + pull · F (w − r), with F how much each weight mattered up to the last anchor.

    s ← the running mean of squared gradients (those that enter the chain), without bias; at an
    anchor F ← F + s and r ← w. Before the first one F is 0, and nothing pulls. Kirkpatrick et al.
    2017 (arXiv:1612.00796), equation 3, with squared gradients of batches for the Fisher diagonal;
    the sum over anchors is Schwarz et al. 2018 (arXiv:1805.06370), with γ = 1.

    pull: λ, strength; in units of 1 / gradient², so it depends on the scale of the loss.
    importance_decay: share of the mean that a step keeps.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        keep = hyper.importance_decay
        new = (1 - keep) / (1 - keep**hyper.step)
        squares, gradient = state[_SQUARES], hyper.gradient
        squares.mul_(1 - new).add_(gradient * gradient * new)
        return u + hyper.pull * state[_IMPORTANCE] * (param - state[_REFERENCE])

    buffers = {
        _REFERENCE: Buffer("param", lasts=True),
        _IMPORTANCE: Buffer(lasts=True),
        _SQUARES: Buffer(),
    }
    return Transform(update, buffers=buffers, scope="element")


def anchor(param: Tensor, state: Mapping[str, Tensor]) -> bool:
    """Make the present value of a parameter its reference, given its state in the optimizer.

    False where no piece of its rule pulls.
    """
    if _REFERENCE not in state:
        return False
    state[_REFERENCE].copy_(param.detach())
    if _IMPORTANCE in state:
        state[_IMPORTANCE].add_(state[_SQUARES])
    return True
