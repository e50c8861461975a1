"""Masked, centred, projected, filtered, noisy and limited updates, each against its formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.references.problems import (
    assert_resumes,
    assert_takes_odd_parameters,
    network,
    same_bits,
    train,
    weights,
)
from torch import Tensor, nn

import rheostat as rs
from rheostat.optimizers.adamw import adamw

Make = Callable[[], rs.Transform]
LR = rs.transforms.scale_by_learning_rate
BEFORE_THE_RULE: dict[str, Make] = {
    "centralize": rs.transforms.centralize_gradient,
    "orthogonal": rs.transforms.orthogonal_gradient,
    "noise": lambda: rs.transforms.add_noise(1e-4),
    "grokfast": lambda: rs.transforms.grokfast_ema(0.9, 1.0),
}
AFTER_THE_RULE: dict[str, Make] = {
    "cautious": rs.transforms.cautious_update,
    "rms": lambda: rs.transforms.limit_update_rms(0.5),
}


def _made(name: str) -> rs.Transform:
    if name in BEFORE_THE_RULE:
        return rs.chain(BEFORE_THE_RULE[name](), adamw(lr=1e-2))
    return rs.chain(rs.transforms.scale_by_adam(), AFTER_THE_RULE[name](), LR(1e-2))


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _moves(rule: rs.Transform, start: Tensor, gradients: list[Tensor]) -> list[Tensor]:
    """What every step with lr 1 takes off."""
    param = nn.Parameter(start.clone())
    optimizer = rs.optimizer(rule, [("w", param)], lr=1.0)
    moves: list[Tensor] = []
    for gradient in gradients:
        param.grad = gradient.clone()
        before = param.detach().clone()
        optimizer.step()
        assert torch.equal(param.grad, gradient)
        moves.append(before - param.detach())
    return moves


def test_cautious_keeps_what_agrees_with_the_gradient_and_rescales() -> None:
    start, gradients = _random((4, 5), 0), [_random((4, 5), k) for k in range(1, 20)]
    rule = rs.chain(rs.transforms.trace(0.9), rs.transforms.cautious_update())
    momentum = np.zeros((4, 5))
    for gradient, move in zip(gradients, _moves(rule, start, gradients), strict=True):
        momentum = 0.9 * momentum + gradient.numpy()
        mask = momentum * gradient.numpy() > 0
        expected = momentum * mask / max(mask.mean(), 1e-3)
        np.testing.assert_allclose(move, expected, rtol=1e-9, atol=1e-12)
        assert (move * gradient >= 0).all(), "no coordinate goes up its gradient"


def test_cautious_is_idle_where_all_agree() -> None:
    gradient = _random((3, 3), 1).abs()
    rule = rs.chain(rs.transforms.trace(0.9), rs.transforms.cautious_update())
    plain = rs.chain(rs.transforms.trace(0.9))
    start = torch.zeros(3, 3, dtype=torch.float64)
    found, expected = (_moves(one, start, [gradient] * 5) for one in (rule, plain))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [(4, 5), (3, 2, 3, 3)])
def test_centralised_updates_have_mean_0_per_output(shape: tuple[int, ...]) -> None:
    start, gradient = _random(shape, 0), _random(shape, 1) + 1
    (move,) = _moves(rs.chain(rs.transforms.centralize_gradient()), start, [gradient])
    flat = gradient.reshape(shape[0], -1).numpy()
    expected = flat - flat.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(move.reshape(shape[0], -1), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(move.reshape(shape[0], -1).mean(1), 0, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (6,)])
def test_centralisation_leaves_vectors_and_scalars_alone(shape: tuple[int, ...]) -> None:
    zero, gradient = torch.zeros(shape, dtype=torch.float64), _random(shape, 1)
    (move,) = _moves(rs.chain(rs.transforms.centralize_gradient()), zero, [gradient])
    assert torch.equal(move, gradient)


@pytest.mark.parametrize("rescale", [True, False])
def test_orthogonal_updates_leave_the_norm_of_the_weights_to_first_order(rescale: bool) -> None:
    start, gradient = _random((4, 5), 0), _random((4, 5), 1)
    rule = rs.chain(rs.transforms.orthogonal_gradient(rescale))
    (move,) = _moves(rule, start, [gradient])
    w, g = start.numpy().ravel(), gradient.numpy().ravel()
    expected = g - (w @ g) / (w @ w) * w
    if rescale:
        expected *= np.sqrt(g @ g) / np.sqrt(expected @ expected)
    np.testing.assert_allclose(move.numpy().ravel(), expected, rtol=1e-9, atol=1e-12)
    assert abs(w @ move.numpy().ravel()) < 1e-12


@pytest.mark.parametrize("shape", [(), (1,), (7,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_update_along_the_weights_becomes_nothing_not_amplified_rounding(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    start = (_random(shape, 5) * 3).to(dtype)
    (move,) = _moves(rs.chain(rs.transforms.orthogonal_gradient()), start, [start * 1.7])
    torch.testing.assert_close(move, torch.zeros_like(move), rtol=0, atol=1e-5)


def test_weights_of_zero_have_no_direction_to_remove() -> None:
    gradient = _random((3, 2), 1)
    zero = torch.zeros(3, 2, dtype=torch.float64)
    (move,) = _moves(rs.chain(rs.transforms.orthogonal_gradient()), zero, [gradient])
    torch.testing.assert_close(move, gradient)


def test_noise_has_the_annealed_variance_and_follows_from_the_seed() -> None:
    zero = torch.zeros(200, 200, dtype=torch.float64)
    eta, gamma = 0.3, 0.55
    rule = rs.chain(rs.transforms.add_noise(eta, gamma))
    moves = _moves(rule, zero, [zero] * 9)
    for step, move in enumerate(moves, 1):
        expected = (eta / step**gamma) ** 0.5
        assert float(move.std()) == pytest.approx(expected, rel=0.02)  # 40,000 draws: ±0.35 %
        assert abs(float(move.mean())) < 5 * expected / 200
    together = torch.corrcoef(torch.stack([move.flatten() for move in moves]))
    assert float((together - torch.eye(9)).abs().max()) < 0.03, "draws of different steps"
    assert same_bits(moves, _moves(rs.chain(rs.transforms.add_noise(eta, gamma)), zero, [zero] * 9))


def test_noise_differs_between_parameters_and_seeds() -> None:
    def drawn(seed: int) -> list[Tensor]:
        params = [(name, nn.Parameter(torch.zeros(50))) for name in ("a", "b")]
        optimizer = rs.optimizer(rs.chain(rs.transforms.add_noise()), params, lr=1.0, seed=seed)
        for _, param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
        return [param.detach() for _, param in params]

    (a, b), (c, _) = drawn(0), drawn(1)
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)
    assert same_bits([a, b], drawn(0))


def test_noise_is_the_same_however_a_parameter_lies_in_memory() -> None:
    moves: list[Tensor] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        param = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=layout))
        optimizer = rs.optimizer(rs.chain(rs.transforms.add_noise()), [("a", param)], lr=1.0)
        param.grad = torch.zeros_like(param)
        optimizer.step()
        moves.append(param.detach().contiguous())
    assert same_bits(moves[:1], moves[1:])


def test_the_rms_of_an_update_is_limited_and_a_smaller_one_untouched() -> None:
    start, gradient = torch.zeros(4, 5, dtype=torch.float64), _random((4, 5), 1)
    rms = float(gradient.square().mean().sqrt())
    for limit, expected in ((rms / 3, gradient / 3), (rms * 3, gradient)):
        (move,) = _moves(rs.chain(rs.transforms.limit_update_rms(limit)), start, [gradient])
        torch.testing.assert_close(move, expected, rtol=1e-12, atol=0)
        assert float(move.square().mean().sqrt()) <= limit * (1 + 1e-12)


def test_grokfast_equals_the_authors_filter_before_adamw() -> None:
    alpha, lamb = 0.9, 1.5
    mine, other = network(), network()
    rule = rs.chain(rs.transforms.grokfast_ema(alpha, lamb), adamw(lr=1e-2))
    train(mine, rs.optimizer(rule, mine), 50)
    peer = torch.optim.AdamW(other.parameters(), lr=1e-2)
    means: dict[int, Tensor] = {}

    def amplify(*_: Any) -> None:
        for i, param in enumerate(other.parameters()):
            assert param.grad is not None
            old = means.get(i, param.grad)  # begins at the first gradient
            means[i] = alpha * old + (1 - alpha) * param.grad
            param.grad = param.grad + lamb * means[i]

    peer.register_step_pre_hook(amplify)
    train(other, peer, 50)
    torch.testing.assert_close(weights(mine), weights(other), rtol=1e-10, atol=1e-11)


def test_a_steady_gradient_is_amplified_at_once_and_an_alternating_one_not() -> None:
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    rule = rs.chain(rs.transforms.grokfast_ema(0.98, 2.0))
    for move in _moves(rule, zero, [one] * 5):
        torch.testing.assert_close(move, 3 * one)
    rule = rs.chain(rs.transforms.grokfast_ema(0.98, 2.0))
    moves = _moves(rule, zero, [one * (-1) ** k for k in range(400)])
    torch.testing.assert_close(moves[-1], -one, rtol=0.03, atol=0)


@pytest.mark.parametrize("name", [*BEFORE_THE_RULE, *AFTER_THE_RULE])
def test_resumes_and_takes_odd_parameters(name: str) -> None:
    assert_resumes(lambda: _made(name))
    assert_takes_odd_parameters(lambda: _made(name))


@pytest.mark.parametrize("name", [*BEFORE_THE_RULE, *AFTER_THE_RULE])
def test_a_late_first_gradient_is_a_first_gradient(name: str) -> None:
    late, fresh, early = (nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)) for _ in range(3))
    ours = rs.optimizer(_made(name), [("early", early), ("w", late)])
    alone = rs.optimizer(_made(name), [("w", fresh)])
    for _ in range(30):
        early.grad = torch.full_like(early, 0.3)
        ours.step()
    for k in range(5):
        late.grad = fresh.grad = torch.linspace(0.5, 2, 6).reshape(2, 3).cos() * k
        ours.step()
        alone.step()
        assert torch.equal(late, fresh)
