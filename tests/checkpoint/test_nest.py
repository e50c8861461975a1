"""Nests come apart into a document and tensors, and together to the same types and bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.load import newest
from rheostat.checkpoint.nest import put_together, take_apart
from rheostat.checkpoint.save import write


def same(one: Any, other: Any) -> bool:
    """Whether two nests are of the same types and bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


NEST: dict[str, Any] = {
    "plain": [1, 2.5, None, True, "text", float("nan"), -0.0],
    "tuples": ((1, (2,)), [()]),
    "numbered": {0: {"exp_avg": torch.ones(2, dtype=torch.bfloat16)}, (1, "a"): None},
    "tagged": [{"tensor": "a"}, {"tuple": [1]}, {"dict": 3}, {"array": (1,)}],
    "array": np.arange(3, dtype=np.uint32),
    "empty": {},
}


def test_it_comes_back_through_a_checkpoint(directory: Path) -> None:
    tensors: dict[str, Tensor] = {}
    apart = take_apart(NEST, "nest", tensors)
    write(directory, 0, {"nest": tensors}, {"nest": apart})
    found = newest(directory)
    assert found is not None
    assert same(put_together(found.documents["nest"], found.tensors["nest"]), NEST)
    assert set(found.tensors["nest"]) == {"nest.array", "nest.numbered.0.exp_avg"}


@pytest.mark.parametrize(
    "forged", [{"tensor": "x"}, {"tensor": []}, {"tuple": 3}, {"dict": [1]}, {"dict": [[[], 1]]}]
)
def test_what_was_never_taken_apart_is_refused(forged: object) -> None:
    with pytest.raises(DamageError, match="a saved value is not as it is written here"):
        put_together({"a": [forged]}, {})
