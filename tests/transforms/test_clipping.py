"""Clipping by value, norm, ratio and history: the factors of torch, and what each one bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.references.problems import (
    assert_resumes,
    assert_takes_odd_parameters,
    batches,
    loss_of,
    network,
    train,
    weights,
)
from torch import Tensor, nn

import rheostat as rs
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.policy import match, policy
from rheostat.optimizers.sgd import sgd
from rheostat.transforms.clipping import _percentile

clips: dict[str, Any] = {
    "value": lambda: rs.transforms.clip_by_value(0.01),
    "norm": lambda: rs.transforms.clip_by_norm(0.05),
    "global_norm": lambda: rs.transforms.clip_by_global_norm(0.1),
    "adaptive": lambda: rs.transforms.adaptive_gradient_clip(0.02),
    "percentile": lambda: rs.transforms.clip_by_percentile(30.0, window=7),
}


def _update(piece: rs.Transform, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """What one step of SGD with lr 1 behind the piece takes off: (parameter, gradient) pairs."""
    params = [nn.Parameter(param.clone()) for param, _ in pairs]
    optimizer = rs.optimizer(rs.chain(piece, sgd(lr=1.0)), params)
    for param, (_, gradient) in zip(params, pairs, strict=True):
        param.grad = gradient.clone()
    optimizer.step()
    for param, (_, gradient) in zip(params, pairs, strict=True):
        assert param.grad is not None
        assert torch.equal(param.grad, gradient), "the gradient was written to"
    return [old - new.detach() for (old, _), new in zip(pairs, params, strict=True)]


def _torch_global(params: list[nn.Parameter]) -> None:
    torch.nn.utils.clip_grad_norm_(params, 0.1)


def _torch_each(params: list[nn.Parameter]) -> None:
    for param in params:
        torch.nn.utils.clip_grad_norm_([param], 0.05)


def _torch_value(params: list[nn.Parameter]) -> None:
    torch.nn.utils.clip_grad_value_(params, 0.01)


@pytest.mark.parametrize(
    ("name", "clip"),
    [("global_norm", _torch_global), ("norm", _torch_each), ("value", _torch_value)],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_a_chain_equals_torchs_clip_and_step(
    name: str, clip: Any, dtype: torch.dtype, rule: str
) -> None:
    mine, other = network(dtype), network(dtype)
    if rule == "adamw":
        made, peer = adamw(lr=1e-2), torch.optim.AdamW(other.parameters(), lr=1e-2)
    else:
        made = sgd(lr=0.1, momentum=0.9)
        peer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    train(mine, rs.optimizer(rs.chain(clips[name](), made), mine), 50)
    clipped = 0
    for x in batches(50):
        peer.zero_grad()
        loss_of(other, x).backward()
        before = [param.grad.clone() for param in other.parameters() if param.grad is not None]
        clip(list(other.parameters()))
        clipped += any(
            not torch.equal(old, param.grad)
            for old, param in zip(before, other.parameters(), strict=True)
            if param.grad is not None
        )
        peer.step()
    assert clipped > 10, "the problem has gradients to clip"
    tolerance = 1e-11 if dtype == torch.float64 else 5e-5
    torch.testing.assert_close(weights(mine), weights(other), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["value", "norm", "global_norm", "adaptive"])
def test_what_is_small_enough_passes_untouched(name: str) -> None:
    pairs = [(torch.ones(3, 4), torch.full((3, 4), 1e-4)), (torch.zeros(5), torch.zeros(5))]
    for moved, (_, gradient) in zip(_update(clips[name](), pairs), pairs, strict=True):
        torch.testing.assert_close(moved, gradient, rtol=0, atol=1e-7)


def test_the_global_norm_runs_over_groups_and_over_the_rules_of_a_policy() -> None:
    a, b = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    a.grad, b.grad = torch.full((2, 2), 2.0), torch.tensor([3.0, 0.0])  # norms 4 and 3: 5 together
    rules = policy(match(sgd(lr=1.0), role="matrix"), match(sgd(lr=10.0)))
    rs.optimizer(rules.after(rs.transforms.clip_by_global_norm(1.0)), [a, b]).step()
    torch.testing.assert_close(a.detach(), torch.full((2, 2), -0.4), rtol=1e-5, atol=0)
    torch.testing.assert_close(b.detach(), torch.tensor([-6.0, 0.0]), rtol=1e-5, atol=0)

    groups = [{"params": [a]}, {"params": [b], "lr": 0.0}]
    clip = rs.transforms.clip_by_global_norm(1.0)
    before = a.detach().clone()
    rs.optimizer(rs.chain(clip, sgd(lr=1.0)), groups).step()
    torch.testing.assert_close(before - a.detach(), torch.full((2, 2), 0.4), rtol=1e-5, atol=0)


def test_the_place_in_the_chain_says_what_is_clipped() -> None:
    def last_move(*pieces: rs.Transform) -> float:
        param = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = rs.optimizer(rs.chain(*pieces), [param], lr=1.0)
        for _ in range(20):
            before = param.item()
            param.grad = torch.full((1,), 10.0, dtype=torch.float64)
            optimizer.step()
        return before - param.item()

    def pieces() -> tuple[rs.Transform, rs.Transform]:
        return rs.transforms.clip_by_norm(1.0), rs.transforms.trace(0.5)

    clip, momentum = pieces()
    assert last_move(clip, momentum) == pytest.approx(2.0, rel=1e-5)
    clip, momentum = pieces()
    assert last_move(momentum, clip) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (4, 2, 3, 3)])
def test_agc_bounds_every_unit_by_its_own_weights(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    param = torch.randn(shape, generator=generator, dtype=torch.float64)
    gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
    if len(shape) > 1:
        gradient[0] *= 1e-4  # a unit below its limit
        param[1] = 0.0  # and one that has only clip_eps to go by
    factor, least = 0.05, 1e-2
    (moved,) = _update(rs.transforms.adaptive_gradient_clip(factor, least), [(param, gradient)])

    rows = shape[0] if len(shape) > 1 else 1
    w, g = param.reshape(rows, -1).numpy(), gradient.reshape(rows, -1).numpy()
    expected = g.copy()
    for i in range(rows):
        limit = factor * max(np.sqrt((w[i] ** 2).sum()), least)
        size = np.sqrt((g[i] ** 2).sum())
        if size > limit:
            expected[i] = g[i] * limit / size
    np.testing.assert_allclose(moved.reshape(rows, -1), expected, rtol=1e-10, atol=1e-15)
    assert (expected != g).any()


def test_percentile_follows_numpys_over_a_window_of_global_norms() -> None:
    percentile, window = 35.0, 6
    piece = rs.transforms.clip_by_percentile(percentile, window)
    early, late = (nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    optimizer = rs.optimizer(rs.chain(piece, sgd(lr=1.0)), [early, late])
    norms: list[float] = []
    for k in range(25):
        joins = k >= 10
        early.grad = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64) * (2 + np.sin(3 * k))
        late.grad = early.grad * 2 if joins else None
        norms.append(float(early.grad.norm()) * (5**0.5 if joins else 1.0))
        before = early.detach().clone(), late.detach().clone()
        optimizer.step()
        for param, old, first in ((early, before[0], 0), (late, before[1], 10)):
            if param.grad is None:
                assert torch.equal(param, old)
                continue
            seen = norms[first:][-window:]
            factor = min(1.0, np.percentile(seen, percentile) / (norms[-1] + 1e-6))
            torch.testing.assert_close(old - param.detach(), param.grad * factor)
    assert optimizer.state[early]["update_norms"].shape == (window,)


def test_the_place_of_a_percentile_is_exact() -> None:
    norms = torch.arange(1000, dtype=torch.float64).square()
    for percentile in (12.34567, 33.3, 99.9):
        found = _percentile(norms, percentile / 100).item()
        assert found == pytest.approx(np.percentile(norms.numpy(), percentile), rel=1e-12)


def test_percentile_100_clips_nothing_and_a_steady_norm_stays() -> None:
    for percentile, scale in ((100.0, 1.5), (10.0, 1.0)):
        piece = rs.transforms.clip_by_percentile(percentile)
        param = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = rs.optimizer(rs.chain(piece, sgd(lr=1.0)), [param])
        total = torch.zeros_like(param)
        for k in range(8):
            param.grad = torch.tensor([3.0, 4.0], dtype=torch.float64) * scale**k
            total += param.grad
            optimizer.step()
        torch.testing.assert_close(-param.detach(), total, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["value", "norm", "global_norm"])
def test_sparse_gradients_are_clipped_as_dense_ones(name: str) -> None:
    found: list[Tensor] = []
    for sparse in (True, False):
        embedding = nn.Embedding(6, 3, sparse=sparse)
        with torch.no_grad():
            embedding.weight.copy_(torch.arange(18.0).reshape(6, 3) / 10)
        rule = rs.chain(clips[name](), rs.transforms.scale_by_learning_rate(0.5))
        optimizer = rs.optimizer(rule, embedding)
        for _ in range(5):
            optimizer.zero_grad()
            embedding(torch.tensor([1, 4, 1])).square().sum().backward()
            optimizer.step()
        found.append(embedding.weight.detach())
    torch.testing.assert_close(found[0], found[1])
    assert torch.equal(found[0][0], torch.tensor([0.0, 0.1, 0.2]))


@pytest.mark.parametrize("name", clips)
def test_resumes_and_takes_odd_parameters(name: str) -> None:
    assert_resumes(lambda: rs.chain(clips[name](), adamw(lr=1e-2)))
    assert_takes_odd_parameters(lambda: rs.chain(clips[name](), adamw(lr=1e-2)))
