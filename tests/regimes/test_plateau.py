"""The plateau controller: both directions, and no spike trap."""

from __future__ import annotations

import math

import pytest
import torch
from tests.references.rig import Rig, make, noisy, scales


def test_plateau_lowers_on_a_plateau_and_takes_a_lowering_in_vain_back() -> None:
    rig = Rig(make("plateau", window=50, patience=4))
    for k in range(3000):
        rig.feed(noisy(1.0, k))
    found = scales(rig)
    assert [factor for _, factor in found[:4]] == [0.5, 2.0, 0.5, 2.0]
    assert found[0][0] == 250  # the first window is the reference
    # The wait after each that was in vain is twice as long.
    assert found[2][0] - found[1][0] >= 2 * (found[1][0] - found[0][0])
    assert rig.share() in (0.5, 1.0)


def test_plateau_keeps_a_lowering_that_helps_and_lowers_again() -> None:
    # A noise floor that is proportional to the learning rate, reached within a window.
    rig = Rig(make("plateau", window=50, patience=4))
    for k in range(3000):
        rig.feed(noisy(rig.share(), k, 0.02))
    factors = [factor for _, factor in scales(rig)]
    assert factors[:4] == [0.5] * 4


def test_plateau_raises_again_when_progress_resumes() -> None:
    rig = Rig(make("plateau", window=50, patience=4, resume=3))
    for k in range(260):
        rig.feed(noisy(1.0, k))
    assert rig.share() == 0.5
    for k in range(600):
        rig.feed(noisy(1.0 - 0.002 * k, k))
    assert rig.share() == 1.0


def test_plateau_does_not_fall_into_the_spike_trap() -> None:
    # The loss falls by 2 % in every step. One step reports a far too low loss. torch's rule then
    # never sees a better one, and cuts the rate from 1 to almost nothing.
    losses = [10 * 0.98**k for k in range(400)]
    losses[40] = 1e-6
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([param], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=10)
    for loss in losses:
        theirs.step(loss)
    assert optimizer.param_groups[0]["lr"] < 1e-7
    ours = Rig(make("plateau", window=16, patience=1))
    for loss in losses:
        ours.feed(loss)
    assert ours.decisions == []


@pytest.mark.parametrize("spike", [1e6, -1e6, math.nan, math.inf])
def test_plateau_decides_the_same_with_a_spike_and_without(spike: float) -> None:
    plain, spiked = (Rig(make("plateau", window=50, patience=4)) for _ in range(2))
    for k in range(2000):
        loss = noisy(2.0 - 0.001 * min(k, 1000), k)
        plain.feed(loss)
        spiked.feed(spike if k % 170 == 33 else loss)
    # A value that is not finite is left out, so that windows end later, in other noise.
    late = [scales(rig)[0][0] for rig in (plain, spiked)]
    assert all(1200 <= step <= 1700 for step in late)
    assert scales(spiked)[0][1] == scales(plain)[0][1] == 0.5
    if math.isfinite(spike):
        assert scales(spiked) == scales(plain)


def test_plateau_is_not_held_to_what_was_before_a_shift() -> None:
    rig = Rig(make("plateau", window=50, patience=4))
    for k in range(500):
        rig.feed(noisy(1.0 - 0.001 * k, k))
    for k in range(2000):  # the data are harder now, and are learnt
        rig.feed(noisy(5.0 - 0.001 * k, k))
    assert rig.decisions == []


def test_plateau_watches_what_it_is_told_to() -> None:
    rig = Rig(make("plateau", window=16, patience=2, watch="validation_loss"))
    for k in range(400):
        rig.feed(-float(k), **({"validation_loss": noisy(1.0, k)} if k % 4 == 0 else {}))
    assert scales(rig)[0] == (4 * 48 - 3, 0.5)
