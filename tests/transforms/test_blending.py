"""A blend is one rule at one end and the other at the other, and nothing jumps in between."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from tests.references.problems import assert_resumes, batches, loss_of, network, same_bits, weights

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.transforms.blending import blend

T = rs.transforms


def _pair(weight: object = 0.0) -> rs.Transform:
    return blend(T.scale_by_adam(), rs.chain(T.clip_by_global_norm(1.0), T.trace(0.9)), weight)


def _train(rule: rs.Transform, steps: int = 30) -> list[torch.Tensor]:
    model = network(torch.float64)
    # Fused kernels have other last bits.
    optimizer = rs.optimizer(rule, model, lr=0.01, mode="eager")
    for x in batches(steps):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()
    return weights(model)


def test_at_either_end_it_is_one_of_the_rules_to_the_bit() -> None:
    first, second = rs.chain(T.scale_by_adam()), rs.chain(T.trace(0.9))
    assert same_bits(_train(blend(first, second, 0.0)), _train(first))
    assert same_bits(_train(blend(first, second, 1.0)), _train(second))


def test_one_step_of_it_is_the_mean_of_one_step_of_each() -> None:
    halves = [_train(_pair(w), 1) for w in (0.0, 1.0)]
    for mixed, a, b in zip(_train(_pair(0.25), 1), *halves, strict=True):
        torch.testing.assert_close(mixed, 0.75 * a + 0.25 * b, rtol=1e-12, atol=0)


def test_it_measures_together_and_keeps_pieces_apart() -> None:
    both = blend(T.clip_by_global_norm(0.1), T.clip_by_global_norm(1.0), 0.5)
    assert set(both.hyperparameters) == {"first.max_norm", "second.max_norm", "blend"}
    one = rs.chain(T.clip_by_global_norm(0.1))
    two = rs.chain(T.clip_by_global_norm(1.0))
    for mixed, a, b in zip(_train(both, 1), _train(one, 1), _train(two, 1), strict=True):
        torch.testing.assert_close(mixed, (a + b) / 2, rtol=1e-9, atol=1e-15)


def test_the_second_rule_has_its_state_when_its_turn_comes() -> None:
    model = network(torch.float64)
    optimizer = rs.optimizer(_pair(), model, lr=0.01)
    alone = copy.deepcopy(model)
    other = rs.optimizer(rs.chain(T.scale_by_adam()), alone, lr=0.01)
    for x in batches(20):
        for net, opt in ((model, optimizer), (alone, other)):
            opt.zero_grad()
            loss_of(net, x).backward()
            opt.step()
    state = optimizer.state[next(model.parameters())]
    assert state["second.momentum_buffer"].abs().sum() > 0
    assert set(state) == {"step", "first.exp_avg", "first.exp_avg_sq", "second.momentum_buffer"}


def test_a_hand_over_changes_the_update_a_little_at_a_time() -> None:
    over = 50
    model = network(torch.float64)
    optimizer = rs.optimizer(_pair(), model, lr=0.01)
    (x,) = batches(1)
    moved = []
    for k in range(over + 40):
        optimizer.param_groups[0]["blend"] = min(max(k - 20, 0) / over, 1.0)
        before = weights(model)
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()
        moved.append(
            torch.cat([(a - b).flatten() for a, b in zip(weights(model), before, strict=True)])
        )
    jumps = [float((b - a).norm()) for a, b in pairwise(moved)]
    # No change of the update in the hand-over is larger than those of plain training before it.
    assert max(jumps[20:]) <= max(jumps[5:20])


def test_it_resumes_and_follows_a_schedule() -> None:
    assert_resumes(lambda: _pair(rs.schedules.ramp(0.0, 1.0, steps=10)))


def test_it_compiles_where_both_rules_do() -> None:
    assert blend(T.scale_by_adam(), T.trace(0.9)).scope == "element"


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (lambda: rs.component("adamw").factory(), "has a step size"),
        (lambda: rs.chain(T.ema_weights()), "acts by after"),
        (lambda: rs.chain(T.sam()), "acts by probe"),
        (lambda: rs.chain(T.trace(0.9), T.clip_by_global_norm(1.0)), "has to be the first"),
    ],
)
def test_what_cannot_be_mixed_is_refused(first: object, why: str) -> None:
    with pytest.raises(InputError, match=why):
        blend(first(), T.trace(0.9))  # type: ignore[operator]
