"""Sparse gradients: sparse_adam, adagrad and sgd are exact, the rest refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError

CASES: list[tuple[str, type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("sparse_adam", torch.optim.SparseAdam, {}),
    ("sparse_adam", torch.optim.SparseAdam, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4}),
    ("adagrad", torch.optim.Adagrad, {}),
    (
        "adagrad",
        torch.optim.Adagrad,
        {"lr": 0.1, "lr_decay": 0.05, "initial_accumulator_value": 0.1, "eps": 1e-3},
    ),
    ("sgd", torch.optim.SGD, {"lr": 0.05}),
]
ROWS, WIDTH = 12, 3


def _table(dtype: torch.dtype) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(ROWS, WIDTH, sparse=True, dtype=dtype)


def _batches(count: int) -> list[Tensor]:
    """Row numbers, with repeats; the last row never comes, and one batch is empty."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(0, ROWS - 1, (5,), generator=generator) for _ in range(count)]
    batches[3] = torch.zeros(0, dtype=torch.int64)
    return batches


def _train(table: nn.Embedding, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> None:
    for batch in batches:
        optimizer.zero_grad()
        (table(batch) - batch[:, None].to(table.weight.dtype).cos()).square().sum().backward()
        assert table.weight.grad is not None
        assert table.weight.grad.is_sparse
        optimizer.step()


def test_repeated_rows_are_looked_at_as_their_sum() -> None:
    table = nn.Embedding(3, 1, sparse=True)
    optimizer = rs.optimizer("sgd", table, lr=0.0)
    rows = torch.tensor([0, 0, 0, 1])
    for token in (1.0, 1e19):
        optimizer.zero_grad()
        (table(rows) * token).sum().backward()
        assert table.weight.grad is not None
        assert not table.weight.grad.is_coalesced()
        optimizer.step()
        assert optimizer.last_step is not None
        dense = table.weight.grad.to_dense().double().norm().item()
        assert optimizer.last_step.grad_norm == pytest.approx(dense)
    # Three times 1e19 is beyond what float32 can square, and 1e19 is not.
    assert "beyond what float32 can square" in str(optimizer.last_step.reason)
    optimizer.param_groups[0]["limit"] = 3.0
    optimizer.zero_grad()
    table(rows).sum().backward()
    optimizer.step()
    assert "above the limit" in str(optimizer.last_step.reason)


@pytest.mark.parametrize(("name", "peer", "arguments"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("maximize", [False, True])
def test_equals_torch(
    name: str,
    peer: type[torch.optim.Optimizer],
    arguments: dict[str, Any],
    dtype: torch.dtype,
    maximize: bool,
) -> None:
    ours, theirs = _table(dtype), _table(dtype)
    steps = 20 if maximize else 200  # uphill, weights grow without end
    mine = rs.optimizer(name, ours, maximize=maximize, **arguments)
    other = peer(theirs.parameters(), maximize=maximize, **arguments)
    _train(ours, mine, _batches(steps))
    with torch.sparse.check_sparse_tensor_invariants():  # torch's own Adagrad warns without
        _train(theirs, other, _batches(steps))
    tolerance = 2e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=tolerance, atol=tolerance)
    for key, value in other.state[theirs.weight].items():
        found = mine.state[ours.weight][key]
        torch.testing.assert_close(
            found, torch.as_tensor(value, dtype=found.dtype), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize(("name", "peer", "arguments"), CASES)
def test_rows_without_a_gradient_keep_weights_and_state_to_the_bit(
    name: str, peer: type[torch.optim.Optimizer], arguments: dict[str, Any]
) -> None:
    table = _table(torch.float32)
    optimizer = rs.optimizer(name, table, **arguments)
    _train(table, optimizer, _batches(10))
    batch = torch.tensor([2, 7, 7])
    kept = [row for row in range(ROWS) if row not in (2, 7)]
    before = table.weight.detach().clone()
    state = {k: v.clone() for k, v in optimizer.state[table.weight].items() if v.ndim}
    _train(table, optimizer, [batch])
    assert torch.equal(table.weight[kept], before[kept])
    assert not torch.isclose(table.weight[[2, 7]], before[[2, 7]]).any()
    for key, value in state.items():
        assert torch.equal(optimizer.state[table.weight][key][kept], value[kept])


@pytest.mark.parametrize(("name", "peer", "arguments"), CASES)
@pytest.mark.parametrize("precision", ["plain", "master"])
def test_half_precision_tables(
    name: str, peer: type[torch.optim.Optimizer], arguments: dict[str, Any], precision: Any
) -> None:
    table = _table(torch.bfloat16)
    optimizer = rs.optimizer(name, table, precision=precision, **arguments)
    last = table.weight[ROWS - 1].clone()
    _train(table, optimizer, _batches(20))
    assert table.weight.isfinite().all()
    assert torch.equal(table.weight[ROWS - 1], last)
    assert {v.dtype for v in optimizer.state[table.weight].values()} == {torch.float32}


def test_a_dense_gradient_counts_for_every_element() -> None:
    """What torch refuses: sparse_adam then is Adam, up to where eps stands."""
    sparse, dense = nn.Parameter(torch.ones(5, 2)), nn.Parameter(torch.ones(5, 2))
    lazy = rs.optimizer("sparse_adam", [sparse], eps=0.0)
    adam = rs.optimizer("adam", [dense], eps=0.0)
    for k in range(20):
        sparse.grad = dense.grad = torch.linspace(1, 2, 10).view(5, 2) * (-1) ** (k // 3)
        lazy.step()
        adam.step()
    torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("adam", {}),
        ("adamw", {}),
        ("rmsprop", {}),
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"weight_decay": 0.1}),
        ("sgd", {"weight_decay": rs.schedules.cosine(0.1, steps=9)}),
        ("adagrad", {"weight_decay": 0.1}),
    ],
)
def test_the_others_refuse_before_anything_has_changed(
    name: str, arguments: dict[str, Any]
) -> None:
    table = _table(torch.float32)
    optimizer = rs.optimizer(name, table, **arguments)
    before = table.weight.detach().clone()
    with pytest.raises(InputError, match=rf"weight has a sparse gradient, which {name} cannot"):
        _train(table, optimizer, [torch.tensor([1, 2])])
    assert torch.equal(table.weight, before)
    assert optimizer.state[table.weight]["step"] == 0


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_decay_set_on_a_group_alone_is_refused_for_sparse_and_works_for_dense(name: str) -> None:
    table, dense = _table(torch.float32), nn.Parameter(torch.ones(3))
    groups = [
        {"params": [table.weight], "weight_decay": 0.1},
        {"params": [dense], "weight_decay": 0.1},
    ]
    optimizer = rs.optimizer(name, groups, lr=0.5)
    dense.grad = torch.zeros(3)
    optimizer.step()
    assert (dense < 1).all()
    with pytest.raises(InputError, match=r"weight_decay=0\.1 in the group of a parameter with a"):
        _train(table, optimizer, [torch.tensor([1, 2])])
    optimizer.param_groups[0]["weight_decay"] = 0.0
    _train(table, optimizer, [torch.tensor([1, 2])])
