"""Arms of a recorded study that are given a regime afterwards: what it decided, how lr followed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.references import audited

from rheostat.core.controller import RollBack, Scale
from rheostat.lab.results import Results, Run
from rheostat.record.log import Event
from rheostat.regimes.account import Account

KINDS = ("accepted", "bounded", "refused", "trial", "kept", "undone")


def with_regime(results: Results, *arms: str, often: int = 12) -> Results:
    """The study, in which these arms decided about `often` times a run."""
    runs = tuple(_decided(run, often) if run.arm in arms else run for run in results.runs)
    return replace(results, runs=runs)


def _decided(run: Run, often: int) -> Run:
    noise = np.random.default_rng([run.seed, often])
    record = run.record
    batches = np.sort(noise.integers(0, record.steps.size, often)).tolist()
    lr = record.series["lr"].copy()
    events: list[Event] = []
    for number, batch in enumerate(batches):
        one = _account(number, batch, float(lr[batch]), noise)
        if one.done is not None and one.after is not None:
            lr[batch + 1 :] *= one.after / lr[batch]
        events.append(Event(number, "decision", audited.decision(batch, one)))
    series = {**record.series, "lr": lr}
    return replace(run, record=replace(record, series=series, events=tuple(events)))


def _account(number: int, batch: int, lr: float, noise: np.random.Generator) -> Account:
    verdict: Any = str(noise.choice(KINDS))
    about: dict[str, Any] = {"number": number, "at": batch + 1, "step": batch + 1, "segment": 0}
    if noise.random() < 0.05:
        back = RollBack(before=20, reason="the loss is 12.1 spreads above its trend, for 10 steps")
        about |= {"done": back.written(), "asked": back.written(), "hyperparameter": "roll_back"}
        return Account(**about, who="safeguard", verdict="accepted", reason=back.reason)
    factor = float(noise.choice([0.7, 1.2]))
    scale = Scale(hyperparameter="lr", factor=factor, reason="no better for 60 updates")
    about |= {"asked": scale.written(), "hyperparameter": "lr", "evidence": {"waited": 60.0}}
    if verdict in ("accepted", "bounded", "trial", "undone"):
        about |= {"done": scale.written(), "before": lr, "after": lr * factor}
    return Account(**about, who="plateau", verdict=verdict, reason=scale.reason)
