"""Stop where validation has stopped getting better."""

from __future__ import annotations

from rheostat.core.controller import Controller, Now, Stop
from rheostat.core.hyper import Count, Steps
from rheostat.core.registry import register
from rheostat.core.signal import Memory


@register("controller", "early_stop", version=1)
def early_stop(patience: Count = 2000, evaluations: Count = 5, least: Steps = 0) -> Controller:
    """Say that training should end where the validation metric has not been better for long.

    Where the signal validation_plateau (updates since the metric was last clearly better) is at
    least `patience`, with that many `evaluations` since, and `least` steps were made. It says so
    once; whoever owns the loop decides.

    Stability: it changes nothing.
    Worst: it gives up a run whose metric would have become better after `patience` updates without
     progress, as in a cool-down that was still to come: keep `least` above its start.
    Source: Prechelt 1998 (Early stopping, but when?), the criterion UP, in updates.
    patience: updates without a better metric. Usual [200, 100000] updates: more wastes more, and
     misses less.
    evaluations: of them at least so many. Usual [2, 20]: more hears more of them before it judges.
    least: steps before which it does not stop. Usual [0, 1000000] steps: the plan's, without its
     cool-down.
    """

    def decide(now: Now, memory: Memory) -> Stop | None:
        since = now["validation_plateau"]
        memory["since"] = memory["since"] + 1 if since > 0 else 0
        over = since >= patience and memory["since"] >= evaluations and now.step >= least
        if not over or memory["said"]:
            return None
        memory["said"] = True
        said = (
            f"validation has not been better for {since:g} updates, {memory['since']} evaluations"
        )
        return Stop(reason=said, evidence=now.evidence("validation_plateau"))

    return Controller(decide, ("validation_plateau",), memory={"since": 0, "said": False})
