"""Forks runs that save at every step, and kills each at a random moment.

    python killed.py DIRECTORY KILLS SEED

It prints how many left a save unfinished; in the end it lets each finish and prints its steps.
Forking spares the import of torch, a second each time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rheostat as rs
from rheostat.checkpoint.generations import TEMPORARY, Keep, hold
from rheostat.checkpoint.load import newest
from rheostat.checkpoint.rng import rng_state, set_rng_state
from rheostat.checkpoint.save import AsyncWriter

OPTIMIZERS = ("adamw", "sgd", "lion", "schedule_free_adamw")


def train(directory: Path, name: str, steps: int) -> None:
    """A run that goes on where the newest checkpoint is, saving at every step."""
    torch.manual_seed(1)
    random.seed(1)  # a fork seeds it anew
    model = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.3), nn.Linear(7, 1))
    opt: Any = rs.optimizer(name, model, lr=0.05)
    with hold(directory), AsyncWriter(directory, Keep(last=2)) as writer:
        found = newest(directory, fall_back=False)
        if found is not None:
            model.load_state_dict(dict(found.tensors["model"]))
            state = opt.state_dict()
            for key, tensor in found.tensors["optimizer"].items():
                index, _, buffer = key.partition(".")
                state["state"][int(index)][buffer] = tensor
            for group, kept in zip(
                state["param_groups"], found.documents["run"]["groups"], strict=True
            ):
                group.update(kept)
            opt.load_state_dict(state)
            set_rng_state(found.tensors["rng"], found.documents["rng"])
        for step in range(0 if found is None else found.step, steps):
            opt.zero_grad()
            x = torch.randn(16, 5)
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            opt.step()
            writer.save(step + 1, *state_of(model, opt))


def state_of(model: nn.Module, opt: Any) -> tuple[Any, Any]:
    """What the run needs, as tensors and documents."""
    state = opt.state_dict()
    buffers = {f"{i}.{key}": t for i, entry in state["state"].items() for key, t in entry.items()}
    groups = [
        {k: v for k, v in group.items() if k not in ("params", "param_names")}
        for group in state["param_groups"]
    ]
    rng, document = rng_state()
    tensors = {"model": dict(model.state_dict()), "optimizer": buffers, "rng": rng}
    return tensors, {"run": {"groups": groups}, "rng": document}


def forked(directory: Path, name: str, steps: int) -> int:
    """The pid of a process that trains."""
    pid = os.fork()
    if pid:
        return pid
    try:
        train(directory, name, steps)
        os._exit(0)
    finally:  # whatever was raised: the child must not go on with the parent's work
        traceback.print_exc()
        os._exit(1)


def main() -> None:
    """Kill, then finish; every optimizer in a directory of its own."""
    torch.set_num_threads(1)
    place, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    for name in OPTIMIZERS:  # what is imported and built at first use, before the forks
        train(place / "warm" / name, name, 1)
    unfinished = 0
    for i in range(kills):
        name = OPTIMIZERS[i % len(OPTIMIZERS)]
        pid = forked(place / name, name, 10**9)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"kill {i}: a run of {name} ended by itself")
        unfinished += bool(list((place / name).glob(f"{TEMPORARY}*")))
    print(unfinished)
    for name in OPTIMIZERS[: max(1, kills)]:
        found = newest(place / name)
        steps = 3 + (0 if found is None else found.step)
        for where in (place / name, place / "undisturbed" / name):
            _, status = os.waitpid(forked(where, name, steps), 0)
            if status:
                sys.exit(f"{name}: no end in {where}")
        print(name, steps)


if __name__ == "__main__":
    main()
