"""Every generator goes on where it was, through a checkpoint, and a misfit changes none."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rheostat.checkpoint.load import newest
from rheostat.checkpoint.rng import rng_state, set_rng_state
from rheostat.checkpoint.save import write
from rheostat.core.errors import InputError

KINDS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


def sources(seed: int) -> dict[str, Any]:
    """One generator of each kind."""
    made: dict[str, Any] = {k: np.random.Generator(getattr(np.random, k)(seed)) for k in KINDS}
    made["legacy"] = np.random.RandomState(seed)
    made["loader"] = torch.Generator().manual_seed(seed)
    return made | {"own": random.Random(seed)}


def draws(own: dict[str, Any]) -> list[object]:
    """A draw of each kind, twice: normals keep half of a pair back."""
    found: list[object] = []
    for _ in range(2):
        found += [random.random(), random.gauss(0, 1), torch.rand(1).item()]
        found += [np.random.normal(), np.random.randint(9)]  # noqa: NPY002 - users call them
        for source in own.values():
            if isinstance(source, torch.Generator):
                found.append(torch.rand(1, generator=source).item())
            elif isinstance(source, random.Random):
                found.append(source.gauss(0, 1))
            else:
                found += (
                    [source.normal(), source.integers(9, dtype=np.uint32)]
                    if hasattr(source, "integers")
                    else [source.normal()]
                )
    return found


def test_all_go_on_where_they_were_through_a_checkpoint(directory: Path) -> None:
    own = sources(3)
    draws(own)
    random.gauss(0, 1)
    np.random.normal()  # noqa: NPY002 - leaves half of a pair
    tensors, document = rng_state(own)
    write(directory, 1, {"rng": tensors}, {"rng": document})
    expected = draws(own)
    found = newest(directory)
    assert found is not None
    fresh = sources(4)
    assert set_rng_state(found.tensors["rng"], found.documents["rng"], fresh) == []
    assert draws(fresh) == expected


def test_taking_the_state_draws_nothing() -> None:
    own = sources(3)
    before = rng_state(own)
    again = rng_state(own)
    assert before[1] == again[1]
    assert all(torch.equal(before[0][name], again[0][name]) for name in before[0])


def test_what_is_missing_is_said() -> None:
    tensors, document = rng_state({"mine": random.Random(0)})
    said = set_rng_state(tensors, document, {"yours": random.Random(0)})
    assert said == [
        "the random state of mine was saved, but mine is not here",
        "no random state of yours was saved",
    ]


@pytest.mark.parametrize(
    ("saved", "here"), [("PCG64", "Philox"), ("own", "PCG64"), ("loader", "own"), ("own", "loader")]
)
def test_a_misfit_is_named_and_changes_nothing(saved: str, here: str) -> None:
    tensors, document = rng_state({"it": sources(1)[saved]})
    own = {"it": sources(2)[here]}
    torch.manual_seed(5)
    before = rng_state(own)
    torch.manual_seed(6)
    untouched = rng_state(own)
    with pytest.raises(InputError, match="'it' does not fit"):
        set_rng_state(tensors, document, own)
    after = rng_state(own)
    assert after[1] == untouched[1] == before[1]
    assert all(torch.equal(after[0][name], untouched[0][name]) for name in after[0])


def test_the_names_of_the_global_ones_are_taken() -> None:
    with pytest.raises(InputError, match="'numpy' is saved anyway"):
        rng_state({"numpy": random.Random(0)})
