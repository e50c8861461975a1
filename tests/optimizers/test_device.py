"""Where a device counts, the weights are those of the host; shown on the CPU, told to be one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.optimizers.ways import SCHEDULE, STAYS, assert_same, both_ways, give, runs, some_params
from torch import nn

import rheostat as rs
from rheostat.core.errors import RheostatError
from rheostat.core.transform import chain
from rheostat.optimizers import compiled, device
from rheostat.optimizers.loop import Optimizer

pytestmark = pytest.mark.filterwarnings("ignore:.*without the model an embedding")


@pytest.mark.parametrize("name", STAYS)
def test_the_device_steps_to_the_weights_of_the_host(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps that are skipped (the first among them), and counts that differ."""
    host, there = both_ways(monkeypatch, name, bad=(0, 3), mode="eager")
    assert there._roster.resident is not None
    assert host._roster.resident is None
    assert_same(host, there)


@pytest.mark.parametrize("name", [n for n in STAYS if runs(n, "fused")])
def test_fused_kernels_leave_all_as_it_is_where_a_step_is_skipped(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, there = both_ways(monkeypatch, name, bad=(0, 3), mode="fused", lr=SCHEDULE)
    assert_same(host, there)


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("name", ["lion", "lamb", "prodigy", "nadam"])
def test_compiled_kernels_choose_inside(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The graph itself, uncompiled: the compiler's own rounding is not asked for here.
    monkeypatch.setattr(compiled, "_compiled", lambda graph: graph.forward)
    host, there = both_ways(monkeypatch, name, bad=(0, 3), mode="compiled")
    assert_same(host, there)


@pytest.mark.slow
@pytest.mark.usefixtures("by_torch")
def test_a_compiled_kernel_chooses_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    host, there = both_ways(monkeypatch, "lion", bad=(2,), mode="compiled", lr=SCHEDULE)
    assert_same(host, there)


@pytest.mark.parametrize("nonfinite", ["raise", "propagate"])
def test_without_the_skip_no_step_is_in_doubt(
    nonfinite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, there = both_ways(monkeypatch, "adamw", nonfinite=nonfinite, mode="eager", lr=SCHEDULE)
    assert_same(host, there)
    params = some_params()
    opt = rs.optimizer("adamw", params, nonfinite="raise")
    give(params, 0, bad=(0,))
    with pytest.raises(RheostatError, match="gradient of p0 is not finite"):
        opt.step()


def test_pieces_around_a_rule_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = rs.transforms
    rules = [
        lambda: chain(
            pieces.clip_by_global_norm(rs.schedules.cosine(1.0, steps=9)),
            pieces.scale_by_adam(),
            pieces.add_cautious_decay(0.1),
            pieces.scale_by_learning_rate(0.01),
            pieces.box(-0.5, 0.5),
            pieces.ema_weights(0.9, bias_correction=True),
        ),
        lambda: chain(
            pieces.adaptive_gradient_clip(0.1),
            pieces.trace(0.9, 0.5),
            pieces.limit_update_rms(0.5),
            pieces.scale_by_learning_rate(0.01),
            pieces.lookahead(3),
            pieces.max_norm(2.0),
        ),
        lambda: chain(
            pieces.clip_by_percentile(50.0, 4),
            pieces.grokfast_ema(),
            pieces.scale_by_learning_rate(0.01),
            pieces.swa_weights(3, 2),
        ),
        lambda: chain(pieces.clip_by_value(0.5), pieces.scale_by_learning_rate(0.01)),
    ]
    for rule in rules:
        for mode in ("auto", "eager"):
            assert_same(*both_ways(monkeypatch, rule, bad=(0, 3), mode=mode))


@pytest.mark.parametrize("precision", ["plain", "master"])
def test_half_precision_agrees(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = [("p", nn.Parameter(torch.linspace(-1, 1, 40).bfloat16()))]
        opt = rs.optimizer("adafactor_bv", params, lr=0.1, precision=precision)
        for k in range(5):
            bad = float("inf") if k in (0, 2) else 1.0
            params[0][1].grad = torch.linspace(-k, 3, 40).mul(bad).bfloat16()
            opt.step()
        ways.append(opt)
    assert_same(*ways)


def test_the_first_attempt_takes_the_weights_as_they_are_then(on_cpu: None) -> None:
    param = nn.Parameter(torch.zeros(3))
    opt = rs.optimizer("schedule_free_sgd", [param], lr=0.1)
    param.data.fill_(2.0)
    param.grad = torch.zeros(3)
    opt.step()
    assert opt.state[param]["z"].tolist() == [2.0] * 3


def test_float64_gradients_whose_squares_overflow_are_finite(on_cpu: None) -> None:
    param = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    opt = rs.optimizer("signum", [param], lr=0.5)
    for largest, steps in ((1e300, 1), (float("inf"), 1), (1e300, 2)):
        param.grad = torch.tensor([largest, -1.0], dtype=torch.float64)
        opt.step()
        assert opt.last_step is not None
        assert opt.last_step.step == steps
