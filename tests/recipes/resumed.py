"""Runs to stop and to resume: every optimizer with its typical schedule, and what else has state.

    python resumed.py DIRECTORY CASE...

resumes each case in DIRECTORY/CASE and trains it to its end.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.checkpoint.sampler import ResumableSampler
from rheostat.recipes.attach import RecipeWarning

STEPS = 16
CONSTANT = ("dadapt_adam", "lbfgs", "prodigy", "rprop")
RESTARTING = ("sgd", "adamw", "signum")
AVERAGES: Mapping[str, Any] = {
    "ema": {"transform": "ema_weights", "ema_decay": 0.9},
    "swa": {"transform": "swa_weights", "start": 4, "every": 2},
    "lookahead": {"transform": "lookahead", "k": 3},
}


class Crash(Exception):  # noqa: N818 - not an error: how a run is stopped
    """The end of a run that is to be resumed."""


def optimizers() -> list[str]:
    """Every optimizer that we ship."""
    return [c.name for c in rs.components("optimizer") if c.module.startswith("rheostat.")]


def recipe(case: str) -> tuple[dict[str, Any], torch.dtype]:
    """The recipe of a case, OPTIMIZER or OPTIMIZER-OPTION, and the dtype of its model."""
    name, _, option = case.partition("-")
    found: dict[str, Any] = {"optimizer": name, "lr": _schedule(name)}
    dtype = torch.float32
    if option in AVERAGES:
        found = {"chain": ["scale_by_adam", AVERAGES[option]], "lr": _schedule(name)}
    if option == "regime":
        found["regime"] = ["spike_guard", "starting_rate"]
        found["safeguards"] = {"every": 2, "survive": 1, "streak": 1}
    if option in ("master", "stochastic"):
        # Rules that look elsewhere take no averages.
        averaged = 2 if option == "master" and name != "lbfgs" else 1
        found |= {"precision": option, "accumulate": averaged}
        dtype = torch.bfloat16
    return found, dtype


def _schedule(name: str) -> Any:
    rate = rs.component(name, "optimizer").signature.parameters["lr"].default
    rate = rate if isinstance(rate, float) else 1e-2
    if name in CONSTANT or name.startswith("schedule_free"):
        return rate
    if name in RESTARTING:
        state = "reset_first_moment" if name == "sgd" else "reset"
        return {"schedule": "cosine_restarts", "peak": rate, "period": 5, "state": state}
    return {"schedule": "cosine", "peak": rate, "warmup": 3, "floor": rate / 10}


def stop(case: str) -> int:
    """The batch after which the case is saved: any, the same every time."""
    return random.Random(case).randrange(1, STEPS - 2)


def train(directory: Path, case: str, crash: bool = False, seed: int = 0) -> None:
    """Train a case to its end, resuming what is there. With `crash` it is saved at its stop and
    dies two batches later."""
    said, dtype = recipe(case)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Embedding(7, 8), nn.Linear(8, 12), nn.LayerNorm(12), nn.Dropout(0.2), nn.Linear(12, 3)
    ).to(dtype)
    sampler = ResumableSampler(40, 8, seed=1)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 7, (40,), generator=generator)
    target = torch.randn(40, 3, generator=generator).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecipeWarning)  # what the defaults on a tiny model say
        run = rs.attach(
            said, model, steps=STEPS, directory=directory, resume="auto", sampler=sampler
        )
    observes = any(piece.observe for piece in run.optimizer.rule(0).pieces)
    with run:
        while run.batches < STEPS:
            for indices in sampler:
                poison = float("nan") if run.batches in (2, 9) else 1.0

                def closure(indices: list[int] = indices, poison: float = poison) -> Tensor:
                    run.optimizer.zero_grad()
                    output = model(tokens[indices])
                    loss = poison * (output - target[indices]).square().mean()
                    loss.backward()
                    return loss

                def fresh(indices: list[int] = indices) -> Tensor:
                    return (model(tokens[indices]) - target[indices]).float().square().mean()

                if observes and run.batches % 3 == 0:
                    run.optimizer.observe(fresh)
                run.step(closure=closure, batch=tokens[indices])
                if run.batches % 4 == 0:
                    with run.optimizer.averaged(), torch.no_grad():
                        model(tokens)
                if crash and run.batches == stop(case):
                    run.save(wait=True)
                if crash and run.batches == stop(case) + 2:
                    raise Crash
                if run.batches == STEPS:
                    break
        run.save(wait=True)
        run.finish({"loss": 0.0})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in sys.argv[2:]:
        random.seed(5)
        train(Path(sys.argv[1]) / one, one, seed=9)
