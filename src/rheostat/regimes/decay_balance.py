"""Weight decay in balance with the learning rate, or with how far weights move."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import annotated_types as at

from rheostat.core.controller import Controller, Now, Scale
from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory
from rheostat.regimes.grants import stepwise


@register("controller", "decay_balance", version=1)
def decay_balance(
    by: Literal["timescale", "ratio"] = "timescale",
    target: Positive = 30.0,
    updates_per_epoch: Count | None = None,
    every: Count = 50,
    band: Positive = 0.25,
    most: Annotated[float, at.Gt(1)] = 8.0,
) -> Controller:
    """Keep the timescale of the weights' average, or the ratio of update to weights.

    "timescale": AdamW's weights are a running average of updates over 1 / (lr · weight_decay)
    updates; the decay is set so that this is `target` epochs, whatever the schedule and other
    controllers make of lr. "ratio": where a normalisation follows, weights grow until ‖u‖ / ‖w‖
    is about √(2 lr · weight_decay); the decay is multiplied by target / ratio, so that the median
    ratio comes to `target`. Acts where that is off by more than `band`, by 1.8 at most at a time.

    Stability: the timescale is computed, not fed back. The ratio answers as the square root of the
     decay, so a correction by the whole quotient goes half the way, in the quotient's logarithm:
     no overshoot, where `every` gives the weights time; the band keeps it still at the target.
    Worst: decay at `most` times the plan or 1/most of it. Where no normalisation follows, the ratio
     need not come to the target at all, and the decay stays at that bound.
    Source: timescale: Wang & Aitchison 2024 (arXiv:2405.13698); ratio: Kosson et al. 2024
     (arXiv:2305.17212).
    by: what is kept. Usual timescale: ratio asks for the signal update_ratio.
    target: epochs, or ‖u‖ / ‖w‖. Usual [1e-4, 300]: some 10 to 100 epochs; a ratio near 1e-3.
    updates_per_epoch: of the data, for the timescale. Usual None: the ratio needs none.
    every: steps from one look to the next. Usual [20, 1000] steps: the ratio wants about a tenth of
     the timescale.
    band: octaves off the target that do not matter. Usual [0.1, 1] octaves: less acts more often.
    most: bound of its part, up and down. Usual [2, 64]: more follows lr further.
    """
    if by == "timescale" and updates_per_epoch is None:
        raise InputError("decay_balance: by='timescale' needs updates_per_epoch")

    def decide(now: Now, memory: Memory) -> Scale | None:
        if by == "ratio" and math.isfinite(now["update_ratio"]):
            memory["ratios"] = [*memory["ratios"][-(every - 1) :], now["update_ratio"]]
        memory["count"] += 1
        if memory["count"] < every:
            return None
        memory["count"] = 0
        if not now.planned.get("weight_decay", 0.0) > 0:
            return None
        quotient, numbers = _by_timescale(now) if by == "timescale" else _by_ratio(memory)
        share = now.share("weight_decay")
        wanted = min(max(share * stepwise(quotient), 1 / most), most)
        if not math.isfinite(quotient) or abs(math.log2(wanted / share)) <= band:
            return None
        said = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        return Scale(
            hyperparameter="weight_decay",
            factor=wanted / share,
            reason=f"off the target {target:g}: {said}",
            evidence=numbers,
        )

    def _by_timescale(now: Now) -> tuple[float, dict[str, float]]:
        rates = {
            name: now.planned.get(name, 0.0) * now.factors.get(name, 1.0)
            for name in ("lr", "weight_decay")
        }
        product = rates["lr"] * rates["weight_decay"]
        if product <= 0:
            return math.nan, {}
        assert updates_per_epoch is not None
        epochs = 1 / (product * updates_per_epoch)
        return epochs / target, {"epochs": epochs}

    def _by_ratio(memory: Memory) -> tuple[float, dict[str, float]]:
        ratios = sorted(memory["ratios"])
        middle = ratios[len(ratios) // 2] if ratios else 0.0
        return (target / middle if middle > 0 else math.nan), {"ratio": middle}

    needs = ("update_ratio",) if by == "ratio" else ()
    memory: Memory = {"count": 0, "ratios": []}
    return Controller(decide, needs, ("weight_decay",), memory)
