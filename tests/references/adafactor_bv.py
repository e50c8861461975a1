"""big_vision's Adafactor from its formula, in float64 but for the momentum."""

from __future__ import annotations

import numpy as np
import torch
from tests.references.descent import Array, Gradient


def adafactor_bv(
    start: Array,
    gradient: Gradient,
    steps: int,
    *,
    lr: float,
    min_dim_size_to_factor: int = 32,
    decay_rate: float = 0.8,
    decay_offset: int = 0,
    beta2_cap: float = 0.999,
    momentum: float = 0.9,
    half: bool = True,
    eps: float = 1e-30,
    weight_decay: float = 0.0,
    clipping_threshold: float | None = None,
    unscaled_wd: bool = False,
) -> Array:
    """The second moment is written out whole: outer product of row and column means over the mean.

    Of a tensor, the longest two dimensions are factored, of equally long ones the last two.
    """
    w, m = start.copy(), np.zeros_like(start)
    longest = sorted(range(w.ndim), key=lambda i: (w.shape[i], i))[-2:]
    factored = w.ndim > 1 and min(w.shape[i] for i in longest) >= min_dim_size_to_factor
    rows = columns = full = 0.0
    for t in range(1, steps + 1):
        g = gradient(t, w)
        beta = min(beta2_cap, 1 - max(t - decay_offset, 1) ** -decay_rate)
        square = g**2 + eps
        if factored:
            rows = beta * rows + (1 - beta) * square.mean(longest[1], keepdims=True)
            columns = beta * columns + (1 - beta) * square.mean(longest[0], keepdims=True)
            v = rows * columns / rows.mean(longest[0], keepdims=True)
        else:
            full = v = beta * full + (1 - beta) * square
        u = g / np.sqrt(v)
        if clipping_threshold is not None:
            u = u / max(1.0, np.sqrt((u**2).mean()) / clipping_threshold)
        if momentum:
            # In bfloat16 the running mean is rounded as torch rounds a lerp.
            if half:
                mean = torch.tensor(m).bfloat16()
                m = mean.lerp_(torch.tensor(u).bfloat16(), 1 - momentum).double().numpy()
            else:
                m = momentum * m + (1 - momentum) * u
            u = m
        w = w - lr * u - (weight_decay if unscaled_wd else lr * weight_decay) * w
    return w
