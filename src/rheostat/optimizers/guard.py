"""The look at the gradients before a step: their global norm, and whether all are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rheostat.core.errors import RheostatError
from rheostat.core.sharded import any_sharded, local, summed
from rheostat.signals.norms import peaks, squares

NonFinite = Literal["skip", "raise", "propagate"]


class Look(NamedTuple):
    """What a look at the gradients found.

    `norm` is their global norm, `squares` the sum of squares of each, in one vector; both None
    where nothing looked. `reason` says why the step must be skipped (None: it need not be).

    On an accelerator `ok` says there, with a bool, whether it need not be, `parts` which gradients
    are finite; the norm is the root of the sum of `squares`, and `limit` what it was held against.
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

    Raises RheostatError for a non-finite gradient under "raise", with the parameter's name.
    """
    if (policy == "propagate" and limit is None) or not gradients:
        return Look()
    values = [grad._values() if grad.is_sparse else grad for grad in gradients]
    found = squares(values)
    norm = math.sqrt(found.sum().item())
    # A NaN lies under no limit; whoever looks for it names it below.
    if limit is not None and (norm > limit or (policy == "propagate" and math.isnan(norm))):
        return Look(norm, None, reason_for([], norm, limit))
    if math.isfinite(norm) or policy == "propagate":
        return Look(norm, found)
    # Large finite gradients overflow the norm too: only the elements themselves decide.
    bad = [n for n, finite in zip(names, _are_finite(values), strict=True) if not finite]
    if not bad:
        return Look(norm, found)
    if policy == "raise":
        raise RheostatError(f"the gradient of {bad[0]} is not finite; nothing was updated")
    return Look(norm, None, reason_for(bad, norm, limit))


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
    values = [_real(grad._values() if grad.is_sparse else grad) for grad in gradients]
    found = squares(values, wide=True)
    wide = any(value.dtype == torch.float64 for value in values)
    parts = (peaks(values) if wide else found).isfinite()
    ok = parts.all() if limit is None else parts.all() & (found.sum().sqrt() <= limit)
    return Look(squares=found, ok=ok, parts=parts)


def reason_for(bad: Sequence[str], norm: float, limit: float | None) -> str:
    """Why a step was skipped, from the names of the parameters with a non-finite gradient; none
    for a global norm above the limit."""
    if not bad and limit == 0:
        return "updates are left out for now"
    if not bad:
        return f"the gradient's norm, {norm:.4g}, is above the limit"
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"non-finite gradient in {bad[0]}{more}"


def _real(values: Tensor) -> Tensor:
    return torch.view_as_real(values) if values.is_complex() else values


def _are_finite(values: Sequence[Tensor]) -> list[bool]:
    """Whether all elements of each tensor are finite; the same answer in every process that holds
    parts of them."""
    if not any_sharded(values):
        return [bool(value.isfinite().all()) for value in values]
    faults = torch.stack([(~local(value).isfinite()).sum().double() for value in values])
    return [bool(none) for none in summed(faults, values) == 0]
