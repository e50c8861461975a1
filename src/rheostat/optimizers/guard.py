"""The look at the gradients before a step: their global norm, and whether all are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from rheostat.core.errors import RheostatError
from rheostat.core.sharded import any_sharded, local, summed
from rheostat.signals.norms import peaks, squares

NonFinite = Literal["skip", "raise", "propagate"]


_SQUARE = torch.finfo(torch.float32).max
"""The largest sum of squares that rules can work with: they are computed in float32, float64
gradients apart."""
_LARGEST = math.sqrt(_SQUARE)


class Bad(NamedTuple):
    """The parameters for whose gradients a step must be skipped: those that are not finite, and
    those whose squares are not."""

    lost: list[str]
    large: list[str]


class Look(NamedTuple):
    """What a look at the gradients found.

    `norm` is their global norm, `squares` the sum of squares of each, in one vector; both None
    where nothing looked. `reason` says why the step must be skipped (None: it need not be).

    On an accelerator `ok` says there, with a bool, whether it need not be, `parts` which gradients
    rules can work with; the norm is the root of the sum of `squares`, and `limit` what it was held
    against.
    """

    norm: float | None = None
    squares: Tensor | None = None
    reason: str | None = None
    ok: Tensor | None = None
    parts: Tensor | None = None
    limit: float | None = None


def inspect_gradients(
    names: Iterable[str],
    gradients: Sequence[Tensor],
    policy: NonFinite,
    limit: float | None = None,
) -> Look:
    """Look at the gradients of the named parameters; "propagate" looks at nothing but a `limit` of
    their global norm, above which the update is skipped.

    A gradient whose squares overflow float32 is like one that is not finite: second moments would
    be infinite, and stay so.

    Raises RheostatError for such a gradient under "raise", with the parameter's name.
    """
    if (policy == "propagate" and limit is None) or not gradients:
        return Look()
    values = [grad._values() if grad.is_sparse else grad for grad in gradients]
    found = squares(values)
    norm = math.sqrt(found.sum().item())
    if not math.isfinite(norm):
        # Large finite gradients overflow in their own precision: a second look, which is rare.
        found = squares(values, wide=True)
        norm = math.sqrt(found.sum().item())
    # A NaN lies under no limit; whoever looks for it names it below.
    if limit is not None and (norm > limit or (policy == "propagate" and math.isnan(norm))):
        return Look(norm, None, reason_for(Bad([], []), norm, limit))
    if policy == "propagate" or norm <= _LARGEST:
        return Look(norm, found)
    bad = _bad(names, values, found)
    if not any(bad):
        return Look(norm, found)
    reason = reason_for(bad, norm, limit)
    if policy == "raise":
        lost = f"the gradient of {bad.lost[0]} is not finite" if bad.lost else reason
        raise RheostatError(f"{lost}; nothing was updated")
    return Look(norm, None, reason)


class LeftOut(Exception):  # noqa: N818  (no error: the step goes on without an update)
    """An update turns out, in the middle of it, to be none; the text says why."""


def check_elsewhere(
    piece: str, names: Iterable[str], found: Sequence[Tensor], policy: NonFinite
) -> None:
    """Look at what a piece found where it evaluated the loss again, as at gradients that come.

    Raises LeftOut where the update must be skipped, and RheostatError under "raise".
    """
    if policy == "propagate":
        return
    if reason := inspect_gradients(names, found, "skip").reason:
        where = f"{reason}, where {piece} evaluated the loss again"
        raise (
            RheostatError(f"{where}; nothing was updated") if policy == "raise" else LeftOut(where)
        )


def look_on_device(gradients: Sequence[Tensor], limit: Tensor | None = None) -> Look:
    """Look at the gradients without waiting for what is seen.

    The norms are summed in float64, in which float32 gradients cannot overflow.
    """
    values = [grad._values() if grad.is_sparse else grad for grad in gradients]
    found = squares(values, wide=True)
    parts = _fine(values, found) if any(map(_is_wide, values)) else found <= _SQUARE
    ok = parts.all() if limit is None else parts.all() & (found.sum().sqrt() <= limit)
    return Look(squares=found, ok=ok, parts=parts)


def told_apart(names: Sequence[str], fine: Sequence[bool], found: Sequence[float]) -> Bad:
    """The parameters whose gradients are not fine, by their sums of squares."""
    bad = [
        (name, square) for name, square, well in zip(names, found, fine, strict=True) if not well
    ]
    lost = [name for name, square in bad if not math.isfinite(square)]
    return Bad(lost, [name for name, square in bad if math.isfinite(square)])


def reason_for(bad: Bad, norm: float, limit: float | None) -> str:
    """Why a step was skipped; no bad gradients for a global norm above the limit."""
    if bad.lost:
        return f"non-finite gradient in {_listed(bad.lost)}"
    if limit == 0:
        return "updates are left out for now"
    if not bad.large or (limit is not None and norm > limit):
        return f"the gradient's norm, {norm:.4g}, is above the limit"
    where = _listed(bad.large)
    return f"the gradient's norm, {norm:.4g}, is beyond what float32 can square, in {where}"


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _is_wide(values: Tensor) -> bool:
    return values.dtype in (torch.float64, torch.complex128)


def _fine(values: Sequence[Tensor], found: Tensor) -> Tensor:
    """Which gradients rules can work with: of float64 ones, whose squares may overflow, all that
    are finite."""
    finite = peaks(values).isfinite()
    kinds = zip(values, finite.unbind(), found.unbind(), strict=True)
    return torch.stack([f if _is_wide(v) else s <= _SQUARE for v, f, s in kinds])


def _bad(names: Iterable[str], values: Sequence[Tensor], found: Tensor) -> Bad:
    finite = _are_finite(values)
    sums = cast("list[float]", found.tolist())
    fine = [
        ok and (_is_wide(value) or square <= _SQUARE)
        for value, ok, square in zip(values, finite, sums, strict=True)
    ]
    return told_apart([*names], fine, sums)


def _are_finite(values: Sequence[Tensor]) -> list[bool]:
    """Whether all elements of each tensor are finite; the same answer in every process that holds
    parts of them."""
    if not any_sharded(values):
        return [bool(value.isfinite().all()) for value in values]
    faults = torch.stack([(~local(value).isfinite()).sum().double() for value in values])
    return [bool(none) for none in summed(faults, values) == 0]
