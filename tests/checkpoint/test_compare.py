"""Two checkpoints: every difference by name, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.checkpoint.conftest import content

from rheostat.checkpoint.compare import differences
from rheostat.checkpoint.load import Checkpoint, read
from rheostat.checkpoint.save import write


@pytest.fixture
def one(directory: Path) -> Checkpoint:
    """`content(1)`."""
    return read(write(directory, 1, *content(1)))


def test_the_same_content_has_none_whatever_step_and_time(one: Checkpoint, directory: Path) -> None:
    assert differences(one, read(write(directory, 2, *content(1)))) == []


def test_each_is_named(one: Checkpoint, directory: Path) -> None:
    tensors, documents = content(1)
    model, optimizer = tensors["model"], tensors["optimizer"]
    model["transposed"] = model["transposed"].contiguous()
    model["transposed"][2, 1] += 1
    model["scalar"] = -torch.zeros((), dtype=torch.float64)
    model["half"] = model["half"].float()
    model["extra"] = model.pop("none")
    optimizer["mask"][0] = False
    documents["run"] |= {"seed": True, "lr": 0.10000000000000002, "best": -0.0, "new": [1]}
    del documents["run"]["big"]
    found = differences(one, read(write(directory, 2, tensors, documents)))
    assert found == [
        "model/extra: only in the second",
        "model/half: bfloat16[5] in the first, float32[5] in the second",
        "model/none: only in the first",
        "model/scalar: 1 of 1 elements differ, the first at []",
        "model/transposed: 1 of 6 elements differ, the first at [2, 1]",
        "optimizer/mask: 1 of 3 elements differ, the first at [0]",
        "run.seed: 1 in the first, True in the second",
        "run.best: inf in the first, -0.0 in the second",
        "run.big: only in the first",
        "run.lr: 0.1 in the first, 0.10000000000000002 in the second",
        "run.new: only in the second",
    ]


def test_nan_equals_itself_and_zero_has_a_sign(directory: Path) -> None:
    tensors = {"a": {"t": torch.tensor([float("nan"), 0.0, 1.0])}}
    documents = {"d": {"x": [float("nan"), 0.0], "y": {"z": 1}}}
    first = read(write(directory, 1, tensors, documents))
    assert differences(first, read(write(directory, 1, tensors, documents))) == []
    tensors["a"]["t"][1] *= -1
    documents["d"]["x"] = [float("nan"), -0.0, 3]
    assert differences(first, read(write(directory, 1, tensors, documents))) == [
        "a/t: 1 of 3 elements differ, the first at [1]",
        "d.x: 2 items in the first, 3 in the second",
        "d.x[1]: 0.0 in the first, -0.0 in the second",
    ]
