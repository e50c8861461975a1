"""Spikes of the gradient or the loss: skip, clip, smaller steps, back to a good state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Decision, Limit, Now, RollBack, Scale
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory
from rheostat.regimes.robust import spread

Factor = Annotated[float, at.Gt(0), at.Lt(1)]

_WINDOW = 64
_LEAST = 32
"""Calm steps that a spike is compared with, at most and at least. So many spikes in a row are none:
the level has changed."""
_RECENT = 5
"""Losses whose median is compared: one batch may be hard."""
_FLOOR = 0.01
"""Of the losses' spread, as a part of their median: a loss without noise may move a little."""
_LEARN = 8
"""Calm steps after which thresholds are found anew: medians are dear, and move slowly."""
_LARGEST = 700.0
"""Of a logarithm, whose number a float still holds."""
_LOWERINGS = 3
_JUMP = 1.5


@register("controller", "spike_guard", version=1)
def spike_guard(
    z: Positive = 8.0,
    ratio: Annotated[float, at.Gt(1)] = 2.0,
    spacing: Count = 5,
    calm: Count = 100,
    factor: Factor = 0.5,
) -> Controller:
    """Answer spikes by ever stronger means, and take them back when all is calm.

    A spike is a gradient norm with (log‖g‖ − median) / spread above z, and `ratio` times the median
    too; or a median of five losses that far above those before. Spread is 1.4826 times the median
    absolute deviation over the last 64 calm steps. A spike, if `spacing` steps have passed since
    the last answer, takes the next measure: skip updates with such a norm; clip them in place of
    that, max_norm × factor, where the optimizer has one; lr × factor, up to three times; back to a
    good state. `calm` steps without a spike take the last measure back.

    Stability: measures come one at a time, `spacing` apart, and go one for each `calm` steps, more
     slowly than they came; so it cannot oscillate faster than that. It takes back its own part
     alone. Spikes do not enter what they are compared with.
    Worst: 32 spikes in a row are taken for a new level and learnt anew; until then updates are
     skipped or clipped that meant something, and lr stands at factor³ for some `calm` steps.
    Source: this project; skipping and going back: Chowdhery et al. 2022 (arXiv:2204.02311), section
     5.1; clipping: Pascanu et al. 2013 (arXiv:1211.5063).
    z: spreads above the median. Usual [4, 12]: more lets more through.
    ratio: times the median norm that a spike is at least. Usual [1.5, 5]: more lets more through.
    spacing: steps from one answer to the next. Usual [2, 50] steps: more gives each time to work.
    calm: steps without a spike before a measure is taken back. Usual [50, 1000] steps: more is
     safer, and slow for longer.
    factor: on max_norm, and on lr. Usual [0.25, 0.7]: smaller is a stronger brake.
    """

    def decide(now: Now, memory: Memory) -> Decision | Sequence[Decision] | None:
        _begin_anew(now, memory)
        memory["since"] += 1
        memory["quiet"] += 1
        found = _spike(now, memory, z, ratio)
        if found is None:
            due = memory["quiet"] >= calm and (memory["limited"] or _braked(now))
            return _relax(now, memory) if due else None
        memory["quiet"] = 0
        if memory["since"] < spacing:
            return None
        memory["since"] = 0
        return _escalate(now, memory, *found)

    def _escalate(
        now: Now, memory: Memory, reason: str, numbers: dict[str, float]
    ) -> Decision | Sequence[Decision]:
        if not memory["limited"] and not _braked(now) and memory["bounds"]:
            memory["limited"] = True
            return Limit(
                norm=memory["bounds"][0], reason=f"{reason}: skip what is like it", evidence=numbers
            )
        if "max_norm" in now.planned and now.share("max_norm") == 1:
            memory["limited"] = False
            why = f"{reason}: clip in place of skipping"
            return (
                Limit(norm=math.inf, reason=why, evidence=numbers),
                Scale(hyperparameter="max_norm", factor=factor, reason=why, evidence=numbers),
            )
        if now.share("lr") > 1.01 * factor**_LOWERINGS:
            why = f"{reason}: smaller steps"
            return Scale(hyperparameter="lr", factor=factor, reason=why, evidence=numbers)
        memory["since"] = -9 * spacing  # time for training to find its way again
        return RollBack(reason=f"{reason}, after everything else", evidence=numbers)

    def _relax(now: Now, memory: Memory) -> Decision:
        memory["quiet"] = 0
        reason = f"{calm} steps without a spike"
        for name in ("lr", "max_norm"):
            if (share := now.share(name)) < 1:
                return Scale(hyperparameter=name, factor=min(1 / factor, 1 / share), reason=reason)
        memory["limited"] = False
        return Limit(norm=math.inf, reason=reason)

    start: Memory = {"norms": [], "losses": [], "recent": [], "odd": 0, "planned": math.inf}
    start.update(bounds=None, calm=0, limited=False, since=spacing, quiet=0, step=0)
    return Controller(decide, ("gradient_norm",), ("lr", "max_norm"), start, priority=100)


def _braked(now: Now) -> bool:
    return now.share("lr") < 1 or now.share("max_norm") < 1


def _begin_anew(now: Now, memory: Memory) -> None:
    """Forget the level where the plan raises the learning rate, as a restart is no spike, and where
    the run went back: what is high again with good weights is the data's level now."""
    planned = now.planned.get("lr", 0.0)
    went_back, memory["step"] = now.step < memory["step"], now.step
    if planned > _JUMP * memory["planned"] or memory["odd"] >= _LEAST or went_back:
        memory.update(norms=[], losses=[], recent=[], odd=0, bounds=None, calm=0)
    memory["planned"] = planned


def _spike(now: Now, memory: Memory, z: float, ratio: float) -> tuple[str, dict[str, float]] | None:
    """Why this step is a spike, with the numbers; None where it is none, and is remembered."""
    norm, loss = now["gradient_norm"], now.loss
    norms: list[float] = memory["norms"]
    losses: list[float] = memory["losses"]
    recent: list[float] = memory["recent"]
    recent.append(loss)
    del recent[:-_RECENT]
    memory["odd"] += 1
    if not (math.isfinite(norm) and math.isfinite(loss)):
        return "the loss or the gradient is not finite", {}
    if memory["bounds"]:
        limit, high = memory["bounds"]
        if norm > limit:
            return "the gradient's norm spikes", {"norm": norm, "threshold": limit}
        if (level := median(recent)) > high:
            return "the loss spikes", {"median": level, "threshold": high}
    memory["odd"] = 0
    memory["calm"] += 1
    norms.append(norm)
    losses.append(loss)
    del norms[:-_WINDOW], losses[:-_WINDOW]
    if memory["calm"] >= _LEAST and memory["calm"] % _LEARN == 0:
        memory["bounds"] = [_highest_norm(norms, z, ratio), _highest_loss(losses, z)]
    return None


def _highest_norm(norms: Sequence[float], z: float, ratio: float) -> float:
    logs = [math.log(norm) for norm in norms if norm > 0]
    if not logs:
        return math.inf
    highest = median(logs) + max(z * spread(logs), math.log(ratio))
    return math.exp(highest) if highest < _LARGEST else math.inf


def _highest_loss(losses: Sequence[float], z: float) -> float:
    middle = median(losses)
    return middle + z * max(spread(losses), _FLOOR * abs(middle))
