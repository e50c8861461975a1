"""One of our optimizers against another, with step counts that differ between parameters."""

from __future__ import annotations

from typing import Any

import torch
from tests.references.problems import batches, loss_of, network
from torch import nn

import rheostat as rs

STEPS = 200


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
    """Steps on `network`; its last bias has no gradient in the first half, nor in every tenth step,
    so that its first update comes late and its count is its own."""
    bias = model.get_parameter("2.bias")
    for k, x in enumerate(batches(steps)):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        if k < steps // 2 or k % 10 == 0:
            bias.grad = None
        optimizer.step()


def assert_same_training(
    name: str,
    peer: type[torch.optim.Optimizer],
    dtype: torch.dtype,
    arguments: dict[str, Any],
    peer_arguments: dict[str, Any] | None = None,
) -> None:
    """Train a network with the registered optimizer and with the peer; their weights agree.

    The peer gets `arguments` and `peer_arguments`. Tolerance: 2e-5 in float32 (single roundings
    add up over 200 steps), 1e-10 in float64, which shows that nothing but rounding differs.
    """
    ours, theirs = network(dtype), network(dtype)
    other = peer(theirs.parameters(), **arguments, **(peer_arguments or {}))
    train(ours, rs.optimizer(name, ours, **arguments))
    train(theirs, other)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-10
    for mine, peers in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, peers, rtol=tolerance, atol=tolerance)
