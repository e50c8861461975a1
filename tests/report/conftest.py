"""A study that no model was trained for, recorded through the real store and judged."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rheostat.core.durable import content_hash
from rheostat.lab.results import Results, load_results
from rheostat.record.run import RunRecord, compact_run
from rheostat.record.store import Store, StoredRun
from rheostat.record.writer import RunWriter

STUDY = "warm-restarts-1a2b3c4d"
STEPS = 300
SEEDS = tuple(range(8))
ARMS = ("constant", "cosine", "cosine_restarts", "step")
RESTARTS = [100, 200]
SHIFT = {"constant": 0.0, "cosine": 1.1, "cosine_restarts": 0.02, "step": 0.35}
DIVERGED = ("step", 5, 120)

Record = Callable[..., Results]


def plan(**changes: Any) -> dict[str, Any]:
    """The plan of the study, in its canonical form."""
    recipe = {"optimizer": "sgd@1", "momentum": 0.9, "weight_decay": 0.0, "policy": []}
    return {
        "study": "Warm restarts on digits",
        "question": "Which learning-rate schedule is better on digits, and is the difference real?",
        "hypothesis": "Cosine annealing ends higher than a constant rate; restarts add nothing.",
        "why": "Restarts are said to help on long runs; this one is short.",
        "workload": {"workload": "digits@1", "hidden": 64, "batch": 64},
        "arms": {arm: {**recipe, "lr": {"schedule": f"{arm}@1", "peak": 0.1}} for arm in ARMS},
        "baseline": "constant",
        "seeds": list(SEEDS),
        "steps": STEPS,
        "metric": {
            "name": "accuracy",
            "goal": "maximize",
            "margin": 0.3,
            "worst": 0.0,
            "unit": "%",
        },
        "alpha": 0.05,
        **changes,
    }


def learning_rate(arm: str, step: int) -> float:
    if arm == "constant":
        return 0.1
    if arm == "step":
        return 0.1 * 0.1 ** (step // 100)
    period = 100 if arm == "cosine_restarts" else STEPS
    return 0.05 * (1 + math.cos(math.pi * (step % period) / period))


def write_run(directory: Path, arm: str, seed: int, steps: int, header: Mapping[str, Any]) -> None:
    """One run with a plausible course; it diverges where `DIVERGED` says so."""
    noise = np.random.default_rng([seed, ARMS.index(arm)])
    diverges = (arm, seed) == DIVERGED[:2] and steps > DIVERGED[2]
    settings = plan()["arms"][arm]
    start = {
        "study": STUDY,
        "arm": arm,
        "seed": seed,
        "recipe": settings,
        "recipe_hash": content_hash(settings),
        "weights": content_hash(["weights", seed])[:16],
        "data": content_hash("digits")[:16],
        "restarts": RESTARTS if arm == "cosine_restarts" else [],
        "environment": {
            "python": "3.11.2",
            "torch": "2.13.0",
            "numpy": "2.4.1",
            "threads": 1,
        },
        "facts": {
            "host": "bench",
            "pid": 4000 + seed,
            "started": 1_790_000_000.0 + seed,
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
        },
        **header,
    }
    with RunWriter(directory, start) as run:
        for step in range(steps):
            loss = 0.08 + 2.2 * math.exp(-step / 45) * math.exp(0.12 * noise.normal())
            if diverges:
                loss *= math.exp(max(0, step - 60) / 3)
            if diverges and step == DIVERGED[2]:
                loss = math.nan
            values = {
                "lr": learning_rate(arm, step),
                "loss": loss,
                "grad_norm": 1.5 * math.sqrt(loss) * math.exp(0.2 * noise.normal()),
                "momentum_norm": 6 * math.sqrt(loss) * (1 - 0.9 ** (step + 1)),
            }
            run.step(step, values, content_hash(["batch", seed, step])[:16])
            if not math.isfinite(loss):
                break
        if diverges:
            run.finish("diverged", {"accuracy": math.nan}, content_hash([arm, seed]), {})
        else:
            value = 95.5 + 0.4 * np.random.default_rng(seed).normal() + SHIFT[arm]
            value += 0.12 * float(noise.normal())
            fingerprint = content_hash([arm, seed])
            run.finish("done", {"accuracy": value}, fingerprint, {"seconds": 2.5 + seed / 8})


def record_study(
    store: Store,
    study_plan: Mapping[str, Any],
    *,
    steps: int,
    without: tuple[tuple[str, int], ...] = (),
    headers: Mapping[tuple[str, int], Mapping[str, Any]] | None = None,
) -> None:
    """Record a whole study, but for the runs `without`; `headers` changes those of some runs."""
    words = {key: study_plan[key] for key in ("study", "question", "why")}
    frozen = {key: value for key, value in study_plan.items() if key not in words}
    store.add_study(STUDY, words["study"], frozen, {**words, "order": list(ARMS)})
    places = [(arm, seed) for arm in ARMS for seed in SEEDS if (arm, seed) not in without]
    with pytest.MonkeyPatch.context() as patch:
        # Waiting for the disk is most of what recording costs, and nothing here loses power.
        patch.setattr(os, "fsync", lambda _: None)
        for arm, seed in places:
            directory = store.run_directory(STUDY, f"{arm}.{seed}")
            write_run(directory, arm, seed, steps, (headers or {}).get((arm, seed), {}))
            compact_run(directory)
            store.add_run(STUDY, index_row(RunRecord.read(directory)))


def index_row(record: RunRecord) -> StoredRun:
    arm, seed = record.header["arm"], record.header["seed"]
    return StoredRun(
        id=f"{arm}.{seed}",
        arm=arm,
        seed=seed,
        status=record.status,
        metric=record.metrics["accuracy"],
        metrics=record.metrics,
        fingerprints={"final": record.fingerprint},
        content_hash=record.content_hash,
        environment=record.header["environment"],
        started="2026-09-21T14:13:20Z",
        seconds=1.0,
    )


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The study in full: 4 arms, 8 seeds, 300 steps; one run diverged, one arm restarts."""
    with Store.open(tmp_path_factory.mktemp("store")) as store:
        record_study(store, plan(), steps=STEPS)
        return load_results(store, STUDY)


@pytest.fixture
def recorded(tmp_path: Path) -> Record:
    """A function that records a study, a short one in which none diverges, and loads it."""

    def make(
        study_plan: Mapping[str, Any] | None = None, steps: int = 20, **changes: Any
    ) -> Results:
        with Store.open(tmp_path / "store") as store:
            record_study(store, study_plan or plan(), steps=steps, **changes)
            return load_results(store, STUDY)

    return make
