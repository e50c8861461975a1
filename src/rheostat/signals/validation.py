"""The validation metric that the loop reports: how long since the best, how much better, how far
from training."""

from __future__ import annotations

import math
from typing import Literal

from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.averages import ratio

REPORTED = ("validation",)
COST = "arithmetic on what the loop reports"
Mode = Literal["min", "max"]


def _better(value: float, best: float, threshold: float, mode: Mode) -> bool:
    by = best - value if mode == "min" else value - best
    return by > threshold * abs(best)


@register("signal", "validation_plateau", version=1)
def validation_plateau(threshold: NonNegative = 1e-3, mode: Mode = "min") -> Signal:
    """Updates since the validation metric was last better than ever before.

    The loop reports it as "validation". Better is by more than `threshold` times the best so far.
    A metric that is not finite is never better. Unit: updates.
    threshold: relative improvement that counts.
    mode: "min" where lower is better, else "max".
    """

    def measure(reading: Reading, memory: Memory) -> float:
        value, best = reading.reported["validation"], memory["best"]
        if math.isfinite(value) and (best is None or _better(value, best, threshold, mode)):
            memory["best"], memory["step"] = value, reading.step
        return math.nan if memory["best"] is None else float(reading.step - memory["step"])

    start = {"best": None, "step": 0}
    return Signal(measure, unit="updates", cost=COST, reported=REPORTED, memory=start)


@register("signal", "validation_improvement", version=1)
def validation_improvement(mode: Mode = "min") -> Signal:
    """By what part the validation metric is better than the best before it; negative where worse.

    (best − value) / |best|, with "max" the other way round. NaN the first time, and for a metric
    that is not finite. Unit: 1.
    mode: "min" where lower is better, else "max".
    """

    def measure(reading: Reading, memory: Memory) -> float:
        value, best = reading.reported["validation"], memory["best"]
        if not math.isfinite(value):
            return math.nan
        if best is None:
            memory["best"] = value
            return math.nan
        memory["best"] = min(best, value) if mode == "min" else max(best, value)
        return ratio(best - value if mode == "min" else value - best, abs(best))

    return Signal(measure, unit="1", cost=COST, reported=REPORTED, memory={"best": None})


@register("signal", "train_validation_gap", version=1)
def train_validation_gap() -> Signal:
    """The validation loss less the training loss, averaged slowly: what does not carry over.

    validation − loss_slow, where the loop reports a validation loss. Unit: of the loss.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return reading.reported["validation"] - reading.signals["loss_slow"]

    return Signal(measure, unit="loss", cost=COST, needs=("loss_slow",), reported=REPORTED)
