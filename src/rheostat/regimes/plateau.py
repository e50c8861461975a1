"""A plateau of the loss: smaller steps, and larger ones again."""

from __future__ import annotations

import math
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Now, Scale
from rheostat.core.hyper import Count, NonNegative
from rheostat.core.registry import register
from rheostat.core.signal import Memory
from rheostat.regimes.robust import Level

Window = Annotated[int, at.Ge(16), at.Le(10_000)]
Factor = Annotated[float, at.Gt(0), at.Lt(1)]


@register("controller", "plateau", version=1)
def plateau(
    factor: Factor = 0.5,
    window: Window = 100,
    patience: Count = 10,
    resume: Count = 4,
    z: NonNegative = 2.0,
    watch: str = "loss",
) -> Controller:
    """Lower the learning rate where the loss has stopped falling; take that back where it falls
    again, or where it did not help.

    The loss of each window is the median of its blocks, with a standard error. A window is better
    where it lies z errors below the reference, which is then replaced by it; worse where it lies z
    errors above, and replaces it too: a plateau is judged from where training is, never from the
    best ever. `patience` windows in a row that are neither: lr × factor. As many more without a
    better one: that lowering is taken back, and patience doubles. `resume` better windows in a row:
    one lowering is taken back.

    Stability: a lowering needs patience · window losses that are level within their own noise;
     a spike moves one block of eight and so neither reference nor verdict, and progress however
     slow adds up against a reference that stays. Only its own lowerings are ever raised again, so
     its part is at most 1, and every one in vain doubles the next wait.
    Worst: on a loss that is level for good, one lowering tried and taken back per doubling of
     patience: log₂(steps / (patience · window)) in all. Progress that the noise hides for patience
     windows is taken for a plateau.
    Source: this project; torch's ReduceLROnPlateau is the rule that it mends.
    factor: on the learning rate, at each plateau. Usual [0.1, 0.7]: smaller reaches the end sooner,
     and costs more where it was wrong.
    window: losses that are compared at a time. Usual [50, 1000] updates: longer sees less through
     more noise.
    patience: windows that are no better before it acts. Usual [4, 20] windows: more
     is surer, and later.
    resume: better windows in a row before a lowering is taken back. Usual [2, 20] windows: more
     keeps a lowering that helped for longer.
    z: what is better or worse, in standard errors. Usual [1.5, 4]: more asks for clearer progress.
    watch: "loss", or a signal that is lower where things are better. Usual loss: a signal of your
     own for a reported validation loss is nearer to the aim, and rarer.
    """

    def decide(now: Now, memory: Memory) -> Scale | None:
        value = now.loss if watch == "loss" else now[watch]
        if not now.applied or not math.isfinite(value):
            return None
        losses: list[float] = memory["losses"]
        losses.append(value)
        if len(losses) < window:
            return None
        level = Level.of(losses)
        memory["losses"] = []
        verdict = _compared(level, memory, z)
        return _answer(verdict, level, now, memory)

    def _answer(verdict: str, level: Level, now: Now, memory: Memory) -> Scale | None:
        share = now.share("lr")
        numbers = {"median": level.value, "error": level.error, "share": share}
        if verdict != "level":
            memory["level"] = 0
            memory["better"] = memory["better"] + 1 if verdict == "better" else 0
            memory["in_vain"] = False
            if verdict == "better":
                memory["wait"] = patience
            if memory["better"] >= resume and share < 1:
                memory["better"] = 0
                return _raised(share, f"{resume} windows in a row are better", numbers)
            return None
        memory["better"] = 0
        memory["level"] += 1
        if memory["level"] < memory["wait"]:
            return None
        memory["level"] = 0
        waited = memory["wait"] * window
        if memory["in_vain"] and share < 1:
            memory["in_vain"] = False
            memory["wait"] *= 2
            return _raised(share, f"no better {waited} updates after it was lowered", numbers)
        memory["in_vain"] = True
        reason = f"no better for {waited} updates"
        return Scale(hyperparameter="lr", factor=factor, reason=reason, evidence=numbers)

    def _raised(share: float, reason: str, numbers: dict[str, float]) -> Scale:
        up = min(1 / factor, 1 / share)
        return Scale(hyperparameter="lr", factor=up, reason=reason, evidence=numbers)

    start: Memory = {"losses": [], "reference": None, "level": 0, "better": 0}
    start.update(wait=patience, in_vain=False)
    needs = () if watch == "loss" else (watch,)
    return Controller(decide, needs, acts_on=("lr",), memory=start)


def _compared(level: Level, memory: Memory, z: float) -> str:
    """How a window compares with the reference, which it replaces unless it is level with it."""
    known = memory["reference"]
    above = math.inf if known is None else level.above(Level(*known))
    if abs(above) <= z:
        return "level"
    memory["reference"] = [level.value, level.error]
    return "better" if above < 0 else "worse"
