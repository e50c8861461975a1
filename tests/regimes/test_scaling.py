"""Scale rules: against the papers' tables, and what they promise of a network's features."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import nn

from rheostat.core.errors import InputError
from rheostat.core.roles import Role, roles
from rheostat.regimes.scaling import (
    Transfer,
    betas_by_batch,
    clip_by_size,
    decay_by_data,
    fans,
    lr_by_batch,
    mup,
    spectral,
)


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "embed": (100, width),
        "hidden": (width, width),
        "conv": (width, width, 3, 3),
        "gain": (width,),
        "head": (10, width),
    }


ROLES: dict[str, Role] = {
    "embed": "embedding",
    "conv": "convolution",
    "gain": "norm",
    "head": "head",
}
WIDE, BASE = _shapes(512), _shapes(128)  # 4 times as wide


@pytest.mark.parametrize(
    ("rule", "table", "expected"),
    [
        # Yang, Hu et al. 2022: rows "SGD LR", "Adam LR", "Init. Var." and "Multiplier", as ratios
        # at 4 times the width; input and vector, output, hidden.
        ("sgd", 8, [(4, 1, 1), (4, 1, 1 / 4), (1, 1 / 2, 1)]),
        ("adam", 8, [(1, 1, 1), (1, 1, 1 / 4), (1 / 4, 1 / 2, 1)]),
        ("sgd", 3, [(4, 1, 1), (1 / 4, 1 / 4, 1), (1, 1 / 2, 1)]),
        ("adam", 3, [(1, 1, 1), (1 / 4, 1 / 4, 1), (1 / 4, 1 / 2, 1)]),
    ],
)
def test_mup_is_the_papers_tables(
    rule: Literal["sgd", "adam"], table: Literal[3, 8], expected: list[tuple[float, ...]]
) -> None:
    found = mup(WIDE, BASE, rule, ROLES, table=table)
    inputs, output, hidden = (Transfer(*row) for row in expected)
    assert found == {
        "embed": inputs,
        "hidden": hidden,
        "conv": hidden,
        "gain": inputs,
        "head": output,
    }


def test_the_two_tables_are_one_parametrization() -> None:
    # Lemma J.1 of the paper: multiplier · θ, deviation / θ, SGD lr / θ², Adam lr / θ is the same.
    for rule, power in (("sgd", 2), ("adam", 1)):
        three = mup(WIDE, BASE, rule, ROLES, table=3)  # type: ignore[arg-type]
        eight = mup(WIDE, BASE, rule, ROLES, table=8)  # type: ignore[arg-type]
        for name in WIDE:
            theta = eight[name].multiplier / three[name].multiplier
            assert eight[name].deviation == pytest.approx(three[name].deviation / theta)
            assert eight[name].lr == pytest.approx(three[name].lr / theta**power)


@pytest.mark.parametrize(
    ("rule", "lrs"),
    [
        # Yang, Simon & Bernstein 2023: fan-out / fan-in for SGD, 1 / fan-in for Adam, and the root
        # of the former where updates are orthogonal.
        ("sgd", {"embed": 4, "hidden": 1, "conv": 1, "gain": 4, "head": 1 / 4}),
        ("adam", {"embed": 1, "hidden": 1 / 4, "conv": 1 / 4, "gain": 1, "head": 1 / 4}),
        ("orthogonal", {"embed": 2, "hidden": 1, "conv": 1, "gain": 2, "head": 1 / 2}),
    ],
)
def test_spectral_is_the_papers(
    rule: Literal["sgd", "adam", "orthogonal"], lrs: dict[str, float]
) -> None:
    found = spectral(WIDE, BASE, rule, ROLES)
    assert {name: of.lr for name, of in found.items()} == pytest.approx(lrs)
    assert found["hidden"].deviation == pytest.approx(1 / 2)
    assert found["head"].deviation == pytest.approx(1 / 4)  # 1/√fan-in · √(fan-out / fan-in)


def test_spectral_norms_of_weights_and_updates_are_what_they_should_be() -> None:
    # √(outputs / inputs), within a factor that does not depend on the width.
    ratios: dict[str, list[float]] = {"weights": [], "adam": [], "sgd": []}
    for width in (64, 256, 1024):
        shape = (width, 32)
        base = (64, 32)
        wanted = math.sqrt(width / 32)
        torch.manual_seed(0)
        got = {rule: spectral({"w": shape}, {"w": base}, rule)["w"] for rule in ("adam", "sgd")}  # type: ignore[arg-type]
        weight = torch.randn(shape) * got["sgd"].deviation
        # Of a rank-one gradient with unit output signal 1/outputs and unit inputs.
        gradient = torch.randn(width, 1) / width @ torch.randn(1, 32)
        ratios["weights"].append(float(torch.linalg.matrix_norm(weight, 2)) / wanted)
        for rule, update in (("adam", gradient.sign()), ("sgd", gradient)):
            moved = update * got[rule].lr
            ratios[rule].append(float(torch.linalg.matrix_norm(moved, 2)) / wanted)
    for found in (ratios["adam"], ratios["sgd"]):
        assert max(found) / min(found) < 1.6
    assert max(ratios["weights"]) / min(ratios["weights"]) < 2.5


@pytest.mark.parametrize("by", ["mup", "spectral", "nothing"])
def test_features_move_alike_at_every_width(by: str) -> None:
    """Coordinate check: after some steps of Adam, features have moved by an amount that does not
    depend on the width; without the factors it grows."""
    moved = {}
    for width in (64, 1024):
        torch.manual_seed(1)
        model = _mlp(width)
        base = {name: tuple(p.shape) for name, p in _mlp(64).named_parameters()}
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        known = roles(model)
        transfer = {name: Transfer(1.0, 1.0) for name in shapes}
        if by == "mup":
            transfer = mup(shapes, base, "adam", known, table=3)
        elif by == "spectral":
            transfer = spectral(shapes, base, "adam", known)
        if by != "nothing":
            # torch's head begins at 1/√inputs; what is wanted is a factor on that of the base.
            with torch.no_grad():
                model[4].weight.mul_(transfer["4.weight"].deviation * math.sqrt(width / 64))
        groups = [
            {"params": [param], "lr": 0.005 * transfer[name].lr}
            for name, param in model.named_parameters()
        ]
        optimizer = torch.optim.Adam(groups)
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        features = model[:3]
        before = features(x).detach()
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) - x[:, :1].sin()).square().mean().backward()
            optimizer.step()
        moved[width] = float((features(x).detach() - before).square().mean().sqrt())
    growth = moved[1024] / moved[64]
    assert growth > 3 if by == "nothing" else 0.6 < growth < 1.5


def _mlp(width: int) -> nn.Sequential:
    hidden = (nn.Linear(width, width), nn.Tanh())
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), *hidden, nn.Linear(width, 1))


def test_fans_of_odd_parameters() -> None:
    assert fans(()) == (1, 1)
    assert fans((7,)) == (7, 1)
    assert fans((8, 3, 5, 5), "convolution") == (8, 75)
    assert fans((100, 16), "embedding") == (16, 100)


def test_counts_of_data_batch_and_parameters() -> None:
    # Four times the data, at half the rate: half the decay keeps the timescale in epochs.
    assert decay_by_data(400, 100, lr=0.5) == pytest.approx(0.5)
    assert clip_by_size(4_000_000, 1_000_000) == pytest.approx(2.0)
    assert lr_by_batch(256, 64, "sgd") == pytest.approx(4.0)
    assert lr_by_batch(256, 64, "adam") == pytest.approx(2.0)
    # Far below the noise scale linear; far above, level.
    assert lr_by_batch(2, 1, "sgd", noise_scale=1e6) == pytest.approx(2.0, rel=1e-4)
    assert lr_by_batch(2e6, 1e6, "sgd", noise_scale=1.0) == pytest.approx(1.0, rel=1e-4)
    assert betas_by_batch((0.9, 0.999), 4, 1) == pytest.approx((0.6, 0.996))
    assert betas_by_batch((0.5, 0.9), 4, 1)[0] == 0.0


def test_what_cannot_be_carried_over_is_refused() -> None:
    with pytest.raises(InputError, match="the base model has no heads; did you mean 'head'"):
        spectral({"heads": (2, 2)}, {"head": (2, 2)}, "adam")
    with pytest.raises(InputError, match="should differ in width alone"):
        mup({"head": (2, 2)}, {"head": (2,)}, "adam")
    with pytest.raises(InputError, match="should be a positive number"):
        lr_by_batch(0, 1, "sgd")
