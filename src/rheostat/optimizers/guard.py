"""The look at the gradients before a step: their global norm, and whether all are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from rheostat.core.errors import RheostatError
from rheostat.signals.norms import total_norm

NonFinite = Literal["skip", "raise", "propagate"]


def inspect_gradients(
    gradients: Sequence[tuple[str, Tensor]], policy: NonFinite
) -> tuple[float | None, str | None]:
    """The global norm of (name, gradient) pairs, and why the step must be skipped (None: it need
    not be). "propagate" looks at nothing.

    Raises RheostatError for a non-finite gradient under "raise", with the parameter's name.
    """
    if policy == "propagate":
        return None, None
    values = [(name, grad._values() if grad.is_sparse else grad) for name, grad in gradients]
    norm = total_norm([grad for _, grad in values])
    if math.isfinite(norm):
        return norm, None
    # Large finite gradients overflow the norm too: only the elements themselves decide.
    bad = [name for name, grad in values if not bool(grad.isfinite().all())]
    if not bad:
        return norm, None
    if policy == "raise":
        raise RheostatError(f"the gradient of {bad[0]} is not finite; nothing was updated")
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return norm, f"non-finite gradient in {bad[0]}{more}"
