"""The museum of checkpoints: runs that past releases saved half-way, and where they ended.

    .venv/bin/python tests/museum/checkpoints.py

adds what is missing. An exhibit is never changed: it must load for ever, and end where it did.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rheostat as rs
from rheostat.checkpoint.generations import FOLDER

HALL = Path(__file__).with_suffix("")
HALF, WHOLE = 3, 6

COSINE = {"schedule": "cosine", "peak": 0.01, "warmup": 1}
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw@1", "lr": COSINE, "clip": {"global_norm": 1.0}, "steps": WHOLE},
    "policy": {
        "optimizer": "muon@1",
        "lr": {"schedule": "cosine_restarts", "peak": 0.02, "period": 2},
        "policy": [{"match": {"role": ["norm", "bias"]}, "optimizer": "adamw@1", "lr": COSINE}],
        "seed": 7,
        "steps": WHOLE,
    },
    "tokens": {"optimizer": "sgd@1", "momentum": 0.9, "lr": COSINE, "horizon": {"tokens": 60}},
}


def model() -> nn.Module:
    """What all of them train; the same weights each time."""
    made = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    with torch.no_grad():
        for index, param in enumerate(made.parameters()):
            count = torch.arange(param.numel(), dtype=torch.float32)
            param.copy_((count + index).sin().reshape(param.shape))
    return made


def train(run: Any, net: nn.Module, steps: int) -> None:
    """So many steps on batches that follow from their number."""
    for _ in range(steps):
        x = (torch.arange(15, dtype=torch.float32) + run.batches).cos().reshape(5, 3)
        run.optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        run.step(loss, consumed={"tokens": 10})


def weights(net: nn.Module) -> dict[str, list[float]]:
    """Its weights as plain numbers."""
    return {name: param.detach().flatten().tolist() for name, param in net.named_parameters()}


def main() -> None:
    """Add the exhibits that are missing."""
    HALL.mkdir(exist_ok=True)
    for name, recipe in RECIPES.items():
        if (HALL / name).exists():
            continue
        net = model()
        with tempfile.TemporaryDirectory() as folder:
            with rs.attach(recipe, net, directory=folder, resume="auto") as run:
                train(run, net, HALF)
                run.save(wait=True)
                train(run, net, WHOLE - HALF)
            shutil.copytree(
                Path(folder, FOLDER), HALL / name / FOLDER, ignore=shutil.ignore_patterns("lock")
            )
        kept = {"recipe": run.recipe.canonical(), "hash": run.recipe.hash, "ends": weights(net)}
        (HALL / name / "run.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
