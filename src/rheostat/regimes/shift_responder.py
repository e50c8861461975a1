"""A shift in the data: larger steps for a while, another weight decay, and an anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Anchor, Controller, Decision, Now, Scale
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory


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
    optimizer has it. After `hold` steps its parts are taken back. Another shift while they stand
    begins the time anew, and adds nothing. For `rest` steps after, it does not listen.

    Stability: one answer at a time, of a fixed size, that ends by itself; nothing it sees makes it
     larger. The signal has to fall below the threshold before it counts again.
    Worst: a false alarm costs `hold` steps with lr · explore, at most every hold + rest steps, and
     moves the anchor, so that what was learnt before the last one is no longer held.
    Source: this project; the anchor: Kirkpatrick et al. 2017 (arXiv:1612.00796), Li et al. 2018
     (arXiv:1802.01483).
    watch: the signal. Usual page_hinkley: any that rises where the data changes.
    threshold: of the signal. Usual [1, 100]: more is surer and later; its card says what is much.
    explore: factor on lr. Usual [1, 3]: more forgets the old data sooner.
    decay: factor on weight_decay. Usual [0.5, 3]: more gives up old weights sooner.
    pull: factor on the pull's strength. Usual [1, 10]: more keeps the old ones.
    hold: steps that the answer stands. Usual [50, 2000] steps: what learning the new data takes.
    rest: steps after it in which it does not listen. Usual [100, 5000] steps: more bounds false
     alarms.
    """

    factors = {"lr": explore, "weight_decay": decay, "pull": pull}

    def decide(now: Now, memory: Memory) -> Sequence[Decision]:
        value = now[watch]
        above, before = value > threshold, memory["above"]
        memory["above"] = above
        memory["left"] -= 1
        answered = [name for name in factors if now.share(name) != 1]
        if above and not before and memory["left"] <= 0 and not answered:
            memory["left"] = hold + rest
            said = f"{watch} is {value:.4g}, above {threshold:g}"
            wanted = [n for n, f in factors.items() if f != 1 and now.planned.get(n, 0.0) > 0]
            evidence = {watch: value}
            return [Anchor(reason=said, evidence=evidence)] + [
                Scale(hyperparameter=n, factor=factors[n], reason=said, evidence=evidence)
                for n in wanted
            ]
        if above and not before and answered:
            memory["left"] = max(memory["left"], hold + rest)
        if answered and memory["left"] <= rest:
            said = f"{hold} steps since the shift"
            return [Scale(hyperparameter=n, factor=1 / now.share(n), reason=said) for n in answered]
        return []

    return Controller(decide, (watch,), tuple(factors), {"above": False, "left": 0}, priority=50)
