"""The museum of recipes: canonical forms as past releases wrote them, each with its hash.

    .venv/bin/python tests/museum/recipes.py

adds what is missing. An exhibit is never changed: it must load for ever, as the same recipe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rheostat.core.registry import components
from rheostat.recipes.recipe import Recipe

FOLDER = Path(__file__).with_suffix("")
COSINE = {"schedule": "cosine", "peak": 0.1, "warmup": 10}

NEEDED: dict[str, dict[str, Any]] = {
    "batch_growth": {"batch": 64},
    "decay_balance": {"updates_per_epoch": 100},
    "hand_over": {"at": 10},
}
"""The arguments without which a controller cannot be made."""

FEATURES: dict[str, dict[str, Any]] = {
    "chain": {
        "chain": [
            {"transform": "clip_by_global_norm", "max_norm": 1.0},
            {"transform": "scale_by_adam", "b2": 0.95},
            {"transform": "add_decayed_weights", "weight_decay": 0.1},
        ],
        "lr": COSINE,
        "steps": 100,
    },
    "named_pieces": {
        "chain": [{"transform": "trace", "named": "a"}, {"transform": "trace", "named": "b"}]
    },
    "clip_and_before": {
        "optimizer": "sgd",
        "before": ["centralize_gradient"],
        "clip": {"agc": 0.02},
    },
    "policy": {
        "optimizer": "muon",
        "lr": COSINE,
        "clip": {"global_norm": 1.0},
        "policy": [
            {"match": {"role": ["norm", "bias"]}, "optimizer": "adamw", "weight_decay": 0},
            {"match": {"name": "decoder.*", "min_dim": 2, "optional": True}, "lr_factor": 0.5},
        ],
        "steps": 500,
    },
    "settings": {
        "optimizer": "adamw",
        "seed": 7,
        "nonfinite": "raise",
        "accumulate": 4,
        "precision": "stochastic",
        "mode": "eager",
        "maximize": True,
        "silence": ["RH011"],
    },
    "restarts": {
        "optimizer": "sgd",
        "lr": {"schedule": "cosine_restarts", "peak": 0.1, "period": 10, "multiplier": 2},
        "steps": 70,
    },
    "regime": {
        "optimizer": "adamw",
        "lr": COSINE,
        "regime": {
            "controllers": [
                "spike_guard",
                {"controller": "plateau", "patience": 20},
                {"controller": "batch_growth", "batch": 64},
            ],
            "terms": {"budget": 12, "bounds": {"floor": 0.1, "own": {"momentum": [1.0, 4.0]}}},
            "dry_run": True,
        },
        "safeguards": {"every": 50, "bad_batches": "keep"},
        "steps": 100,
    },
    "replay": {"optimizer": "sgd", "regime": {"replay": "runs/a"}},
    "blend": {
        "chain": [
            {
                "transform": "blend",
                "first": ["scale_by_adam"],
                "second": [{"transform": "trace", "named": "slow"}],
                "blend": {"schedule": "linear", "peak": 1.0, "floor": 0.0},
            }
        ],
        "steps": 50,
    },
    "part_of_a_tuple": {
        "optimizer": "adamw",
        "betas": [0.9, {"schedule": "cosine", "peak": 0.99, "floor": 0.9}],
        "steps": 50,
    },
}


def exhibits() -> dict[str, dict[str, Any]]:
    """Name -> a recipe, for every optimizer, controller and feature of the grammar."""
    plain: dict[str, dict[str, Any]] = {}
    for of in components():
        if of.ours and of.kind == "optimizer":
            plain[of.ref] = {"optimizer": of.ref}
        elif of.ours and of.kind == "controller":
            controller = {"controller": of.ref, **NEEDED.get(of.name, {})}
            plain[of.ref] = {"optimizer": "sgd", "regime": [controller]}
    return {**plain, **FEATURES}


def main() -> None:
    """Add the exhibits that are missing."""
    FOLDER.mkdir(exist_ok=True)
    for name, source in exhibits().items():
        path = FOLDER / f"{name}.json"
        if not path.exists():
            recipe = Recipe.load(source)
            made = {"hash": recipe.hash, "recipe": recipe.canonical()}
            path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
