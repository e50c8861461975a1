"""SAM and ASAM against their papers' formulas, around SGD and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.references.problems import (
    assert_resumes,
    batches,
    loss_of,
    network,
    same_bits,
    train,
    train_by_closure,
    weights,
)
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.sgd import sgd

Displace = Callable[[list[Tensor], list[Tensor]], list[Tensor]]


def _sam(params: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    size = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    return [0.1 * g / size for g in gradients]


def _asam(params: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    scales = [p.abs() + 0.02 for p in params]
    scaled = [t * g for t, g in zip(scales, gradients, strict=True)]
    size = torch.stack([g.square().sum() for g in scaled]).sum().sqrt()
    return [0.7 * t * g / size for t, g in zip(scales, scaled, strict=True)]


RULES: dict[str, tuple[Callable[[], rs.Transform], Displace]] = {
    "sam": (lambda: rs.transforms.sam(0.1), _sam),
    "asam": (lambda: rs.transforms.asam(0.7, eta=0.02), _asam),
}


def _train_as_published(
    model: nn.Module, optimizer: torch.optim.Optimizer, displace: Displace, steps: int
) -> None:
    """Two gradients a step: at w, then at w + e; the step is taken from w with the second."""
    for x in batches(steps):
        params = list(model.parameters())
        first = torch.autograd.grad(loss_of(model, x), params)
        with torch.no_grad():
            before = [param.clone() for param in params]
            for param, move in zip(params, displace(before, list(first)), strict=True):
                param.add_(move)
        second = torch.autograd.grad(loss_of(model, x), params)
        with torch.no_grad():
            for param, old, gradient in zip(params, before, second, strict=True):
                param.copy_(old)
                param.grad = gradient
        optimizer.step()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("base", ["adamw", "sgd"])
def test_equals_the_paper(name: str, dtype: torch.dtype, base: str) -> None:
    make, displace = RULES[name]
    mine, other = network(dtype), network(dtype)
    settings: dict[str, Any] = {"lr": 1e-2} if base == "adamw" else {"lr": 0.1, "momentum": 0.9}
    made = adamw(**settings) if base == "adamw" else sgd(**settings)
    peer = torch.optim.AdamW if base == "adamw" else torch.optim.SGD
    train_by_closure(mine, rs.optimizer(rs.chain(make(), made), mine), 50)
    _train_as_published(other, peer(other.parameters(), **settings), displace, 50)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(weights(mine), weights(other), rtol=tolerance, atol=tolerance)
    plain = network(dtype)
    train(plain, peer(plain.parameters(), **settings), 50)
    pairs = zip(weights(mine), weights(plain), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) > 1e-2


@pytest.mark.parametrize("name", RULES)
def test_rho_0_is_the_plain_rule(name: str) -> None:
    mine, other = network(torch.float32), network(torch.float32)
    piece = rs.transforms.sam(0.0) if name == "sam" else rs.transforms.asam(0.0)
    train_by_closure(mine, rs.optimizer(rs.chain(piece, sgd(lr=0.1, momentum=0.9)), mine), 20)
    # Eager, as no fused kernel calls a closure: those round otherwise.
    train(other, rs.optimizer("sgd", other, lr=0.1, momentum=0.9, mode="eager"), 20)
    assert same_bits(weights(mine), weights(other))


def test_the_displacement_of_sam_has_length_rho_over_all_parameters() -> None:
    params = [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor(0.5))]
    start = [param.detach().clone() for param in params]
    optimizer = rs.optimizer(rs.chain(rs.transforms.sam(0.3), sgd(lr=0.0)), params)
    seen: list[list[Tensor]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        seen.append([param.detach().clone() for param in params])
        loss = sum((param * torch.tensor(3.0)).square().sum() for param in params)
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert len(seen) == 2
    assert same_bits(seen[0], start)
    moves = [b - a for a, b in zip(*seen, strict=True)]
    assert float(sum(move.square().sum() for move in moves)) ** 0.5 == pytest.approx(0.3, rel=1e-6)
    assert all((move * old >= 0).all() for move, old in zip(moves, start, strict=True)), "uphill"
    assert loss.item() == pytest.approx(9 * (1 + 4 + 0.25)), "the loss at the weights themselves"
    assert same_bits([param.detach() for param in params], start), "put back to the bit"


def test_asam_is_blind_to_a_rescaling_that_the_network_is_blind_to() -> None:
    """Of a b with a → 4 a, b → b / 4: ASAM's perturbed loss is the same, SAM's is not."""

    def perturbed_loss(piece: rs.Transform, scale: float) -> float:
        a, b = (
            nn.Parameter(torch.tensor(value, dtype=torch.float64))
            for value in (1.5 * scale, 0.8 / scale)
        )
        optimizer = rs.optimizer(rs.chain(piece, sgd(lr=0.0)), [a, b])
        losses: list[float] = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (a * b - 2).square()
            loss.backward()
            losses.append(loss.item())
            return loss

        optimizer.step(closure)
        return losses[1]

    assert perturbed_loss(rs.transforms.asam(0.1, eta=0.0), 1.0) == pytest.approx(
        perturbed_loss(rs.transforms.asam(0.1, eta=0.0), 4.0), rel=1e-12
    )
    one, other = (perturbed_loss(rs.transforms.sam(0.1), scale) for scale in (1.0, 4.0))
    assert abs(one - other) > 0.01


@pytest.mark.parametrize("name", RULES)
def test_without_a_closure_it_says_what_is_missing(name: str) -> None:
    model = network()
    optimizer = rs.optimizer(rs.chain(RULES[name][0](), sgd()), model)
    with pytest.raises(InputError, match=f"{name} evaluates the loss several times"):
        train(model, optimizer, 1)


@pytest.mark.parametrize("name", RULES)
def test_zero_gradients_displace_nothing(name: str) -> None:
    param = nn.Parameter(torch.tensor([1.0, 0.0]))
    optimizer = rs.optimizer(rs.chain(RULES[name][0](), sgd(lr=0.1)), [param])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (param * 0).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert param.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("way", ["before", "behind", "around"])
def test_a_clip_bounds_the_gradient_that_was_found_elsewhere(name: str, way: str) -> None:
    piece, clip = RULES[name][0](), rs.transforms.clip_by_global_norm(1.0)
    param, other = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([[1.0]]))
    lines = rs.match(rs.chain(piece, sgd(lr=1.0)), role="vector"), rs.match(sgd(lr=1.0))
    rule = {
        "before": rs.chain(clip, piece, sgd(lr=1.0)),
        "behind": rs.chain(piece, clip, sgd(lr=1.0)),
        "around": rs.policy(*lines).after(clip),
    }[way]
    # Of the other parameter the gradient stays zero: only one of them moves.
    optimizer = rs.optimizer(rule, [param, other])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (param**4).sum() + (other * 0).sum()
        loss.backward()
        return loss

    for _ in range(2):
        before = param.item()
        optimizer.step(closure)
        assert before - param.item() == pytest.approx(1.0)


@pytest.mark.parametrize("name", RULES)
def test_resumes(name: str) -> None:
    def make() -> rs.Transform:
        clip = rs.transforms.clip_by_global_norm(0.5)
        return rs.chain(RULES[name][0](), clip, adamw(lr=1e-2), rs.transforms.ema_weights(0.9))

    assert_resumes(make, closure=True)
