"""Clipping: no update larger than so much, by value, norm, ratio to the weights, or history.

First in a chain these clip gradients; further on, whatever the piece before made of them.
"""

from __future__ import annotations

from typing import Annotated

import annotated_types as at
import torch
from torch import Tensor

from rheostat.core.hyper import Count, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, square
from rheostat.transforms.norms import norm, unit_norm

Percent = Annotated[float, at.Ge(0), at.Le(100)]

_TORCH_EPS = 1e-6
"""What torch adds to a norm before it divides by it."""


def _values(u: Tensor) -> Tensor:
    """The elements that are there: all, or those a coalesced sparse tensor holds."""
    return u.values() if u.is_sparse else u


def _with_values(u: Tensor, values: Tensor) -> Tensor:
    if not u.is_sparse:
        return values
    return torch.sparse_coo_tensor(
        u.indices(), values, u.shape, is_coalesced=True, check_invariants=False
    )


def _factor(limit: float | Tensor, found: Tensor, u: Tensor) -> Tensor:
    """What brings a norm down to the limit, in the dtype of u: 0-dim tensors would promote it."""
    return (limit / (found + _TORCH_EPS)).clamp(max=1.0).to(u.dtype)


@register("transform", "clip_by_value")
def clip_by_value(clip_value: NonNegative) -> Transform:
    """Every element into [−clip_value, clip_value], as torch.nn.utils.clip_grad_value_ does.

    clip_value: largest size of an element, in units of the update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return _with_values(u, _values(u).clamp(-hyper.clip_value, hyper.clip_value))

    return Transform(update, scope="element", sparse=True)


@register("transform", "clip_by_norm")
def clip_by_norm(clip_norm: NonNegative) -> Transform:
    """Each parameter's update by itself: u ← u · min(1, clip_norm / (‖u‖₂ + 1e-6)).

    The factor of torch.nn.utils.clip_grad_norm_, called for one parameter at a time.

    clip_norm: largest norm of a parameter's update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * _factor(hyper.clip_norm, norm(_values(u)), u)

    return Transform(update, scope="whole", sparse=True)


@register("transform", "clip_by_global_norm")
def clip_by_global_norm(max_norm: NonNegative) -> Transform:
    """All updates together: u ← u · min(1, max_norm / (‖all u‖₂ + 1e-6)).

    The factor of torch.nn.utils.clip_grad_norm_, without writing to any gradient.

    Source: Pascanu et al. 2013 (arXiv:1211.5063), Algorithm 1.
    max_norm: largest norm of all updates together.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * _factor(hyper.max_norm, _global_norm(hyper), u)

    return Transform(update, scope="element", sparse=True, measure=square)


def _global_norm(hyper: Hyper) -> Tensor:
    return hyper.measured["square"].sqrt()


@register("transform", "adaptive_gradient_clip")
def adaptive_gradient_clip(clip_factor: NonNegative = 0.01, clip_eps: Positive = 1e-3) -> Transform:
    """AGC: each unit's update at most a fraction of the unit's weights.

    u_i ← u_i · min(1, clip_factor · max(‖w_i‖, clip_eps) / ‖u_i‖), where a unit i is one index of
    the first dimension (an output of a linear layer, a filter of a convolution), and vectors and
    scalars are one unit whole.

    Source: Brock et al. 2021 (arXiv:2102.06171); the paper leaves the last layer out, which a
     policy can.
    clip_factor: the largest ratio of the norm of an update to that of its weights.
    clip_eps: the least norm that a unit is credited with, so that zero weights can leave zero.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        limit = unit_norm(param).clamp(min=hyper.clip_eps) * hyper.clip_factor
        return u * (limit / unit_norm(u).clamp(min=_TORCH_EPS)).clamp(max=1.0)

    return Transform(update, scope="matrix")


@register("transform", "clip_by_percentile")
def clip_by_percentile(percentile: Percent = 10.0, window: Count = 1000) -> Transform:
    """AutoClip: clip to a percentile of the global norms seen so far.

    u ← u · min(1, limit / (‖all u‖₂ + 1e-6)), where limit is the percentile (interpolated between
    neighbours, as numpy.percentile does) of the last `window` norms, the present one included. A
    parameter's window begins at its own first gradient.

    Source: Seetharaman et al. 2020 (arXiv:2007.14469), whose history is endless.
    percentile: of the norms, in [0, 100]; 100 clips nothing.
    window: how many norms are remembered.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        history, found = state["update_norms"], _global_norm(hyper)
        # Newest first, by a shift: a position in a ring would have to be read on the host.
        history.copy_(torch.cat([found.reshape(1).to(history), history[:-1]]))
        limit = _percentile(history, hyper.percentile / 100)
        return u * _factor(limit, found, u)

    def width(param: Tensor) -> tuple[int, ...]:
        return (window,)

    # Places not yet used hold infinity, which sorts last and takes no part.
    norms = Buffer(fill=float("inf"), dtype=torch.float64, shape=width)
    return Transform(update, buffers={"update_norms": norms}, scope="tensor", measure=square)


def _percentile(history: Tensor, fraction: float | Tensor) -> Tensor:
    ordered = history.sort().values
    last = (history.isfinite().sum() - 1).clamp(min=0)
    # float32, which a whole number times a number gives, knows no neighbours in a long window.
    place = last.double() * fraction
    below = place.floor()
    low, high = ordered.take(torch.stack([below, place.ceil()]).long()).unbind()
    return low + (high - low) * (place - below)
