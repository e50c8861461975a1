"""Layer-wise learning rates: who gets which factor, and that any scheduler acts on top of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.layerwise import layerwise_groups


class Encoder(nn.Module):
    """A position vector, an embedding, three blocks (one a stack itself), a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4))
        self.embedding = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())])
        self.blocks.append(nn.Linear(4, 4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


class Pair(nn.Module):
    """No list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)


def _factors(model: nn.Module, decay: float, layers: tuple[str, ...] = ()) -> dict[str, float]:
    groups = layerwise_groups(model, decay, layers=layers)
    return {name: group["lr_factor"] for group in groups for name, _ in group["params"]}


def _step(optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> list[float]:
    """How far one step with gradient 1 moves the first element of every parameter."""
    before = [param.detach().flatten()[0].item() for param in params]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    after = [param.detach().flatten()[0].item() for param in params]
    return [a - b for a, b in zip(before, after, strict=True)]


def test_factors_fall_from_the_head_to_the_embedding() -> None:
    factors = _factors(Encoder(), 0.5)
    assert factors == {
        **dict.fromkeys(("position", "embedding.weight"), 0.5**4),
        **dict.fromkeys(("blocks.0.weight", "blocks.0.bias"), 0.5**3),
        **dict.fromkeys(("blocks.1.0.weight", "blocks.1.0.bias"), 0.5**2),
        **dict.fromkeys(("blocks.2.weight", "blocks.2.bias"), 0.5),
        **dict.fromkeys(("norm.weight", "norm.bias", "head.weight", "head.bias"), 1.0),
    }


def test_layers_without_parameters_do_not_count() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    assert _factors(model, 0.1) == pytest.approx(
        {"0.weight": 0.1, "0.bias": 0.1, "2.weight": 1.0, "2.bias": 1.0}
    )


def test_layers_can_be_named() -> None:
    patterns = ("first.weight", "first.*", "*")
    assert _factors(Pair(), 0.5, patterns) == {
        "first.weight": 0.25,
        "first.bias": 0.5,
        "second.weight": 1.0,
        "second.bias": 1.0,
    }


def test_tied_parameters_appear_once_and_every_parameter_does() -> None:
    model = Encoder()
    model.blocks[2] = model.blocks[0]
    listed = [param for group in layerwise_groups(model, 0.9) for _, param in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))


@pytest.mark.parametrize("rule", ["sgd", "adamw", "schedule_free_sgd"])
def test_a_schedule_of_ours_acts_on_top(rule: str) -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    params = list(model.parameters())
    schedule = rs.schedules.cosine(0.1, steps=10, warmup=3)
    groups = layerwise_groups(model, 0.5)
    layered = rs.optimizer(rule, groups, lr=schedule)
    twin = [nn.Parameter(param.detach().clone()) for param in params]
    plain = [rs.optimizer(rule, [param]) for param in twin]
    for k in range(10):
        assert [group["lr"] for group in layered.param_groups] == [schedule(k)] * 2
        for optimizer, factor in zip(plain, (0.5, 1.0), strict=True):
            optimizer.param_groups[0]["lr"] = factor * schedule(k)
        moved = _step(layered, params)
        expected = [_step(one, [p])[0] for one, p in zip(plain, twin, strict=True)]
        assert moved == pytest.approx(expected, rel=1e-9, abs=1e-16)


def test_torchs_schedulers_act_on_top() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    params = list(model.parameters())
    optimizer = rs.optimizer("sgd", layerwise_groups(model, 0.5), lr=0.1)
    schedulers: list[torch.optim.lr_scheduler.LRScheduler] = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=9, cycle_momentum=False),
    ]
    for scheduler in schedulers:
        for _ in range(8):
            lr = optimizer.param_groups[0]["lr"]
            assert _step(optimizer, params) == pytest.approx([0.5 * lr, lr])
            scheduler.step()
    assert [group["lr_factor"] for group in optimizer.param_groups] == [0.5, 1.0]


def test_resuming_keeps_the_factors() -> None:
    model = Encoder()
    optimizer = rs.optimizer("adamw", layerwise_groups(model, 0.5), lr=0.1)
    _step(optimizer, list(model.parameters()))
    again = rs.optimizer("adamw", layerwise_groups(model, 0.5), lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    factors = [group["lr_factor"] for group in again.param_groups]
    assert factors == [group["lr_factor"] for group in optimizer.param_groups]
    assert factors == [0.5**k for k in range(4, -1, -1)]


def test_a_frozen_layer_keeps_its_place() -> None:
    model = Encoder()
    model.embedding.weight.requires_grad_(False)
    optimizer = rs.optimizer("sgd", layerwise_groups(model, 0.5), lr=1.0)
    before: Tensor = model.embedding.weight.detach().clone()
    params = [param for param in model.parameters() if param.requires_grad]
    assert _step(optimizer, params)[0] == pytest.approx(0.5**4)
    assert torch.equal(model.embedding.weight, before)


def test_what_cannot_be_layered_is_refused() -> None:
    for decay in (0.0, 1.5, -0.5, float("nan")):
        with pytest.raises(InputError, match="should be above 0 and at most 1"):
            layerwise_groups(Encoder(), decay)
    with pytest.raises(InputError, match="no ModuleList or Sequential"):
        layerwise_groups(Pair(), 0.5)
    with pytest.raises(InputError, match="no pattern of layers matches second"):
        layerwise_groups(Pair(), 0.5, layers=["first.*"])
    with pytest.raises(InputError, match="no parameter is left for the layer 'third"):
        layerwise_groups(Pair(), 0.5, layers=["first.*", "third.*", "*"])
