"""Numbers that are on an accelerator when they are taken, and on the host some steps later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor


class Numbers:
    """Some numbers, of which those on a device are on their way.

    They are copied without waiting; `read` waits for the copy alone, which after a few steps is
    over. What is on the host already is kept as it is.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self._values: list[Any] = [v if isinstance(v, Tensor) else float(v) for v in values]
        there = [value for value in values if isinstance(value, Tensor)]
        self._where = [at for at, value in enumerate(values) if isinstance(value, Tensor)]
        self._copy: Tensor | None = None
        self._copied: Any = None
        if there:
            packed = _packed(there)
            self._copy = packed.to("cpu", non_blocking=True)
            self._copied = mark(packed.device)

    def read(self) -> list[float]:
        """All of them, in order."""
        if self._copy is not None:
            if self._copied is not None:
                self._copied.synchronize()
            for at, value in zip(
                self._where, cast("list[float]", self._copy.tolist()), strict=True
            ):
                self._values[at] = value
            self._copy = None
        return self._values


def _packed(tensors: list[Tensor]) -> Tensor:
    """One vector on the first one's device, in float64 if one of them is."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    dtype = torch.float64 if wide else torch.float32
    device = tensors[0].device
    return torch.stack(
        [t.detach().reshape(()).to(device, dtype, non_blocking=True) for t in tensors]
    )


def mark(device: torch.device) -> Any:
    """An event behind what was queued on a device so far; None on the CPU."""
    if device.type == "cpu":
        return None
    event = torch.Event(device)
    event.record()
    return event
