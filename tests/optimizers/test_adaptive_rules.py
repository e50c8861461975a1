"""What defines the relatives of Adam that work on each element, and the two that look at a norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.references.descent import close, descend, ours, problem
from torch import Tensor, nn

import rheostat as rs


def _moves(name: str, gradients: Tensor, start: float = 0.0, **arguments: Any) -> Tensor:
    """Moves under these gradients (steps × weights), in float64, at a learning rate of 1."""
    param = nn.Parameter(torch.full_like(gradients[0], start, dtype=torch.float64))
    optimizer = rs.optimizer(name, [param], lr=1.0, **{"weight_decay": 0.0, **arguments})
    path = [param.detach().clone()]
    for gradient in gradients:
        param.grad = gradient.double().clone()
        optimizer.step()
        path.append(param.detach().clone())
    return torch.stack(path).diff(dim=0)


def _constant(value: float = 2.0, steps: int = 40) -> Tensor:
    return torch.full((steps, 3), value, dtype=torch.float64)


def _alternating(value: float = 2.0, steps: int = 400) -> Tensor:
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(steps // 2)
    return (signs * value)[:, None].expand(-1, 3)


def test_adabelief_steps_far_where_the_gradient_is_as_predicted() -> None:
    # Adam's step under a constant gradient is lr; here the denominator is what m lags behind by.
    gradients = _constant()
    torch.testing.assert_close(_moves("adamw", gradients), -torch.ones_like(gradients))
    moves = _moves("adabelief", gradients)
    t = torch.arange(1, 41, dtype=torch.float64)
    lag = 2.0 * 0.9**t
    spread = torch.stack(
        [(0.001 * lag[:k].square() * 0.999 ** (k - t[:k])).sum() for k in range(1, 41)]
    )
    expected = -2.0 / (spread / (1 - 0.999**t)).sqrt()
    torch.testing.assert_close(moves[:, 0], expected, rtol=1e-6, atol=0)
    assert (moves[-1] < -2).all()


def test_adabelief_steps_as_adam_where_the_gradient_surprises() -> None:
    gradients = _alternating()
    belief, adam = _moves("adabelief", gradients), _moves("adamw", gradients)
    # m stays near 0 (1/19 of g), so that (g − m)² is near g².
    torch.testing.assert_close(belief[-1], adam[-1], rtol=0.06, atol=0)


def test_adan_is_adam_where_the_gradient_does_not_change() -> None:
    gradients = _constant()
    torch.testing.assert_close(_moves("adan", gradients), -torch.ones_like(gradients))


def test_adan_looks_ahead_along_the_change_of_the_gradient() -> None:
    # At β₁ = β₃ = 0 the second step is g₂ + β₂ v̂ over |g₂ + β₂ d|, where d = g₂ − g₁ = −0.6 and
    # v̂ = (1 − β₂) d / (1 − β₂²).
    moves = _moves("adan", torch.tensor([[1.0], [0.4]]), betas=(0.0, 0.9, 0.0))
    slope = -0.6 * 0.1 / (1 - 0.9**2)
    expected = -(0.4 + 0.9 * slope) / abs(0.4 - 0.9 * 0.6)
    close(moves[:, 0].numpy(), np.array([-1.0, expected]), 1e-6)


def test_adan_proximal_decay_never_overshoots_zero() -> None:
    for decay, expected in ((10.0, 1 / 11), (1e6, 1 / (1 + 1e6))):
        moves = _moves("adan", torch.zeros(1, 2), start=1.0, weight_decay=decay)
        close((1 + moves[0]).numpy(), np.full(2, expected), 1e-12)


def test_adopts_first_step_only_starts_the_second_moment() -> None:
    param = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = rs.optimizer("adopt", [param], lr=1.0)
    param.grad = torch.tensor([0.5, 1e18])
    optimizer.step()
    assert torch.equal(param.detach(), torch.tensor([1.0, -2.0]))
    state = optimizer.state[param]
    assert torch.equal(state["exp_avg"], torch.zeros(2))
    assert state["exp_avg_sq"][0] == 0.25


def test_adopt_divides_by_the_past_alone() -> None:
    # The second step: |g₂ / g₁|, at most 1. Adam's would contain g₂ in the denominator.
    gradients = torch.tensor([[1.0, 1.0, 4.0], [0.5, 7.0, -1.0]])
    moves = _moves("adopt", gradients, betas=(0.0, 0.9))
    close(moves[1].numpy(), np.array([-0.5, -1.0, 0.25]), 1e-12)


def test_ademamix_with_alpha_0_is_adamw() -> None:
    shared: dict[str, Any] = {"lr": 0.01, "eps": 1e-6, "weight_decay": 0.1}
    start, gradient = problem((4, 3))
    mixed = descend(ours("ademamix", betas=(0.8, 0.95, 0.99), alpha=0.0, **shared), start, gradient)
    adam = descend(ours("adamw", betas=(0.8, 0.95), **shared), start, gradient)
    close(mixed, adam, 1e-12)


@given(
    st.floats(0.5, 0.95),
    st.floats(0.99, 0.99999),
    st.integers(1, 50),
    st.integers(1, 200),
)
def test_ademamix_warms_up_along_the_papers_schedules(
    fast: float, slow: float, step: int, warmup: int
) -> None:
    # What was kept of an m₂ of 1 in a step without gradient is β₃ itself.
    param = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = rs.optimizer(
        "ademamix", [param], betas=(fast, 0.999, slow), alpha_warmup=warmup, beta3_warmup=warmup
    )
    state = optimizer.state[param]
    state["step"].fill_(step - 1)
    state["exp_avg_slow"].fill_(1.0)
    state["exp_avg_sq"].fill_(1.0)
    param.grad = torch.zeros(1, dtype=torch.float64)
    optimizer.step()
    share = min(step / warmup, 1.0)
    # Linear in the half-life (ln ½ / ln β − 1 steps), as the authors derive it.
    half_life = (1 - share) * _half_life(fast) + share * _half_life(slow)
    expected = 0.5 ** (1 / (half_life + 1))
    kept = state["exp_avg_slow"].item()
    assert math.isclose(kept, expected, rel_tol=1e-9)
    assert fast - 1e-9 <= kept <= slow + 1e-9
    denominator = math.sqrt(0.999 / (1 - 0.999**step)) + 1e-8
    assert math.isclose(param.item(), -1e-3 * 5 * share * kept / denominator, rel_tol=1e-6)


def _half_life(beta: float) -> float:
    return math.log(0.5) / math.log(beta) - 1


def test_ademamix_keeps_pushing_long_after_the_gradient_vanished() -> None:
    gradients = torch.zeros(300, 1)
    gradients[:10] = 1.0
    slow, fast = _moves("ademamix", gradients)[-1].abs(), _moves("adamw", gradients)[-1].abs()
    assert slow > 1e6 * fast


def test_laprop_without_momentum_is_adam_without_momentum() -> None:
    start, gradient = problem((4, 3))
    shared: dict[str, Any] = {"lr": 0.01, "betas": (0.0, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    close(
        descend(ours("laprop", **shared), start, gradient),
        descend(ours("adamw", **shared), start, gradient),
        1e-12,
    )


def test_laprop_is_bounded_where_adam_is_not() -> None:
    # Momentum that outlives the second moment: Adam still carries the large gradient when its
    # denominator has forgotten it. Momentum of normalised gradients cannot exceed 1 / √(1 − β₂).
    gradients = torch.ones(40, 1, dtype=torch.float64)
    gradients[0] = 1e6
    betas = (0.99, 0.5)
    laprop, adam = _moves("laprop", gradients, betas=betas), _moves("adamw", gradients, betas=betas)
    assert laprop.abs().max() <= 1 / math.sqrt(1 - 0.5) + 1e-9
    assert adam.abs().max() > 1e3


def test_mars_without_correction_is_adamw_of_gradients_clipped_per_parameter() -> None:
    shared: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}
    start, gradient = problem((4, 3))

    def clipped(t: int, w: Any) -> Any:
        slope = gradient(t, w)
        return slope / max(1.0, float(np.linalg.norm(slope)))

    mars = descend(ours("mars", gamma=0.0, **shared), start, gradient)
    close(mars, descend(ours("adamw", **shared), start, clipped), 1e-12)


def test_mars_feeds_adam_the_gradient_extrapolated_from_the_last() -> None:
    # The first moment after two steps shows what Adam got: g₁, then g₂ + γ β₁ / (1 − β₁) (g₂ − g₁).
    param = nn.Parameter(torch.zeros(1))
    optimizer = rs.optimizer("mars", [param], betas=(0.5, 0.9), gamma=0.5)
    for gradient in (0.3, 0.1):
        param.grad = torch.tensor([gradient])
        optimizer.step()
    second = 0.1 + 0.5 * (0.1 - 0.3)
    assert math.isclose(
        optimizer.state[param]["exp_avg"].item(), 0.25 * 0.3 + 0.5 * second, rel_tol=1e-5
    )


def test_stable_adamw_is_adamw_while_the_second_moment_keeps_up() -> None:
    # Gradients that only shrink: g² ≤ v̂, so the RMS is at most 1.
    gradients = torch.linspace(2, 1, 30)[:, None].expand(-1, 3)
    shared: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.1, "start": 1.0}
    torch.testing.assert_close(
        _moves("stable_adamw", gradients, **shared), _moves("adamw", gradients, **shared)
    )


@pytest.mark.parametrize("spike", [1e2, 1e8])
def test_stable_adamw_shortens_a_step_by_how_far_the_second_moment_lags(spike: float) -> None:
    gradients = torch.full((101, 3), 1.0, dtype=torch.float64)
    gradients[-1] = spike
    shared: dict[str, Any] = {"betas": (0.0, 0.99), "weight_decay": 0.1, "start": 1.0}
    stable, plain = (
        _moves("stable_adamw", gradients, **shared),
        _moves("adamw", gradients, **shared),
    )
    corrected = (0.99 * (1 - 0.99**100) + 0.01 * spike**2) / (1 - 0.99**101)
    rms = spike / math.sqrt(corrected)
    assert rms > 5
    torch.testing.assert_close(stable[:-1], plain[:-1])
    torch.testing.assert_close(stable[-1], plain[-1] / rms, rtol=1e-6, atol=0)
