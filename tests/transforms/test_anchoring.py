"""Pulls: the penalty of the papers, written into a loss, gives the same steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.references.problems import (
    assert_resumes,
    assert_takes_odd_parameters,
    batches,
    loss_of,
    network,
    weights,
)
from torch import Tensor

import rheostat as rs
from rheostat.transforms.anchoring import anchor

T = rs.transforms
LR = 0.05


def _pulled(rule: Callable[[], rs.Transform], anchors: tuple[int, ...]) -> list[Tensor]:
    model = network()
    optimizer = rs.optimizer(rs.chain(rule()), model, lr=LR)
    for k, x in enumerate(batches(40)):
        if k in anchors:
            assert all(anchor(p, optimizer.state[p]) for p in model.parameters())
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()
    return weights(model)


def _penalised(anchors: tuple[int, ...], *, pull: float, by_importance: bool) -> list[Tensor]:
    """SGD on the loss with the penalty in it, by autograd; importance as a plain weighted mean."""
    model = network()
    reference = weights(model)
    params = list(model.parameters())
    importance = [torch.zeros_like(p) if by_importance else torch.ones_like(p) for p in params]
    history: list[list[Tensor]] = []
    for k, x in enumerate(batches(40)):
        if k in anchors:
            reference = weights(model)
            if by_importance:
                share = torch.tensor([0.9 ** (len(history) - 1 - i) for i in range(len(history))])
                share = (share / share.sum()).double()
                squares = [torch.stack(of).square() for of in zip(*history, strict=True)]
                importance = [
                    before + torch.tensordot(share, of, dims=1)
                    for before, of in zip(importance, squares, strict=True)
                ]
        gradients = torch.autograd.grad(loss_of(model, x), params)
        history.append([g.clone() for g in gradients])
        penalty = sum(
            (f * (p - r).square()).sum()
            for f, p, r in zip(importance, params, reference, strict=True)
        )
        total = torch.autograd.grad(loss_of(model, x) + pull / 2 * penalty, params)
        with torch.no_grad():
            for p, g in zip(params, total, strict=True):
                p.sub_(LR * g)
    return weights(model)


@pytest.mark.parametrize("anchors", [(), (15,), (10, 30)])
def test_l2_sp_is_the_penalty_on_the_distance(anchors: tuple[int, ...]) -> None:
    found = _pulled(lambda: T.pull_towards(0.3), anchors)
    expected = _penalised(anchors, pull=0.3, by_importance=False)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("anchors", [(), (15,), (10, 30)])
def test_ewc_is_the_penalty_weighted_by_squared_gradients(anchors: tuple[int, ...]) -> None:
    found = _pulled(lambda: T.pull_by_importance(50.0, 0.9), anchors)
    expected = _penalised(anchors, pull=50.0, by_importance=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_what_was_learnt_is_held() -> None:
    # Trained on one target, then on another: the pull keeps the loss on the first one lower.
    def after(rule: rs.Transform) -> float:
        model = network()
        optimizer = rs.optimizer(rule, model, lr=LR)
        for k, x in enumerate(batches(400)):
            if k == 200:
                for p in model.parameters():
                    anchor(p, optimizer.state[p])
            optimizer.zero_grad()
            wanted = 2 * x[:, :3].sin() if k < 200 else 2 * x[:, 3:6].sin()
            (model(x) - wanted).square().mean().backward()
            optimizer.step()
        return sum(loss_of(model, x).item() for x in batches(20, 1000))

    free = after(rs.chain(T.pull_towards(0.0)))
    assert after(rs.chain(T.pull_towards(1.0))) < 0.7 * free
    assert after(rs.chain(T.pull_by_importance(100.0))) < 0.7 * free


def test_without_a_pull_there_is_no_anchor() -> None:
    model = network()
    optimizer = rs.optimizer("adamw", model)
    assert not any(anchor(p, optimizer.state[p]) for p in model.parameters())


@pytest.mark.parametrize("make", [T.pull_towards, T.pull_by_importance])
def test_they_resume_and_take_odd_parameters(make: Callable[[], rs.Transform]) -> None:
    assert_resumes(lambda: rs.chain(make(), T.scale_by_adam()))
    assert_takes_odd_parameters(lambda: rs.chain(make(), T.scale_by_adam()))
