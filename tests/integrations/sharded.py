"""One process of several that train together, with gloo on the CPU.

    python sharded.py KIND RANK WORLD FOLDER CASE...

KIND is "fsdp" (FSDP2, every layer by itself) or "ddp". Each case trains FIRST updates, is saved by
torch.distributed.checkpoint into FOLDER/CASE and trains SECOND more; where that folder is there
already it is loaded first in place of the first part. Each process writes what it has.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import rheostat as rs

FIRST, SECOND = 3, 3

_clip = rs.transforms.clip_by_global_norm
_noise = rs.transforms.add_noise

CASES: Mapping[str, Callable[[nn.Module], Any]] = {
    "adamw": lambda net: rs.optimizer("adamw", net, lr=1e-2),
    "adamw-eager": lambda net: rs.optimizer("adamw", net, lr=1e-2, mode="eager"),
    "sgd": lambda net: rs.optimizer("sgd", net, lr=1e-2, momentum=0.9),
    "lion": lambda net: rs.optimizer("lion", net, lr=1e-3),
    "nadam": lambda net: rs.optimizer("nadam", net, lr=1e-2),
    "lamb": lambda net: rs.optimizer("lamb", net, lr=1e-2),
    "muon": lambda net: rs.optimizer("muon", net, lr=1e-2, dtype="float32"),
    "adafactor": lambda net: rs.optimizer("adafactor", net, lr=1e-2),
    "prodigy": lambda net: rs.optimizer("prodigy", net),
    "schedule_free_adamw": lambda net: rs.optimizer("schedule_free_adamw", net, lr=1e-2),
    "clip": lambda net: rs.optimizer(rs.chain(_clip(0.5), rs.transforms.trace()), net, lr=1e-2),
    "noise": lambda net: rs.optimizer(rs.chain(_noise(), rs.transforms.trace()), net, lr=1e-2),
    "accumulate": lambda net: rs.optimizer("adamw", net, lr=1e-2, accumulate=2),
    "master": lambda net: rs.optimizer("adamw", net.bfloat16(), lr=1e-2, precision="master"),
    "master-muon": lambda net: rs.optimizer("muon", net.bfloat16(), lr=1e-2, precision="master"),
    "stochastic": lambda net: rs.optimizer("sgd", net.bfloat16(), lr=1e-2, precision="stochastic"),
}


def model() -> nn.Sequential:
    """Matrices, vectors, and sides that neither 2 nor 4 divides."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 7), nn.Linear(7, 1))


def train(net: nn.Module, opt: Any, steps: Iterable[int], rank: int = 0, world: int = 1) -> None:
    """Batches follow from the step; each process has its share of them."""
    dtype = next(net.parameters()).dtype
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        x = x.chunk(world)[rank]
        opt.zero_grad()
        (net(x) - x[:, :1].sin()).square().mean().backward()
        opt.step()


def save(net: nn.Module, opt: Any, folder: Path) -> None:
    content = {"model": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, opt)}
    dcp.save(content, checkpoint_id=folder, no_dist=not dist.is_initialized())


def load(net: nn.Module, opt: Any, folder: Path) -> None:
    content = {"model": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, opt)}
    dcp.load(content, checkpoint_id=folder, no_dist=not dist.is_initialized())
    set_model_state_dict(net, content["model"])
    set_optimizer_state_dict(net, opt, content["optimizer"])


def held(net: nn.Module, opt: Any) -> dict[str, Tensor]:
    """Every weight and every tensor of the state, whole, by name."""
    options = StateDictOptions(full_state_dict=True)  # with cpu_offload only the first has it
    found = dict(get_model_state_dict(net, options=options))
    for name, state in get_optimizer_state_dict(net, opt, options=options)["state"].items():
        found |= {f"{name}/{key}": value for key, value in state.items()}
    return {name: value.clone() for name, value in found.items()}


def run_case(case: str, kind: str, rank: int, world: int, folder: Path) -> dict[str, Any]:
    """What one process has after the first part (or the load) and after the second."""
    net: nn.Module = model()
    if kind == "fsdp":
        if case.startswith(("master", "stochastic")):
            net = net.bfloat16()
        mesh = init_device_mesh("cpu", (world,))
        for layer in (*net, net):
            fully_shard(layer, mesh=mesh)
    opt = CASES[case](net)
    if kind == "ddp":
        net = DistributedDataParallel(net)
    if (folder / case).exists():
        load(net, opt, folder / case)
    else:
        train(net, opt, range(FIRST), rank, world)
        save(net, opt, folder / case)
    found = {"first": held(net, opt)}
    train(net, opt, range(FIRST, FIRST + SECOND), rank, world)
    return {**found, "second": held(net, opt), "norm": opt.last_step.grad_norm}


def main(kind: str, rank: int, world: int, folder: Path, cases: list[str]) -> None:
    # torch says that its own shards may be of unequal length, and the like.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world
    )
    found = {case: run_case(case, kind, rank, world, folder) for case in cases}
    torch.save(found, folder / f"{world}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    kind, rank, world, folder, *cases = sys.argv[1:]
    main(kind, int(rank), int(world), Path(folder), cases)
