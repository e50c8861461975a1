"""Gradient noise: its variance from sample to sample, and the batch size at which it matters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.hyper import Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.averages import empty, follow, keep, ratio
from rheostat.signals.norms import squares

REPORTED = ("small_square", "small_size", "large_square", "large_size")
"""Mean squared norm of the gradients of small batches, their size in samples; the same of the large
batch that they make up together."""
COST = "arithmetic; the loop takes two norms"


def two_sizes(parts: Sequence[Sequence[Tensor]], size: float) -> dict[str, Tensor | float]:
    """What gradient_noise_scale and gradient_sample_variance want reported, from gradients.

    Each of `parts` is the gradient of the mean loss of a small batch of `size` samples, as a list
    of tensors, one a parameter: two halves of a batch, the micro-batches of an accumulation, or the
    shards of data-parallel workers. Costs two reads of them; nothing waits for an accelerator.

    Raises InputError for fewer than two parts.
    """
    if len(parts) < 2:
        raise InputError(f"two_sizes: got {len(parts)} part; two batches or more make a larger one")
    small = torch.stack([squares(part).sum() for part in parts]).mean()
    whole = [torch.stack(list(same)).mean(0) for same in zip(*parts, strict=True)]
    large = squares(whole).sum()
    sizes = {"small_size": float(size), "large_size": float(size * len(parts))}
    return {"small_square": small, "large_square": large, **sizes}


def _estimates(reading: Reading) -> tuple[float, float]:
    """tr Σ and ‖G‖², of one step: unbiased, and so at times negative."""
    small, b, large, n = (reading.reported[name] for name in REPORTED)
    if not (0 < b < n):
        return math.nan, math.nan
    return (small - large) / (1 / b - 1 / n), (n * large - b * small) / (n - b)


@register("signal", "gradient_sample_variance", version=1)
def gradient_sample_variance(span: Positive = 100.0) -> Signal:
    """The variance of the gradient from sample to sample, summed over all elements: tr Σ.

    (|g_b|² − |g_n|²) / (1/b − 1/n), averaged; |g_b|² is the mean squared norm of the gradients of
    batches of b samples, |g_n|² that of the n samples that they make up together. The loop reports
    the four numbers: see two_sizes. Unit: of the gradient, squared.
    Source: McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1.
    span: reports in which weights fall by e.
    """
    factor = keep(span)

    def measure(reading: Reading, memory: Memory) -> float:
        variance, _ = _estimates(reading)
        return follow(memory, variance, factor) if math.isfinite(variance) else math.nan

    return Signal(measure, unit="gradient²", cost=COST, reported=REPORTED, memory=empty())


@register("signal", "gradient_noise_scale", version=1)
def gradient_noise_scale(span: Positive = 100.0) -> Signal:
    """The simple noise scale: near this batch size the gradient's noise equals the gradient.

    B = tr Σ / ‖G‖², where tr Σ is as in gradient_sample_variance and ‖G‖² =
    (n |g_n|² − b |g_b|²) / (n − b); both are averaged before they are divided, as each alone is
    noisy. NaN while the average of ‖G‖² is not above zero. Larger batches pay off below it.
    Unit: samples.
    Source: McCandlish et al. 2018 (arXiv:1812.06162), equation 2.9 and appendix A.1.
    span: reports in which weights fall by e.
    """
    factor = keep(span)

    def measure(reading: Reading, memory: Memory) -> float:
        variance, square = _estimates(reading)
        if not (math.isfinite(variance) and math.isfinite(square)):
            return math.nan
        noise = follow(memory["variance"], variance, factor)
        signal = follow(memory["square"], square, factor)
        return ratio(noise, signal) if signal > 0 else math.nan

    start = {"variance": empty(), "square": empty()}
    return Signal(measure, unit="samples", cost=COST, reported=REPORTED, memory=start)
