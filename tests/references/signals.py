"""Signals by their definitions: from a whole history, in float64, each time from the beginning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]
MOMENTS = {"exp_avg": "m", "momentum_buffer": "m", "exp_avg_sq": "v", "square_avg": "v"}


@dataclass
class Step:
    """One update, every vector flat, in float64."""

    loss: float
    g: Array
    w: Array
    u: Array
    m: Array | None
    v: Array | None


def flat(tensors: Sequence[torch.Tensor]) -> Array:
    """All elements, in order."""
    return np.concatenate([t.detach().double().reshape(-1).numpy() for t in tensors] or [[]])


def look(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], loss: float) -> Step:
    """What is there before an update."""
    moments: dict[str, Array | None] = {"m": None, "v": None}
    for key, name in MOMENTS.items():
        if any(key in optimizer.state.get(param, {}) for param in params):
            # A parameter that never had a gradient has no state in torch's optimizers.
            none = torch.zeros_like
            moments[name] = flat([optimizer.state.get(p, {}).get(key, none(p)) for p in params])
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    w = flat(params)
    return Step(loss, flat(grads), w, np.zeros_like(w), **moments)


def cosine(a: Array, b: Array) -> float:
    """Between two vectors."""
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else math.nan


def weighted(values: Sequence[float], span: float) -> tuple[float, float]:
    """Mean and variance, weights falling by e in `span`."""
    x = np.array(values)
    weights = np.exp(-np.arange(len(x))[::-1] / span)
    mean = float(weights @ x / weights.sum())
    return mean, float(weights @ (x - mean) ** 2 / weights.sum())


def slope(losses: Sequence[float], fast: float, slow: float) -> float:
    """The difference of averages over the difference of the mean ages of what is in them."""
    if len(losses) < 2:
        return math.nan
    ages = np.arange(len(losses))[::-1]
    a, b = (np.exp(-ages / span) / np.exp(-ages / span).sum() for span in (fast, slow))
    return float((a - b) @ np.array(losses) / ((b - a) @ ages))


def significance(losses: Sequence[float], window: int) -> float:
    """The t of the line through the means of the last 20 full blocks."""
    length = window // 20
    full = len(losses) // length
    means = np.array(losses[: full * length]).reshape(full, length).mean(1)[-20:]
    n = len(means)
    if n < 10:
        return math.nan
    places = np.arange(n) - (n - 1) / 2
    rate = float(places @ means / (places @ places))
    rests = means - means.mean() - rate * places
    return rate / math.sqrt(float(rests @ rests) / (n - 2) / float(places @ places))


def spike(norms: Sequence[float], window: int, least: int, floor: float) -> float:
    """A robust z score of the last norm among those before it."""
    logs = np.log(norms)
    before = logs[:-1][-window:]
    if len(before) < least:
        return math.nan
    middle = np.median(before)
    mad = max(float(np.median(np.abs(before - middle))), floor)
    return float((logs[-1] - middle) / (1.4826 * mad))


def _norms(steps: Sequence[Step]) -> list[float]:
    return [float(np.linalg.norm(step.g)) for step in steps]


def _losses(steps: Sequence[Step]) -> list[float]:
    return [step.loss for step in steps]


def _curvature(steps: Sequence[Step]) -> float:
    if len(steps) < 2:
        return math.nan
    last, now = steps[-2], steps[-1]
    return float((last.g - now.g) @ last.u / (last.u @ last.u))


def _spread(v: Array | None) -> float:
    return math.nan if v is None or not v.any() else float(v.std() / v.mean())


DEFINITIONS: dict[str, Callable[[Sequence[Step]], float]] = {
    "loss_fast": lambda s: weighted(_losses(s), 20)[0],
    "loss_slow": lambda s: weighted(_losses(s), 200)[0],
    "loss_slope": lambda s: slope(_losses(s), 20, 200),
    "loss_significance": lambda s: significance(_losses(s), 200),
    "gradient_norm": lambda s: _norms(s)[-1],
    "gradient_variance": lambda s: weighted(_norms(s), 100)[1],
    "gradient_spike": lambda s: spike(_norms(s), 100, 20, 0.01),
    "gradient_cosine": lambda s: cosine(s[-1].g, s[-2].g) if len(s) > 1 else math.nan,
    "gradient_sparsity": lambda s: float((s[-1].g == 0).mean()),
    "weight_norm": lambda s: float(np.linalg.norm(s[-1].w)),
    "update_norm": lambda s: float(np.linalg.norm(s[-1].u)),
    "update_ratio": lambda s: float(np.linalg.norm(s[-1].u) / np.linalg.norm(s[-1].w)),
    "momentum_cosine": lambda s: math.nan if s[-1].m is None else cosine(s[-1].g, s[-1].m),
    "second_moment_mean": lambda s: math.nan if s[-1].v is None else float(s[-1].v.mean()),
    "second_moment_spread": lambda s: _spread(s[-1].v),
    "second_moment_idle": lambda s: (
        math.nan if s[-1].v is None else float((s[-1].v <= 1e-16).mean())
    ),
    "curvature": _curvature,
    "skip_rate": lambda s: 0.0,
}
"""Signal -> its value after the last of these steps."""
