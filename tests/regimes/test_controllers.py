"""What every controller keeps: silent where nothing is wrong, bounded whatever comes, resumable."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.references.rig import Rig, make

import rheostat as rs
from rheostat.core.controller import Grow, Scale, read

Stream = Iterator[Mapping[str, Any]]


ARGUMENTS: dict[str, dict[str, Any]] = {
    "adaptive_clipping": {},
    "batch_growth": {"batch": 64},
    "decay_balance": {"by": "ratio", "target": 1e-3},
    "early_stop": {},
    "fresh_start": {},
    "hand_over": {"at": 10**9},
    "loss_trend": {},
    "momentum_damping": {},
    "plateau": {},
    "restart_trigger": {},
    "shift_responder": {},
    "spike_guard": {},
    "starting_rate": {"low": 3e-4},
}
PARTS = {  # the bounds of its own part that a card promises
    "plateau": {"lr": (0.0, 1.0)},
    "loss_trend": {"lr": (1 / 8, 8.0)},
    "momentum_damping": {"momentum": (1.0, 8.0)},
    "decay_balance": {"weight_decay": (1 / 8, 8.0)},
    "spike_guard": {"lr": (1 / 8, 1.0), "max_norm": (1 / 2, 1.0)},
    "starting_rate": {"lr": (1 / 64, 64.0)},
    "shift_responder": {"lr": (1.0, 1.5), "weight_decay": (1.0, 1.5), "pull": (1.0, 1.0)},
}
NAMES = sorted(ARGUMENTS)


def test_the_list_is_whole() -> None:
    ours = [c for c in rs.components("controller") if c.ours]
    assert [c.name for c in ours] == NAMES
    for component in ours:
        assert component.card.missing("controller", component.parameters) == []
        usual = {name: component.card.usual(name) for name in component.parameters}
        for name, default in _defaults(component.factory).items():
            if usual[name] and isinstance(default, int | float):
                low, high = usual[name][0]
                assert low <= default <= high, f"{component.name}: {name} is not usual"


def _defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    from rheostat.core.hyper import arguments_of

    return {name: argument.default for name, argument in arguments_of(factory).items()}


def clean(seed: int, steps: int) -> Stream:
    """Training in which nothing is wrong: a loss that falls by a deviation of its noise in 400
    steps, neighbours of which are alike; gradient norms that are lognormal; and the rest as the
    signals' cards say it then is."""
    noise = random.Random(seed)
    shared = 0.0
    for step in range(steps):
        shared = 0.5 * shared + noise.gauss(0, 0.03)
        yield {
            "loss": 20.0 - 1e-4 * step + shared + noise.gauss(0, 0.03),
            "gradient_norm": math.exp(noise.gauss(0, 0.3)),
            "momentum_cosine": noise.gauss(0.1, 0.1),
            "update_ratio": 1e-3 * math.exp(noise.gauss(0, 0.1)),
            "gradient_noise_scale": 64 * math.exp(noise.gauss(0, 0.5)),
            "page_hinkley": max(0.0, noise.gauss(0, 3)),
            "validation_plateau": float(step % 500),
            "loss_significance": noise.gauss(0, 1),
        }


# In 100,000 steps. A threshold that follows an average may follow its noise a little.
_ALLOWED = {"adaptive_clipping": 10}
_CLEAN = {"max_norm": 1.75}


def false_alarms(name: str, steps: int) -> int:
    stream: Stream = clean(7, steps)
    if name == "starting_rate":  # which looks at the beginning
        stream = ({**step, "loss": step["loss"] + 20 * 0.9**i} for i, step in enumerate(stream))
    rig = Rig(make(name, **ARGUMENTS[name]), **_CLEAN).run(stream)
    return len(rig.decisions)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_silent_while_nothing_is_wrong(name: str) -> None:
    assert false_alarms(name, 5_000) <= _ALLOWED.get(name, 0) / 20


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_silent_for_100_000_steps(name: str) -> None:
    assert false_alarms(name, 100_000) <= _ALLOWED.get(name, 0)


_ANY = st.one_of(
    st.floats(-10, 10),
    st.sampled_from([0.0, 1.0, 1e-3, 50.0, 1e30, math.nan, math.inf, -math.inf]),
)
_SIGNALS = tuple(next(clean(0, 1)))[1:]
_BURSTS = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.fixed_dictionaries({"loss": _ANY, **dict.fromkeys(_SIGNALS, _ANY)}),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
_QUICK: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "adaptive_clipping": {"window": 20, "every": 3},
    "batch_growth": {"batch": 1, "window": 3, "patience": 1, "largest": 64},
    "decay_balance": {"by": "ratio", "target": 1e-3, "every": 5},
    "early_stop": {"patience": 2, "evaluations": 2},
    "hand_over": {"at": 5, "over": 3},
    "loss_trend": {"every": 3},
    "momentum_damping": {"window": 20},
    "plateau": {"window": 16, "patience": 1, "resume": 1},
    "restart_trigger": {"window": 48, "patience": 1, "spacing": 10},
    "shift_responder": {"hold": 10, "rest": 10},
    "spike_guard": {"calm": 10},
    "starting_rate": {"settle": 8},
}


def bursts(found: list[tuple[int, dict[str, float], bool]], seed: int) -> Stream:
    """Clean training, in which stretches of anything come up."""
    source = clean(seed, 400)
    for length, signals, applied in found:
        for _, step in zip(range(40), source, strict=False):
            yield step
        for k in range(length):
            yield {**signals, "applied": applied, "loss": signals["loss"] * (1 + k % 3)}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12)
@given(_BURSTS)
def test_whatever_comes_it_keeps_its_bounds_and_can_be_written_down(
    name: str, found: list[tuple[int, dict[str, float], bool]]
) -> None:
    rig = Rig(make(name, **_QUICK[name]), max_norm=1.0, pull=0.1, blend=0.0)
    for step in bursts(found, 3):
        for decision in rig.feed(**step):
            assert decision.reason
            again = read(json.loads(json.dumps(decision.written(), allow_nan=False)))
            assert again.written() == decision.written()
            if isinstance(decision, Scale | Grow):
                assert 0 < decision.factor < math.inf
        json.dumps(rig.memory)
        for hyperparameter, (low, high) in PARTS.get(name, {}).items():
            assert low * 0.999 <= rig.share(hyperparameter) <= high * 1.001
    assert rig.batch <= 64


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6)
@given(_BURSTS, st.integers(0, 400))
def test_interrupted_anywhere_it_decides_the_same(
    name: str, found: list[tuple[int, dict[str, float], bool]], cut: int
) -> None:
    stream = list(bursts(found, 5))
    controller = make(name, **_QUICK[name])
    plan = {"max_norm": 1.0, "pull": 0.1, "blend": 0.0}
    whole = Rig(controller, **plan).run(stream)
    half = Rig(controller, **plan).run(stream[:cut]).through_json().run(stream[cut:])
    assert half.written() == whole.written()
    assert json.dumps(half.memory) == json.dumps(whole.memory)
