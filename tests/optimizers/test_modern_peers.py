"""The modern first-order family against pytorch-optimizer, optax and heavyball, where these
have its rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.references.descent import close, descend, descend_optax, ours, problem
from torch import nn

import rheostat as rs

SHAPE = (5, 4)

TORCH_PEERS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("lion", "Lion", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.2}, {}),
    ("signum", "SignSGD", {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.2}, {}),
    (
        "adabelief",
        "AdaBelief",
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.2},
        {},
    ),
    (
        "adan",
        "Adan",
        {"lr": 0.01, "betas": (0.9, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {},
    ),
    (
        "ademamix",
        "AdEMAMix",
        {"lr": 0.01, "betas": (0.8, 0.95, 0.99), "alpha": 4.0, "eps": 1e-3, "weight_decay": 0.2},
        {"weight_decouple": True},
    ),
    # It adds 1e-15 to v, and decays after the step.
    ("laprop", "LaProp", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-12}, {}),
    # It corrects the first gradient too, which here is scaled down to norm 1 with and without; and
    # its eps has another scale.
    (
        "mars",
        "MARS",
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-12, "gamma": 0.1},
        {"optimize_1d": True},
    ),
    (
        "stable_adamw",
        "StableAdamW",
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"kahan_sum": False},
    ),
    (
        "novograd",
        "NovoGrad",
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {},
    ),
    # It adds eps to lr, as the authors' code does.
    (
        "madgrad",
        "MADGRAD",
        {"lr": 0.01, "momentum": 0.8, "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.009},
    ),
    (
        "lars",
        "LARS",
        {"lr": 1.0, "momentum": 0.8, "weight_decay": 0.2, "trust_coefficient": 0.01},
        {},
    ),
]
"""Ours, theirs, arguments, and how theirs differ. Not here: its ADOPT counts the clipping bound
from 2, and its Lamb bounds the norm of the weights and leaves v uncorrected."""


@pytest.mark.parametrize(("name", "peer", "arguments", "differing"), TORCH_PEERS)
def test_equals_pytorch_optimizer(
    name: str, peer: str, arguments: dict[str, Any], differing: dict[str, Any]
) -> None:
    import pytorch_optimizer

    start, gradient = problem(SHAPE, seed=3)
    theirs = getattr(pytorch_optimizer, peer)
    expected = descend(
        lambda params: theirs(params, **{**arguments, **differing}, foreach=False), start, gradient
    )
    mine = descend(ours(name, **arguments), start, gradient)
    close(mine, expected, 1e-9)


def test_ademamix_schedules_equal_those_of_pytorch_optimizer() -> None:
    import pytorch_optimizer

    shared: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95, 0.999), "alpha": 4.0}
    start, gradient = problem(SHAPE)
    expected = descend(
        lambda params: pytorch_optimizer.AdEMAMix(
            params, **shared, t_alpha_beta3=70.0, foreach=False
        ),
        start,
        gradient,
    )
    make = ours("ademamix", **shared, alpha_warmup=70, beta3_warmup=70)
    close(descend(make, start, gradient), expected, 1e-9)


def test_adam_mini_equals_pytorch_optimizer_on_heads_and_vectors() -> None:
    import pytorch_optimizer

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(8, 8)

    torch.manual_seed(0)
    own, theirs = Attention(), Attention()
    theirs.load_state_dict(own.state_dict())
    shared: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2}
    mine = rs.optimizer("adam_mini", own, **shared, heads=("*q_proj.weight",), head_dim=4)
    peer = pytorch_optimizer.AdamMini(theirs, **shared, num_embeds=8, num_heads=2, foreach=False)
    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        x = torch.randn(16, 8, generator=generator)
        for model, optimizer in ((own, mine), (theirs, peer)):
            model.zero_grad()
            (model.q_proj(x) - x.sin()).square().mean().backward()
            optimizer.step()
    for a, b in zip(own.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


OPTAX_PEERS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    (
        *("lion", "lion"),
        {"betas": (0.8, 0.95), "weight_decay": 0.2},
        {"b1": 0.8, "b2": 0.95, "weight_decay": 0.2},
    ),
    ("signum", "signum", {"momentum": 0.8}, {"beta": 0.8}),
    (
        *("adabelief", "adabelief"),
        {"betas": (0.8, 0.95), "eps": 1e-4},
        {"b1": 0.8, "b2": 0.95, "eps": 1e-4, "eps_root": 1e-4},
    ),
    (
        *("adopt", "contrib.adopt"),
        {"betas": (0.8, 0.95), "eps": 1e-3},
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3},
    ),
    (
        *("ademamix", "contrib.ademamix"),
        {"betas": (0.8, 0.95, 0.99), "alpha": 4.0, "eps": 1e-3, "weight_decay": 0.2},
        {"b1": 0.8, "b2": 0.95, "b3": 0.99, "alpha": 4.0, "eps": 1e-3, "weight_decay": 0.2},
    ),
    (
        *("novograd", "novograd"),
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.2},
    ),
    # It adds eps to the learning rate, as the authors' code does.
    (
        *("madgrad", "contrib.madgrad"),
        {"lr": 0.011, "momentum": 0.8, "eps": 1e-3},
        {"momentum": 0.8, "eps": 1e-3},
    ),
    (
        *("lamb", "lamb"),
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.2},
    ),
    # With decay it takes the norm of the sum, where the paper adds the norms.
    (
        *("lars", "lars"),
        {"momentum": 0.8, "trust_coefficient": 0.5},
        {"momentum": 0.8, "trust_coefficient": 0.5},
    ),
]
"""Ours, theirs, our arguments and theirs at learning rate 0.01. Not here: its adan has 1 − β₂ where
the paper has β₂, its sophia corrects the mean and takes a sample a step late."""


@pytest.mark.parametrize(("name", "peer", "arguments", "theirs"), OPTAX_PEERS)
def test_equals_optax(
    name: str, peer: str, arguments: dict[str, Any], theirs: dict[str, Any]
) -> None:
    import optax
    from optax import contrib

    home, _, short = peer.rpartition(".")
    factory: Any = getattr(contrib if home else optax, short)
    start, gradient = problem(SHAPE, seed=5)
    expected = descend_optax(factory(learning_rate=0.01, **theirs), start, gradient)
    make = ours(name, **{"lr": 0.01, **arguments})
    close(descend(make, start, gradient, dtype=torch.float32), expected, 2e-4)


HEAVYBALL_PEERS: list[tuple[str, str, dict[str, Any]]] = [
    ("adamw", "AdamW", {"betas": (0.8, 0.95), "weight_decay": 0.2}),
    ("nadam", "NAdam", {"betas": (0.8, 0.95), "weight_decay": 0.0}),
    ("laprop", "LaProp", {"betas": (0.8, 0.95), "weight_decay": 0.2}),
    ("ademamix", "AdEMAMix", {"betas": (0.8, 0.95, 0.99), "alpha": 4.0, "weight_decay": 0.2}),
    ("schedule_free_adamw", "SFAdamW", {"betas": (0.8, 0.95), "weight_decay": 0.0}),
]
"""Ours, theirs, the arguments of both. Not here: its ADOPT, SGD, RMSprop, Muon and SOAP are other
variants, with other numbers."""


@pytest.mark.parametrize(("name", "peer", "arguments"), HEAVYBALL_PEERS)
def test_equals_heavyball(
    name: str, peer: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import heavyball
    import heavyball.utils

    # By default it compiles each rule for half a minute.
    monkeypatch.setattr(heavyball.utils, "compile_mode", None)
    precision = torch.get_float32_matmul_precision()  # which its optimizers set for everybody
    start, gradient = problem(SHAPE, seed=7)
    # It bounds the denominator by eps where others add it; as small as this, neither shows.
    shared = {"lr": 0.01, "eps": 1e-12, **arguments}
    theirs = getattr(heavyball, peer)
    try:
        expected = descend(
            lambda params: theirs(params, **shared), start, gradient, dtype=torch.float32
        )
    finally:
        torch.set_float32_matmul_precision(precision)
    mine = descend(ours(name, **shared), start, gradient, dtype=torch.float32)
    close(mine, expected, 2e-5)
