"""What controllers read is what signals measure: by name, with all that stands behind it."""

from __future__ import annotations

from typing import Any

import pytest

import rheostat as rs
from rheostat.core.signal import Signal
from rheostat.signals.order import named

REQUIRED: dict[str, list[dict[str, Any]]] = {
    "batch_growth": [{"batch": 32}],
    "decay_balance": [{"updates_per_epoch": 100}, {"by": "ratio", "target": 1e-3}],
    "hand_over": [{"at": 100}],
    "shift_responder": [{"watch": "page_hinkley"}, {"watch": "kolmogorov_smirnov"}],
}
"""Arguments of the controllers that cannot do without, or that read other signals by them."""

READS = {
    "adaptive_clipping": {"gradient_norm"},
    "batch_growth": {"gradient_noise_scale"},
    "decay_balance": {"update_ratio"},
    "early_stop": {"validation_plateau"},
    "fresh_start": set[str](),
    "hand_over": set[str](),
    "loss_trend": {"loss_significance"},
    "momentum_damping": {"momentum_cosine"},
    "plateau": set[str](),
    "restart_trigger": {"gradient_norm"},
    "shift_responder": {"page_hinkley", "kolmogorov_smirnov"},
    "spike_guard": {"gradient_norm"},
    "starting_rate": {"update_ratio"},
}

TOLD = {
    "batch_growth": {"small_square", "large_square", "small_size", "large_size"},
    "early_stop": {"validation"},
}
"""What the loop has to report for them; the others wait for nothing."""


def needs(name: str) -> set[str]:
    made = [rs.component(name).factory(**given) for given in REQUIRED.get(name, [{}])]
    return {signal for controller in made for signal in controller.needs}


def behind(names: set[str]) -> dict[str, Signal]:
    """The signals of these names, and those that they need themselves."""
    found: dict[str, Signal] = {}
    while names - set(found):
        for name in names - set(found):
            found[name] = rs.component(name, "signal").factory()
        names = names | {need for signal in found.values() for need in signal.needs}
    return found


def test_every_controller_is_here() -> None:
    assert sorted(READS) == [c.name for c in rs.components("controller") if c.ours]


@pytest.mark.parametrize("name", READS)
def test_what_a_controller_reads_is_measured(name: str) -> None:
    assert needs(name) == READS[name]
    signals = behind(needs(name))
    assert set(named(signals)) == set(signals)  # a monitor takes them, in some order
    reported = {told for signal in signals.values() for told in signal.reported}
    assert reported == TOLD.get(name, set())
    for signal in signals.values():
        assert signal.every == 1, "a regime is asked after each step"
