"""A shift in the data: larger steps for a while, another weight decay, and an anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Anchor, Controller, Decision, Now, Scale
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory
from rheostat.regimes.grants import stepwise

_PROBABILITY = "kolmogorov_smirnov"
"""The signal that is small where something has shifted."""
_RARE = 1e-4
"""By which something has, where the threshold is no probability."""
_PAUSE = 25
"""Steps from one step towards the answer to the next: more than the arbiter's cooldown."""
_SAME = 0.02
"""Octaves that are no step."""


@register("controller", "shift_responder", version=1)
def shift_responder(
    watch: str = "page_hinkley",
    threshold: Positive = 20.0,
    explore: Annotated[float, at.Ge(1), at.Le(8)] = 1.5,
    decay: Annotated[float, at.Gt(0), at.Le(8)] = 1.5,
    pull: Annotated[float, at.Ge(1), at.Le(64)] = 1.0,
    hold: Count = 200,
    rest: Count = 500,
) -> Controller:
    """Answer a shift of inputs, loss or gradients, for `hold` steps, then take the answer back.

    Where the signal passes the threshold: the present weights become the anchor, lr × explore,
    weight_decay × decay, and the strength of the pull towards the anchor × pull, each where the
    optimizer has it, by 1.8 at most every 25 steps. After `hold` steps its parts are taken back, in
    the same way. Another shift while they stand
    begins the time anew, and adds nothing. For `rest` steps after, it does not listen.

    Stability: one answer at a time, of a fixed size, that ends by itself; nothing it sees makes it
     larger. The signal has to fall below the threshold before it counts again.
    Worst: a false alarm costs `hold` steps with lr · explore, at most every hold + rest steps, and
     moves the anchor, so that what was learnt before the last one is no longer held.
    Source: this project; the anchor: Kirkpatrick et al. 2017 (arXiv:1612.00796), Li et al. 2018
     (arXiv:1802.01483).
    watch: the signal. Usual page_hinkley: any that rises where the data changes, or
     kolmogorov_smirnov, which falls.
    threshold: of the signal; of kolmogorov_smirnov 1e-4 unless it is below 1. Usual [1, 100]: more
     is surer and later; its card says what is much.
    explore: factor on lr. Usual [1, 3]: more forgets the old data sooner.
    decay: factor on weight_decay. Usual [0.5, 3]: more gives up old weights sooner.
    pull: factor on the pull's strength. Usual [1, 10]: more keeps the old ones.
    hold: steps that the answer stands. Usual [50, 2000] steps: what learning the new data takes.
    rest: steps after it in which it does not listen. Usual [100, 5000] steps: more bounds false
     alarms.
    """

    factors = {"lr": explore, "weight_decay": decay, "pull": pull}
    falls = watch.startswith(_PROBABILITY)
    mark = _RARE if falls and threshold >= 1 else threshold

    def decide(now: Now, memory: Memory) -> Sequence[Decision]:
        value = now[watch]
        shifted = value < mark if falls else value > mark
        new, memory["above"] = shifted and not memory["above"], shifted
        memory["left"] -= 1
        memory["pause"] -= 1
        answered = any(now.share(name) != 1 for name in factors)
        found: list[Decision] = []
        if new and (answered or memory["left"] <= 0):
            said = f"{watch} is {value:.4g}, {'below' if falls else 'above'} {mark:g}"
            memory.update(left=hold + rest, pause=0, said=said, value=value)
            if not answered:
                found.append(Anchor(reason=said, evidence={watch: value}))
        if memory["left"] == rest:
            memory.update(pause=0, said=f"{hold} steps since the shift")
        if memory["pause"] <= 0:
            steps = _steps(now, memory)
            memory["pause"] = _PAUSE if steps else 0
            found += steps
        return found

    def _steps(now: Now, memory: Memory) -> list[Decision]:
        """Towards the answer while it stands, and back."""
        stands = memory["left"] > rest
        evidence = {watch: memory["value"]} if stands else {}
        ways = {
            name: (factor if stands else 1.0) / now.share(name)
            for name, factor in factors.items()
            if now.planned.get(name, 0.0) > 0
        }
        return [
            Scale(hyperparameter=n, factor=stepwise(way), reason=memory["said"], evidence=evidence)
            for n, way in ways.items()
            if abs(math.log2(way)) > _SAME
        ]

    start: Memory = {"above": False, "left": 0, "pause": 0, "said": "", "value": 0.0}
    return Controller(decide, (watch,), tuple(factors), start, priority=50)
