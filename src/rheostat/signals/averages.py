"""Exponentially weighted averages without a bias at the start.

Weights fall by a factor `keep` from one value to the next, and are divided by their sum W:
W ← keep · W + 1,  mean ← mean + (x − mean) / W, and likewise the variance (Finch 2009, "Incremental
calculation of weighted mean and variance").
"""

from __future__ import annotations

import math

from rheostat.core.signal import Memory


def empty() -> dict[str, float]:
    """What an average starts from."""
    return {"weight": 0.0, "mean": 0.0, "variance": 0.0}


def keep(span: float, every: int = 1) -> float:
    """The factor by which weights fall from one measurement to the next: by e in `span` updates."""
    return math.exp(-every / span)


def follow(memory: Memory, value: float, factor: float) -> float:
    """Take a value in, and return the mean."""
    weight = memory["weight"] = factor * memory["weight"] + 1.0
    share = 1.0 / weight
    off = value - memory["mean"]
    memory["mean"] += share * off
    memory["variance"] = (1.0 - share) * (memory["variance"] + share * off * off)
    return memory["mean"]


def ratio(part: float, whole: float) -> float:
    """part / whole; NaN where there is no whole."""
    return part / whole if whole else math.nan


def cosine(product: float, squares: float, others: float) -> float:
    """a·b / (‖a‖ ‖b‖) from a·b, a·a and b·b, within ±1; NaN where one is zero or not known."""
    lengths = math.sqrt(squares) * math.sqrt(others) if squares >= 0 and others >= 0 else math.nan
    found = ratio(product, lengths)
    return found if math.isnan(found) else max(-1.0, min(1.0, found))
