"""FSDP2, DDP and torch.distributed.checkpoint: several processes train as one would."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.conftest import same_tensors
from tests.integrations import sharded

Found = list[dict[str, dict[str, Any]]]
"""What each process has, by case."""


def together(kind: str, world: int, folder: Path, cases: list[str]) -> Found:
    """Run `sharded.py` in so many processes."""
    command = [sys.executable, sharded.__file__, kind]
    rest = [str(world), str(folder), *cases]
    processes = [subprocess.Popen([*command, str(rank), *rest]) for rank in range(world)]
    assert [process.wait(timeout=600) for process in processes] == [0] * world
    return [torch.load(folder / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]


def alone(case: str, folder: Path | None = None) -> dict[str, Any]:
    """The same by this process: from the start, or loaded from a folder."""
    net = sharded.model()
    opt = sharded.CASES[case](net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no process group
        if folder is None:
            sharded.train(net, opt, range(sharded.FIRST))
        else:
            sharded.load(net, opt, folder / case)
        found = {"first": sharded.held(net, opt)}
        sharded.train(net, opt, range(sharded.FIRST, sharded.FIRST + sharded.SECOND))
        return {**found, "second": sharded.held(net, opt), "norm": opt.last_step.grad_norm}


def close(case: str, one: dict[str, Any], other: dict[str, Any], part: str) -> None:
    """Equal but for the order in which the gradients were summed."""
    # A half's rounding is 2^-9, once a forward pass and twice a backward one; a sign at the wrong
    # side of 0, or an iteration on a rounded matrix, makes more of float32's 2^-24.
    half = case.startswith(("master", "stochastic"))
    tolerance = 3e-2 if half else 2e-4 if case == "muon" else 2e-5
    assert one[part].keys() == other[part].keys()
    for name, mine in one[part].items():
        torch.testing.assert_close(
            mine.float(), other[part][name].float(), rtol=tolerance, atol=tolerance, msg=name
        )
    if part == "second":
        assert one["norm"] == pytest.approx(other["norm"], rel=tolerance)


def saved_by_two(folder: Path, cases: list[str], worlds: tuple[int, ...]) -> None:
    """Two processes equal one; what they saved is loaded by others as it was, and goes on."""
    two = together("fsdp", 2, folder, cases)
    for case in cases:
        for part in ("first", "second"):
            same_tensors(two[0][case][part], two[1][case][part])
            close(case, two[0][case], alone(case), part)
        loaded = alone(case, folder)
        same_tensors(loaded["first"], two[0][case]["first"])
        close(case, loaded, two[0][case], "second")
    for world in worlds:
        for process in together("fsdp", world, folder, cases):
            for case in cases:
                same_tensors(process[case]["first"], two[0][case]["first"])
                close(case, process[case], two[0][case], "second")


def test_two_processes_equal_one_and_one_loads_what_two_saved(tmp_path: Path) -> None:
    saved_by_two(tmp_path, ["clip", "muon"], ())


@pytest.mark.slow
def test_every_rule_over_shards_and_four_load_what_two_saved(tmp_path: Path) -> None:
    saved_by_two(tmp_path, list(sharded.CASES), (4,))


@pytest.mark.slow
def test_ddp_has_the_same_bits_in_every_process(tmp_path: Path) -> None:
    cases = ["adamw", "sgd", "lion", "muon", "adafactor"]
    first, second = together("ddp", 2, tmp_path, cases)
    for case in cases:
        for part in ("first", "second"):
            same_tensors(first[case][part], second[case][part])
            close(case, first[case], alone(case), part)
        loaded = alone(case, tmp_path)
        same_tensors(loaded["first"], first[case]["first"])
