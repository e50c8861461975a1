"""Sharpness-aware minimisation: the gradient of the worst point near by, taken by a closure.

First in a chain: `step(closure)` evaluates the loss again at w + e, and the pieces that follow get
the gradient found there. The norms run over all parameters of the rule together.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform, identity
from rheostat.transforms.norms import norm

_TINY = 1e-12
"""Added to the norm, so that where all gradients are zero nothing is displaced."""


def _factor(hyper: Hyper, u: Tensor) -> Tensor:
    return (hyper.rho / (hyper.measured["square"].sqrt() + _TINY)).to(u.dtype)


@register("transform", "sam")
def sam(rho: NonNegative = 0.05) -> Transform:
    """The gradient at w + e, with e = rho · g / ‖g‖₂.

    Source: Foret et al. 2021 (arXiv:2010.01412), for p = 2.
    rho: length of the displacement, in units of weight.
    """

    def measure(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Mapping[str, Tensor]:
        return {"square": norm(u) ** 2}

    def probe(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * _factor(hyper, u)

    return Transform(identity, scope="element", measure=measure, probe=probe)


@register("transform", "asam")
def asam(rho: NonNegative = 0.5, eta: NonNegative = 0.01) -> Transform:
    """The gradient at w + e, with e = rho · T² g / ‖T g‖₂ and T = |w| + eta, element by element.

    The neighbourhood scales with the weights.

    Source: Kwon et al. 2021 (arXiv:2102.11600), with the element-wise T, for all parameters; the
     authors' code has T = 1 for what is no weight.
    rho: length of T⁻¹ e; about ten times SAM's.
    eta: added to the weights' magnitude, so that a weight of zero is displaced too.
    """

    def scale(param: Tensor, hyper: Hyper) -> Tensor:
        return param.abs() + hyper.eta

    def measure(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Mapping[str, Tensor]:
        return {"square": norm(u * scale(param, hyper)) ** 2}

    def probe(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * scale(param, hyper).square() * _factor(hyper, u)

    return Transform(identity, scope="element", measure=measure, probe=probe)
