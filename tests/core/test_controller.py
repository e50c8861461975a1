"""The law of controllers: decisions as plain values, what factors mean, when one is asked."""

from __future__ import annotations

import json
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheostat.core.controller import (
    Anchor,
    Controller,
    Decision,
    Grow,
    Limit,
    Move,
    Now,
    Restart,
    RollBack,
    Scale,
    Stop,
    read,
    scaled,
)
from rheostat.core.errors import InputError

DECISIONS: list[Decision] = [
    Scale(hyperparameter="lr", factor=0.5, trial=True, group=1, reason="r", evidence={"z": 7.0}),
    Move(hyperparameter="blend", to=1.0, over=9, reason="r"),
    Limit(norm=math.inf, reason="r", evidence={"norm": math.inf}),
    Restart(state="reset", reason="r"),
    RollBack(before=3, reason="r"),
    Grow(factor=2.0, reason="r"),
    Anchor(reason="r"),
    Stop(reason="r"),
]


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda d: d.kind)
def test_a_decision_survives_strict_json(decision: Decision) -> None:
    text = json.dumps(decision.written(), allow_nan=False)
    assert read(json.loads(text)) == decision


def test_evidence_that_is_no_number_survives_too() -> None:
    again = read(Stop(reason="r", evidence={"loss": math.nan}).written())
    assert math.isnan(again.evidence["loss"])


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ({"kind": "scales"}, "did you mean 'scale'"),
        ({"kind": "scale", "reason": "r"}, "missing 2 required"),
        ({"kind": "limit", "reason": "r", "norm": "wide"}, "could not convert"),
        ({}, "of the kind None"),
    ],
)
def test_what_is_no_decision_is_refused(written: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        read(written)


@given(st.floats(0, 1), st.floats(1 / 64, 64))
def test_a_factor_on_a_momentum_acts_on_how_fast_it_forgets(beta: float, factor: float) -> None:
    found = scaled("momentum", beta, factor)
    assert 0 <= found <= 1
    assert found == pytest.approx(max(0.0, 1 - (1 - beta) * factor))
    assert scaled("lr", beta, factor) == beta * factor
    assert scaled("momentum", beta, 1.0) == beta


def _controller(answer: Any, needs: tuple[str, ...] = ()) -> Controller:
    return Controller(lambda now, memory: answer, needs, acts_on=("lr",), name="c")


def test_it_is_asked_when_something_is_fresh_and_nothing_missing() -> None:
    both = _controller(None, ("a", "b"))

    def now(fresh: str, **signals: float) -> Now:
        return Now(1, True, 1.0, signals, frozenset(fresh))

    assert both.due(now("a", a=1.0, b=2.0))
    assert both.due(now("a", a=math.inf, b=2.0))
    assert not both.due(now("", a=1.0, b=2.0))
    assert not both.due(now("a", a=1.0))
    assert not both.due(now("a", a=1.0, b=math.nan))
    assert both.hears(now("", a=1.0, b=2.0))
    assert _controller(None).due(now(""))


def test_it_may_ask_for_what_it_declares_and_for_nothing_else() -> None:
    now = Now(1, True, 1.0)
    scale, other = (Scale(hyperparameter=n, factor=2.0, reason="r") for n in ("lr", "wd"))
    assert _controller(None).asked(now, {}) == ()
    assert _controller(scale).asked(now, {}) == (scale,)
    assert _controller([scale, Stop(reason="r")]).asked(now, {}) == (scale, Stop(reason="r"))
    with pytest.raises(InputError, match=r"c wants to change 'wd'; it declares acts_on=\('lr',\)"):
        _controller(other).asked(now, {})
    with pytest.raises(InputError, match="which is no decision"):
        _controller([0.5]).asked(now, {})


def test_numbers_of_numpy_and_torch_are_plain_ones_in_a_decision() -> None:
    evidence: Any = {"a": np.float32(2), "b": torch.tensor(3.0)}
    for factor in np.float32(0.5), torch.tensor(0.5), np.int64(2):
        made = Scale(hyperparameter="lr", factor=cast("Any", factor), reason="r", evidence=evidence)
        (found,) = _controller(made).asked(Now(1, True, 1.0), {})
        assert json.loads(json.dumps(found.written())) == {
            **found.written(),
            "factor": float(factor),
            "evidence": {"a": 2.0, "b": 3.0},
        }


def test_switches_groups_and_keys_of_numpy_are_plain_ones_too() -> None:
    fields: Any = {"group": np.int64(1), "trial": np.bool_(True), "evidence": {1: 2.0}}
    made = Scale(hyperparameter="lr", factor=0.5, reason="r", **fields)
    back = RollBack(
        reason="r", on_time=cast("Any", np.bool_(True)), before=cast("Any", np.int64(3))
    )
    scaled, gone_back = _controller([made, back]).asked(Now(1, True, 1.0), {})
    assert json.loads(json.dumps(scaled.written())) == scaled.written()
    assert (scaled.group, scaled.evidence) == (1, {"1": 2.0})
    assert json.loads(json.dumps(gone_back.written())) == gone_back.written()


@pytest.mark.parametrize("before", [math.inf, math.nan, pytest.param(10**400, id="huge"), -1, 0.5])
def test_what_does_not_count_is_told(before: Any) -> None:
    with pytest.raises(InputError, match=r"^c returned RollBack.*: before=.* should be a"):
        _controller(RollBack(reason="r", before=before)).asked(Now(1, True, 1.0), {})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"factor": 10**400}, r"factor=10+ should be a number"),
        ({"factor": "0.5"}, "factor='0.5' should be a number"),
        ({"factor": None}, "factor=None should be a number"),
        ({"factor": torch.ones(2)}, r"factor=tensor.* should be a number"),
        ({"evidence": {"a": "high"}}, "a='high' should be a number"),
        ({"reason": None}, "its reason should be words"),
    ],
)
def test_what_is_no_number_in_a_decision_is_told_with_who_returned_it(
    fields: dict[str, Any], said: str
) -> None:
    made = Scale(**{"hyperparameter": "lr", "factor": 0.5, "reason": "r", **fields})
    with pytest.raises(InputError, match=rf"^c returned Scale.*: {said}"):
        _controller(made).asked(Now(1, True, 1.0), {})


@pytest.mark.parametrize("fields", [{"memory": [1]}, {"priority": "high"}])
def test_a_controller_of_something_else_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"a controller: {next(iter(fields))}="):
        Controller(lambda now, memory: None, **fields)


def test_now_says_what_is_known() -> None:
    now = Now(1, True, 1.0, {"a": 2.0}, shares={"lr": 0.5})
    assert now["a"] == 2.0
    assert math.isnan(now["b"])
    assert (now.share("lr"), now.share("wd")) == (0.5, 1.0)
    assert now.evidence("a") == {"a": 2.0}
