"""The spike guard: escalates, takes back, and tells a spike from a new level."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from tests.references.rig import Rig, make

from rheostat.core.controller import Decision, Limit, RollBack


def _calm(rig: Rig, steps: int) -> list[Decision]:
    noise = random.Random(rig.steps)
    found: list[Decision] = []
    for _ in range(steps):
        norm = math.exp(noise.gauss(0, 0.2))
        found += rig.feed(noise.gauss(1, 0.1), gradient_norm=norm)
    return found


def test_spike_guard_escalates_and_takes_back_one_by_one() -> None:
    rig = Rig(make("spike_guard", spacing=5, calm=50), max_norm=1.0)
    assert _calm(rig, 100) == []
    taken: list[Decision] = []
    for _ in range(5 * 6):
        taken += rig.feed(1.0, gradient_norm=100.0)
    kinds = [(d.kind, getattr(d, "hyperparameter", None)) for d in taken]
    assert kinds == [
        ("limit", None),
        ("limit", None),  # lifted: clipping takes its place
        ("scale", "max_norm"),
        *[("scale", "lr")] * 3,
        ("roll_back", None),
    ]
    assert isinstance(taken[0], Limit)
    assert 2 < taken[0].norm < 20
    assert rig.share("lr") == 1 / 8
    back = _calm(rig, 300)
    assert [d.kind for d in back] == ["scale"] * 4
    assert rig.share("lr") == rig.share("max_norm") == 1.0
    assert _calm(rig, 300) == []


def test_spike_guard_skips_and_lowers_where_nothing_clips() -> None:
    rig = Rig(make("spike_guard", spacing=5, calm=50))
    _calm(rig, 100)
    for _ in range(10):
        rig.feed(1.0, applied=False, gradient_norm=100.0)
    assert rig.kinds() == ["limit", "scale"]
    assert [d.kind for d in _calm(rig, 150)] == ["scale", "limit"]
    last = rig.decisions[-1][1]
    assert isinstance(last, Limit)
    assert last.norm == math.inf


@pytest.mark.parametrize("where", ["gradient", "loss", "inf"])
def test_spike_guard_sees_spikes_of_either_kind(where: str) -> None:
    rig = Rig(make("spike_guard"))
    _calm(rig, 100)
    spike = {
        "gradient": {"loss": 1.0, "gradient_norm": 50.0},
        "loss": {"loss": 9.0, "gradient_norm": 1.0},
        "inf": {"loss": math.nan, "gradient_norm": math.inf},
    }[where]
    for _ in range(3):
        rig.feed(**spike)
    assert rig.kinds() == ["limit"]


def test_spike_guard_learns_a_new_level() -> None:
    rig = Rig(make("spike_guard", calm=20))
    _calm(rig, 100)
    noise = random.Random(0)
    for _ in range(400):
        rig.feed(1.0, gradient_norm=100 * math.exp(noise.gauss(0, 0.2)))
    assert rig.share("lr") == 1.0
    assert isinstance(rig.decisions[-1][1], Limit)
    assert rig.decisions[-1][1].norm == math.inf


def test_spike_guard_takes_a_restart_of_the_schedule_for_none() -> None:
    rig = Rig(make("spike_guard"))
    rig.planned["lr"] = 0.001
    _calm(rig, 100)
    rig.planned["lr"] = 0.1
    noise = random.Random(0)
    for _ in range(100):
        rig.feed(noise.gauss(3, 0.1), gradient_norm=20 * math.exp(noise.gauss(0, 0.2)))
    assert rig.decisions == []


def test_a_rollback_is_the_last_means() -> None:
    rig = Rig(make("spike_guard", spacing=2))
    _calm(rig, 100)
    for _ in range(60):
        rig.feed(1e3, gradient_norm=1e3)
    kinds = rig.kinds()
    assert kinds[:5] == ["limit", "scale", "scale", "scale", "roll_back"]
    back = [s for s, d in rig.decisions if isinstance(d, RollBack)]
    assert all(b - a >= 20 for a, b in pairwise(back))
