"""What defines the rules that know layers or blocks (LAMB, LARS, NovoGrad, Adam-mini); MADGRAD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.references.descent import close, descend, ours, problem
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError


def _gradients(count: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_lamb_moves_a_layer_by_lr_times_its_norm(weight_decay: float, scale: float) -> None:
    layers = [nn.Parameter(gradient * scale) for gradient in _gradients(3, 4, 5)]
    optimizer = rs.optimizer("lamb", layers, lr=0.01, weight_decay=weight_decay)
    for gradient in _gradients(20, 4, 5):
        before = [layer.detach().clone() for layer in layers]
        for k, layer in enumerate(layers):
            layer.grad = gradient * 10.0**k
        optimizer.step()
        for old, layer in zip(before, layers, strict=True):
            moved = (layer.detach() - old).norm()
            torch.testing.assert_close(moved, 0.01 * old.norm(), rtol=1e-9, atol=0)


def test_lars_moves_a_layer_by_a_share_of_its_norm_whatever_the_gradient() -> None:
    layer = nn.Parameter(_gradients(1, 4, 5)[0])
    optimizer = rs.optimizer("lars", [layer], lr=2.0, momentum=0.0, trust_coefficient=0.01)
    for k, gradient in enumerate(_gradients(20, 4, 5)):
        before = layer.detach().clone()
        layer.grad = gradient * 10.0 ** (k - 10)
        optimizer.step()
        moved = (layer.detach() - before).norm()
        torch.testing.assert_close(moved, 2.0 * 0.01 * before.norm(), rtol=1e-9, atol=0)


def test_lars_carries_the_learning_rate_of_the_time_in_its_momentum() -> None:
    # As published: a step size of 0 stops new gradients, not what has gathered.
    layer = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = rs.optimizer("lars", [layer], lr=1.0, momentum=0.5, trust_coefficient=0.1)
    for expected in ([3 - 0.3, 4 - 0.4], [3 - 0.45, 4 - 0.6]):
        layer.grad = torch.tensor([3.0, 4.0])
        optimizer.step()
        torch.testing.assert_close(layer.detach(), torch.tensor(expected))
        optimizer.param_groups[0]["lr"] = 0.0


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_a_norm_of_zero_leaves_the_ratio_at_one(name: str) -> None:
    optimizer_of = {
        "lamb": lambda p: rs.optimizer("lamb", [p], lr=0.1, weight_decay=0.0),
        "lars": lambda p: rs.optimizer("lars", [p], lr=0.1, momentum=0.0),
    }[name]
    # Weights of 0: the plain update, so that the layer can leave 0 at all.
    layer = nn.Parameter(torch.zeros(2))
    optimizer = optimizer_of(layer)
    layer.grad = torch.tensor([1.0, 1.0])
    optimizer.step()
    torch.testing.assert_close(layer.detach(), torch.full((2,), -0.1), rtol=1e-5, atol=0)
    # A gradient of 0: no update, and no 0/0.
    layer = nn.Parameter(torch.ones(2))
    optimizer = optimizer_of(layer)
    layer.grad = torch.zeros(2)
    optimizer.step()
    assert torch.equal(layer.detach(), torch.ones(2))


def test_lars_decays_by_the_trust_coefficient_where_the_gradient_is_zero() -> None:
    layer = nn.Parameter(torch.ones(4))
    optimizer = rs.optimizer(
        "lars", [layer], lr=1.0, momentum=0.0, weight_decay=0.7, trust_coefficient=0.01
    )
    layer.grad = torch.zeros(4)
    optimizer.step()
    torch.testing.assert_close(layer.detach(), torch.full((4,), 0.99))


def test_lars_refuses_nesterov_without_momentum() -> None:
    with pytest.raises(InputError, match="nesterov=True needs momentum above 0 and dampening 0"):
        rs.optimizer("lars", [nn.Parameter(torch.ones(1))], momentum=0.0, nesterov=True)


def test_novograd_keeps_one_number_a_layer_and_ignores_the_gradients_scale() -> None:
    paths: list[list[Tensor]] = []
    for scale in (1e-3, 1e3):
        layers = [
            nn.Parameter(torch.zeros(4, 5, dtype=torch.float64)),
            nn.Parameter(torch.zeros(3)),
        ]
        optimizer = rs.optimizer("novograd", layers, eps=1e-30)
        assert [optimizer.state[layer]["exp_avg_sq"].shape for layer in layers] == [(), ()]
        for gradient in _gradients(10, 4, 5):
            layers[0].grad = gradient * scale
            layers[1].grad = gradient[0, :3].float() * scale
            optimizer.step()
        paths.append([layer.detach().double() for layer in layers])
    for small, large in zip(*paths, strict=True):
        torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-9)


def test_novograds_first_step_has_norm_lr_even_after_gradients_of_zero() -> None:
    layer = nn.Parameter(torch.zeros(4, 5, dtype=torch.float64))
    optimizer = rs.optimizer("novograd", [layer], lr=0.1)
    for _ in range(3):
        layer.grad = torch.zeros(4, 5, dtype=torch.float64)
        optimizer.step()
    assert torch.equal(layer.detach(), torch.zeros(4, 5, dtype=torch.float64))
    layer.grad = _gradients(1, 4, 5)[0]
    optimizer.step()
    torch.testing.assert_close(layer.detach().norm().item(), 0.1, rtol=1e-6, atol=0)


def test_madgrad_without_momentum_is_dual_averaging_from_the_first_weights() -> None:
    # The weights depend on the sums alone: w₀ − Σλg / ∛Σλg².
    start = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    param = nn.Parameter(start.clone())
    optimizer = rs.optimizer("madgrad", [param], lr=0.1, momentum=0.0, eps=1e-12)
    dual, square = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for k, gradient in enumerate(_gradients(30, 3)):
        weight = 0.1 * (k + 1) ** 0.5
        dual, square = dual + weight * gradient, square + weight * gradient**2
        param.grad = gradient
        optimizer.step()
        torch.testing.assert_close(param.detach(), start - dual / square ** (1 / 3))


def test_madgrad_starts_from_weights_that_were_loaded_after_it_was_made() -> None:
    param, fresh = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    optimizer = rs.optimizer("madgrad", [param])
    with torch.no_grad():
        param.fill_(1.0)
    other = rs.optimizer("madgrad", [fresh])
    for gradient in _gradients(5, 3):
        param.grad, fresh.grad = gradient.float(), gradient.float()
        optimizer.step()
        other.step()
        assert torch.equal(param, fresh)


def test_adam_mini_with_blocks_of_one_element_is_adamw() -> None:
    shared: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}
    start, gradient = problem((6, 1))
    mini, adam = (
        descend(ours("adam_mini", **shared), start, gradient),
        descend(ours("adamw", **shared), start, gradient),
    )
    close(mini, adam, 1e-12)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.q_proj = nn.Linear(8, 8)
        self.k_proj = nn.Linear(8, 4, bias=False)
        self.norm = nn.LayerNorm(8)


def test_adam_mini_keeps_one_second_moment_a_block() -> None:
    model = _Attention()
    optimizer = rs.optimizer("adam_mini", model, heads=("[qk]_proj.weight",), head_dim=2)
    sizes = {
        name: optimizer.state[param]["exp_avg_sq"].numel()
        for name, param in model.named_parameters()
    }
    # Rows are tokens, four heads of queries share two of keys, and all else is whole.
    assert sizes == {
        "embed.weight": 7,
        "q_proj.weight": 4,
        "q_proj.bias": 1,
        "k_proj.weight": 2,
        "norm.weight": 1,
        "norm.bias": 1,
    }
    rows = rs.optimizer("adam_mini", model)
    assert rows.state[model.q_proj.weight]["exp_avg_sq"].numel() == 8


def test_adam_minis_blocks_do_not_touch_each_other() -> None:
    # A row ten times as steep takes steps of the same length, and within a row ratios stay.
    param = nn.Parameter(torch.zeros(2, 3))
    optimizer = rs.optimizer("adam_mini", [param], lr=1.0, betas=(0.0, 0.0))
    row = torch.tensor([1.0, 2.0, 2.0])
    param.grad = torch.stack([row, 10 * row])
    optimizer.step()
    expected = -row / (9 / 3) ** 0.5
    torch.testing.assert_close(param.detach(), torch.stack([expected, expected]))


def test_adam_mini_says_which_heads_it_cannot_make() -> None:
    model = _Attention()
    with pytest.raises(
        InputError, match=r"shape \(8, 8\) does not divide into heads of head_dim=3"
    ):
        rs.optimizer("adam_mini", model, heads=("q_proj.weight",), head_dim=3)
    with pytest.raises(InputError, match=r"heads .* and head_dim .* go together"):
        rs.optimizer("adam_mini", model, heads=("q_proj.weight",))
    with pytest.raises(InputError, match="claims no parameter"):
        rs.optimizer("adam_mini", model, heads=("*.wq.weight",), head_dim=2)
