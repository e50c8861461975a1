"""A run with a regime, written by hand: what it decided, and what else happened to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rheostat.core.controller import Limit, Restart, RollBack, Scale
from rheostat.record.writer import RunWriter
from rheostat.regimes.account import Account, Ease, Outcome

STEPS = 400
SKIPPED, BROKEN, BACK, REPLANNED = 90, 200, 210, 300
"""Batches: one is skipped, the loss breaks, the run goes back, a person extends the plan."""
GOOD = 180
"""The update that it goes back to."""

LOWER = Scale(hyperparameter="lr", factor=0.25, reason="no better for 60 updates")
NUMBERS = {"waited": 60.0, "best": 0.91}


def account(number: int, batch: int, who: str, verdict: Any, reason: str, **more: Any) -> Account:
    """An account after a batch."""
    back = batch >= BACK
    step = batch + 1 - (batch >= SKIPPED) - (BACK - GOOD) * back
    where = {"number": number, "at": batch + 1, "step": step, "segment": int(batch > BACK)}
    return Account(**where, who=who, verdict=verdict, reason=reason, **more)


def accounts() -> dict[int, list[Account]]:
    """What was decided, by batch; what the loss did after the first comes 24 batches later."""
    bounded = Scale(hyperparameter="lr", factor=0.5, reason=LOWER.reason)
    lowered = account(
        0,
        60,
        "plateau",
        "bounded",
        f"{LOWER.reason}; bounded to a factor of 0.5",
        asked=LOWER.written(),
        done=bounded.written(),
        hyperparameter="lr",
        before=0.1,
        after=0.05,
        evidence=NUMBERS,
    )
    told = Outcome(0.95, 0.76)
    refused = account(
        1,
        70,
        "plateau",
        "refused",
        "lr was changed less than 20 steps ago; asked: no better for 60 updates",
        asked=LOWER.written(),
        hyperparameter="lr",
        evidence=NUMBERS,
    )
    limit = Limit(norm=4.5, reason="a gradient 9.2 deviations above its median: skip the like")
    limited = account(
        2, 89, "spike_guard", "accepted", limit.reason, asked=limit.written(), done=limit.written()
    )
    trial = Scale(hyperparameter="lr", factor=2.0, reason="the loss falls by 3.1 standard errors")
    tried = account(
        3,
        120,
        "loss_trend",
        "trial",
        trial.reason,
        asked=trial.written(),
        done=trial.written(),
        hyperparameter="lr",
        before=0.05,
        after=0.1,
        evidence={"loss_significance": -3.1},
    )
    judged = {"forecast": 0.51, "found": 0.55, "z": -1.5}
    undone = Scale(hyperparameter="lr", factor=0.5, reason="it did not help", evidence=judged)
    ended = account(
        4,
        150,
        "loss_trend",
        "undone",
        "the loss is 0.55, 0.51 was forecast without it (z = −1.50)",
        done=undone.written(),
        hyperparameter="lr",
        before=0.1,
        after=0.05,
        evidence=judged,
        about=3,
    )
    back = RollBack(before=20, reason="5 losses in a row are not finite")
    gone = account(
        5,
        BACK,
        "safeguard",
        "accepted",
        back.reason,
        asked=back.written(),
        done=back.written(),
        hyperparameter="roll_back",
    )
    again = Restart(reason="a plateau, 100 updates after the last")
    begun = account(
        6,
        280,
        "restart_trigger",
        "accepted",
        again.reason,
        asked=again.written(),
        done=again.written(),
        hyperparameter="restart",
    )
    ease = Ease(reason="the budget of 4 octaves is spent: back to the plan, gradually")
    eased = account(7, 330, "arbiter", "undone", ease.reason, done=ease.written())
    written = [lowered, refused, limited, tried, ended, gone, begun, eased]
    by_batch = {one.at - 1: [one] for one in written}
    by_batch[84] = [replace(lowered, outcome=told)]
    by_batch[85] = [replace(refused, times=14)]
    return by_batch


def losses() -> Iterator[float]:
    """The loss of each batch."""
    for batch in range(STEPS):
        if BROKEN <= batch <= BACK:
            yield math.nan if batch > BACK - 5 else 9.0
        else:
            yield 0.25 + 0.75 * math.exp(-batch / 120)


def decision(batch: int, one: Account) -> dict[str, Any]:
    """An account as a run records it."""
    fields = one.written()
    fields["update"] = fields.pop("step")
    return {"step": batch, **fields}


def write_run(
    directory: Path, header: Mapping[str, Any] | None = None, *, regime: bool = True
) -> Path:
    """The run, in a directory; without its regime nobody decides or goes back."""
    decided = accounts() if regime else {}
    recipe = {"optimizer": "adamw@1", **({"regime": ["plateau@1"]} if regime else {})}
    update, segment = 0, 0
    with RunWriter(directory, {"recipe": recipe, **(header or {})}) as run:
        for batch, loss in enumerate(losses()):
            if batch == REPLANNED and regime:
                run.event("replan", _replan(batch))
            if batch == 281 and regime:
                run.event("restart", _restart(batch))
            skipped = batch == SKIPPED
            update += not skipped
            lr = 0.05 if batch > 60 and regime and not 120 < batch <= 150 else 0.1
            values = {"lr": lr, "loss": loss, "grad_norm": 2 * loss, "gradient_spike": loss / 3}
            if regime:
                values |= {"update": update, "segment": segment}
            run.step(batch, values, f"b{batch}")
            if skipped and regime:
                reason = "the gradient's norm 7.1 is above the limit 4.5"
                run.event("skipped", {"step": batch, "reason": reason})
            for one in decided.get(batch, []):
                run.event("decision", decision(batch, one))
            if batch == BACK and regime:
                update, segment = GOOD, 1
        run.finish("done", {"accuracy": 97.5}, "f")
    return directory


def _replan(batch: int) -> dict[str, Any]:
    old = {"schedule": "cosine@1", "peak": 0.1, "steps": 400}
    about = {"operation": "extend", "group": 0, "hyperparameter": "lr", "at": 268}
    return {"step": batch, **about, "old": old, "new": {**old, "steps": 600}}


def _restart(batch: int) -> dict[str, Any]:
    told = {"cycle": 1, "length": None, "before": 0.01, "after": 0.1, "ratio": 10.0}
    return {"step": batch, "hyperparameter": "lr", "group": 0, **told, "state": "keep"}
