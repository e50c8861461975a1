"""The numbers of a released component do not move without a new version."""

from __future__ import annotations

import numpy as np
import pytest
from tests.golden.golden import FOLDER, load, platform, refs, sensitivity, trajectory

ULPS = 4096
"""Elsewhere than where a file was recorded, libraries sum in another order, and twenty steps carry
that on: 2^-11 of the largest weight."""
CARRIED = 4
"""Bases of eigenvectors and products in bfloat16 carry it farther: so many times what they make of
one unit in the last place of the first weights."""


@pytest.mark.parametrize("ref", refs())
def test_the_trajectory_is_the_recorded_one(ref: str) -> None:
    recorded_on, golden = load(ref)
    weights = trajectory(ref)
    if recorded_on == platform():
        assert weights.tobytes() == golden.tobytes(), (
            f"{ref} computes other numbers than it did: give it a new version, or undo the change"
        )
    else:
        off = np.abs(weights - golden).max()
        if off > ULPS * np.finfo(np.float32).eps * np.abs(golden).max():
            assert off <= CARRIED * sensitivity(ref), f"{ref} computes other numbers than it did"


def test_every_golden_file_belongs_to_a_component() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(refs())
