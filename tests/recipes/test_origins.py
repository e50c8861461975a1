"""Recipe.of: an optimizer built in Python gives back the recipe that builds it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.hyper import arguments_of
from rheostat.core.registry import components
from rheostat.core.schedule import Schedule
from rheostat.optimizers.loop import Optimizer
from rheostat.recipes.recipe import Recipe

OPTIMIZERS = [of.name for of in components("optimizer") if of.ours]
TRANSFORMS = [of for of in components("transform") if of.ours]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))


def groups(opt: Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]


def same(opt: Optimizer) -> Recipe:
    """The recipe of an optimizer, once it is shown to build its like."""
    recipe = Recipe.of(opt)
    again = recipe.build(model())
    assert groups(again) == groups(opt)
    for one, two in zip(opt.state.values(), again.state.values(), strict=True):
        assert list(one) == list(two)
    assert Recipe.of(again) == recipe
    assert Recipe.load(recipe.canonical()) == recipe
    return recipe


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_whole_catalogue(name: str) -> None:
    recipe = same(rs.optimizer(name, model(), lr=rs.schedules.constant(0.5, warmup=4)))
    assert (
        recipe.hash
        == Recipe.load(
            {"optimizer": name, "lr": {"schedule": "constant", "peak": 0.5, "warmup": 4}}
        ).hash
    )


@st.composite
def chains(draw: st.DrawFn) -> Any:
    """Some transforms with some of their numbers drawn, prefixed so that any two fit together."""
    pieces: list[Any] = []
    for index, of in enumerate(draw(st.lists(st.sampled_from(TRANSFORMS), min_size=1, max_size=5))):
        given: dict[str, Any] = {}
        for name, argument in arguments_of(of.factory).items():
            if argument.required or draw(st.booleans()):
                candidates = [0.5, 0.25, 2.0, 1, 3]
                fitting = [v for v in candidates if not argument.check(v)[1]]
                if fitting:
                    given[name] = draw(st.sampled_from(fitting))
        try:
            made = of.factory(**given)
        except InputError:
            continue  # a lower bound above the upper one
        pieces.append(rs.named(f"p{index}", made) if not made.search else made)
    return pieces


@settings(max_examples=60)
@given(chains(), st.sampled_from([0.1, rs.schedules.cosine(0.1, steps=20)]))
def test_chains(pieces: list[Any], lr: float | Schedule) -> None:
    try:
        rule = rs.chain(*pieces)
        scaled = rule.scaled
        opt = rs.optimizer(rule, model(), **({} if scaled else {"lr": lr}))
    except (InputError, AttributeError):
        # Two that evaluate elsewhere, a search that is not first, a piece that reads an lr which a
        # prefix renamed: not a chain at all.
        return
    same(opt)


def test_what_python_can_put_together() -> None:
    transforms, adamw = rs.transforms, rs.component("adamw").factory
    clip = transforms.clip_by_global_norm(1.0)
    decayed, plain = adamw(lr=1e-3, weight_decay=0.1), adamw(lr=1e-3, weight_decay=0.0)
    lines = rs.policy(rs.match(plain, role=("norm", "bias")), rs.match(decayed))
    for rule in (
        transforms.trace(),
        rs.chain(clip, adamw()),
        rs.chain(adamw(), transforms.ema_weights()),
        rs.named("outer", rs.named("inner", transforms.trace())),
        lines,
        lines.after(clip),
        rs.policy(rs.match(decayed, role="norm", lr_factor=0.5), rs.match(plain, weight_decay=0.3)),
        rs.component("muon").factory(lr=rs.schedules.cosine(0.1, steps=9)),
        rs.component("muon").factory().after(clip),
    ):
        same(rs.optimizer(rule, model(), seed=5, accumulate=2))
    elsewhere = rs.named("a", rs.chain(transforms.trace(0.5), transforms.sam()))
    same(rs.optimizer(rs.chain(elsewhere, transforms.trace()), model(), seed=5))
    alone = same(rs.optimizer(transforms.trace(), model(), lr=0.5))
    assert alone.canonical()["lr"] == 0.5
    by_layer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    opt = rs.optimizer("adamw", rs.layerwise_groups(by_layer, 0.5), mode="eager")
    again = Recipe.of(opt).build(by_layer)
    assert [g["lr_factor"] for g in again.param_groups] == [0.5, 1.0]
    assert [g["param_names"] for g in again.param_groups] == [
        g["param_names"] for g in opt.param_groups
    ]


def test_a_blend_of_rules() -> None:
    first = rs.chain(
        rs.transforms.clip_by_value(1.0), rs.named("a", rs.transforms.scale_by_adam(b2=0.95))
    )
    share = rs.schedules.join([rs.schedules.constant(0.0), rs.schedules.constant(1.0)], [5])
    rule = rs.chain(
        rs.transforms.blend(first, rs.transforms.trace(0.9), share),
        rs.transforms.add_decayed_weights(0.1),
    )
    recipe = same(rs.optimizer(rule, model(), lr=0.5))
    [blend, _] = recipe.canonical()["chain"]
    assert [piece["transform"] for piece in blend["first"]] == [
        "clip_by_value@1",
        "scale_by_adam@1",
    ]
    assert blend["first"][1]["named"] == "a"
    assert blend["blend"]["schedule"] == "join@1"
    nested = rs.transforms.blend(
        rs.transforms.blend(rs.transforms.scale_by_signum(), rs.transforms.trace()),
        rs.transforms.scale_by_adam(),
    )
    assert same(rs.optimizer(nested, model(), lr=0.5)).hash != recipe.hash


def test_what_nobody_marked_is_named() -> None:
    own = rs.Transform(lambda u, state, param, hyper: u, name="my_piece")
    with pytest.raises(InputError, match=r"no registered component made 'my_piece'"):
        Recipe.of(rs.optimizer(rs.chain(own), model(), lr=0.1))
    curve = Schedule(lambda k: 0.1 / (1 + k))
    with pytest.raises(InputError, match="a schedule made of a Python function"):
        Recipe.of(rs.optimizer("sgd", model(), lr=curve))
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    pieces = [{"params": list(part.named_parameters())} for part in net]
    with pytest.raises(InputError, match="several groups share prodigy"):
        Recipe.of(rs.optimizer("prodigy", pieces))


def test_a_group_of_its_own() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    pieces: list[dict[str, Any]] = [{"params": list(part.named_parameters())} for part in net]
    pieces[0]["weight_decay"] = 0.5
    recipe = Recipe.of(rs.optimizer("adamw", pieces))
    assert recipe.canonical()["policy"][0]["weight_decay"] == 0.5
    assert recipe.canonical()["weight_decay"] == 0.01
    pieces[0]["betas"] = (0.5, 0.5)
    rule = rs.chain(rs.transforms.scale_by_adam(), rs.transforms.add_decayed_weights())
    with pytest.raises(InputError, match="a param group has a betas of its own"):
        Recipe.of(rs.optimizer(rule, pieces, lr=0.1))
