"""A blend in a recipe: two rules inside a transform, each a list of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.recipes.explain import explain
from rheostat.recipes.explain_words import as_text
from rheostat.recipes.formats import read_text
from rheostat.recipes.layers import open_recipe, read_overrides
from rheostat.recipes.recipe import Recipe, examine
from rheostat.recipes.recipe_schema import recipe_schema

TEXT = """\
chain:
  - {transform: clip_by_value, clip_value: 1}
  - transform: blend
    first: [{transform: scale_by_adam, b2: 0.95}]
    second:
      - {transform: clip_by_global_norm, max_norm: 1}
      - {transform: trace, momentum: 0.5}
      - {transform: trace, named: b}
    blend: 0.25
  - {transform: add_decayed_weights, weight_decay: 0.1}
lr: 0.01
regime: [{controller: hand_over, at: 100, over: 50}]
"""


def load(text: str = TEXT) -> Recipe:
    return Recipe.load(read_text(text, "r.yaml"))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_it_trains_as_the_one_that_is_put_together_in_python() -> None:
    t = rs.transforms
    second = rs.chain(t.clip_by_global_norm(1.0), t.trace(0.5), rs.named("b", t.trace()))
    blend = t.blend(t.scale_by_adam(b2=0.95), second, 0.25)
    rule = rs.chain(t.clip_by_value(1.0), blend, t.add_decayed_weights(0.1))
    nets = model(), model()
    opts = load().build(nets[0]), rs.optimizer(rule, nets[1], lr=0.01)
    for _ in range(5):
        for net, opt in zip(nets, opts, strict=True):
            opt.zero_grad()
            net(torch.ones(4, 3)).square().sum().backward()
            opt.step()
    assert torch.equal(nets[0].weight, nets[1].weight)
    assert opts[0].param_groups[0]["second.b.momentum"] == 0.9
    assert Recipe.of(opts[1]).hash == load(TEXT.partition("regime")[0]).hash


def test_its_canonical_form_and_hash() -> None:
    recipe = load()
    assert recipe.warnings == ()
    canonical = recipe.canonical()
    [adam] = canonical["chain"][1]["first"]
    assert adam["transform"] == "scale_by_adam@1"
    assert (adam["b1"], adam["b2"]) == (0.9, 0.95)
    assert canonical["chain"][1]["second"][2]["named"] == "b"
    assert Recipe.load(canonical).hash == recipe.hash
    assert load(TEXT.replace("b2: 0.95", "b2: 0.95, b1: 0.9")).hash == recipe.hash
    assert load(TEXT.replace("named: b", "named: c")).hash != recipe.hash
    assert load(TEXT.replace("b2: 0.95", "b2: 0.9")).hash != recipe.hash
    schema = Draft202012Validator(recipe_schema())
    schema.validate(canonical)
    canonical["chain"][1]["first"][0]["b2"] = 2
    assert not schema.is_valid(canonical)
    assert "blend@1 (first [scale_by_adam@1], second" in as_text(explain(recipe, model()))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("b2: 0.95", "b2: 2", "4:44: chain[1].first[0].b2: 2 should be less than 1"),
        (
            "first: [{transform: scale_by_adam, b2: 0.95}]",
            "first: scale_by_adam",
            '4:12: chain[1].first: "scale_by_adam" should be a list of transforms, first to last',
        ),
        (
            "clip_by_global_norm",
            "clip_by_globl_norm",
            (
                "6:21: chain[1].second[0].transform: no transform is named 'clip_by_globl_norm'; "
                "did you mean 'clip_by_global_norm'?"
            ),
        ),
        (
            "[{transform: scale_by_adam, b2: 0.95}]",
            "[scale_by_adam, scale_by_learning_rate]",
            (
                "4:12: chain[1].first: blend: first: has a step size; leave that to the end of the "
                "chain"
            ),
        ),
        (
            "{transform: trace, named: b}",
            "trace",
            (
                "3:5: chain[1]: trace declares the buffer 'momentum_buffer', which a piece before "
                "it declares already; give one of them a name of its own: named: inner"
            ),
        ),
    ],
)
def test_what_is_wrong_inside_is_told_where_it_stands(old: str, new: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load(TEXT.replace(old, new))
    assert str(caught.value) == f"r.yaml:{told}"


def test_overrides_and_schedules_reach_inside() -> None:
    document = open_recipe(
        read_text(TEXT, "r.yaml"),
        read_overrides(
            ["chain.1.second.0.max_norm=3", "chain.1.blend={schedule: linear, peak: 1}"]
        ),
    )
    recipe = Recipe.load(document).bind(20)
    blend: dict[str, Any] = recipe.canonical()["chain"][1]
    assert blend["second"][0]["max_norm"] == 3
    assert recipe.build(model()).param_groups[0]["blend"] == 1


def test_checks_look_inside() -> None:
    text = (
        "chain: [{transform: blend, first: [orthogonalize], second: [scale_by_signum]}]\nlr: 0.02"
    )
    _, problems = examine(read_text(text, "r.yaml"), model=model())
    assert [(problem.code, problem.path) for problem in problems] == [("RH001", "chain[0]")]
