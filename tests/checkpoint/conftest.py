"""A small checkpoint with one tensor of each kind, and a comparison to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rheostat.checkpoint.load import Checkpoint
from rheostat.checkpoint.save import write

Tensors = dict[str, dict[str, Tensor]]
Documents = dict[str, dict[str, Any]]


def content(seed: int = 0) -> tuple[Tensors, Documents]:
    """Tensors and documents that follow from the seed."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, generator=generator)
    tensors: Tensors = {
        "model": {
            "weight": weight,
            "tied": weight,
            "transposed": torch.randn(2, 3, generator=generator).t(),
            "half": torch.randn(5, generator=generator).bfloat16(),
            "scalar": torch.tensor(float(seed), dtype=torch.float64),
            "none": torch.empty(0, 3),
        },
        "optimizer": {
            "step": torch.tensor([seed, 2**40]),
            "mask": torch.tensor([True, False, True]),
            "phase": torch.randn(2, generator=generator, dtype=torch.complex64),
        },
    }
    return tensors, {"run": {"seed": seed, "best": float("inf"), "big": 3**90, "lr": 0.1}}


def save(directory: Path, step: int, seed: int | None = None, score: float | None = None) -> Path:
    """A checkpoint of `content(seed)` (the step, where it is not given)."""
    tensors, documents = content(step if seed is None else seed)
    return write(directory, step, tensors, documents, score=score)


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Assert that the two hold the same, to the bit, NaN included."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        mine, theirs = tensor.resolve_conj(), other[name].resolve_conj()
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), name
        flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (mine, theirs) if t.numel()]
        assert len(flat) in (0, 2), name
        assert not flat or torch.equal(*flat), name


def is_content(found: Checkpoint, seed: int) -> None:
    """Assert that a loaded checkpoint holds `content(seed)`."""
    tensors, documents = content(seed)
    assert found.documents == documents
    assert found.tensors.keys() == tensors.keys()
    for file, named in tensors.items():
        same_tensors(found.tensors[file], named)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where checkpoints go; not made yet."""
    return tmp_path / "run" / "checkpoints"
