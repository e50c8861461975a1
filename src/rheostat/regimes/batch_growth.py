"""A larger batch where the gradient's noise has grown beyond it."""

from __future__ import annotations

from statistics import median
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Grow, Now
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory


@register("controller", "batch_growth", version=1)
def batch_growth(
    batch: Count,
    above: Positive = 2.0,
    factor: Annotated[int, at.Ge(2), at.Le(16)] = 2,
    window: Count = 50,
    patience: Count = 3,
    largest: Count | None = None,
) -> Controller:
    """Multiply the batch where the gradient noise scale stays well above it.

    Where the median noise scale of `patience` windows in a row is more than `above` times the
    present batch: batch × factor, up to `largest`. Below the noise scale a batch k times as large
    takes nearly k times fewer updates; above it, it only takes more data.

    Stability: the batch only grows, and only towards the noise scale: it is never larger than
     factor / above times what was measured. Medians of windows hear no single estimate.
    Worst: a noise scale that was measured too high for patience · window steps makes the batch
     `factor` times as large for the rest of the run: more data for the same progress.
    Source: McCandlish et al. 2018 (arXiv:1812.06162); growing it in place of lowering the learning
     rate: Smith et al. 2018 (arXiv:1711.00489).
    batch: samples of an update, as the run begins. Usual [1, 100000] samples: what the loop has.
    above: noise scale over batch, for it to grow. Usual [1, 8]: more grows later.
    factor: by which it grows. Usual [2, 4]: more needs fewer changes.
    window: measurements in a median. Usual [20, 500] measurements: more is surer.
    patience: windows in a row. Usual [2, 10] windows: more is surer.
    largest: samples, at most. Usual None: what memory and time allow.
    """

    def decide(now: Now, memory: Memory) -> Grow | None:
        scales: list[float] = memory["scales"]
        scales.append(now["gradient_noise_scale"])
        if len(scales) < window:
            return None
        scale, present = median(scales), batch * now.factors.get("batch", 1.0)
        memory["scales"] = []
        fits = largest is None or present * factor <= largest
        memory["high"] = memory["high"] + 1 if scale > above * present and fits else 0
        if memory["high"] < patience:
            return None
        memory["high"] = 0
        said = f"the noise scale is {scale:.4g} samples, the batch {present:.4g}"
        return Grow(factor=float(factor), reason=said, evidence={"scale": scale, "batch": present})

    return Controller(decide, ("gradient_noise_scale",), memory={"scales": [], "high": 0})
