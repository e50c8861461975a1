"""The grammar: what the short forms stand for, policies, chains, settings; and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.durable import canonical_json
from rheostat.core.errors import InputError
from rheostat.recipes.formats import read_text
from rheostat.recipes.grammar import OWN_KEYS
from rheostat.recipes.recipe import Recipe

FACE = """\
optimizer: muon
lr: {schedule: cosine, peak: 0.02, warmup: 500, floor: 0.002}
weight_decay: 0.1
clip: {global_norm: 1.0}
policy:
  - match: {role: [norm, bias]}
    optimizer: adamw
    weight_decay: 0
    lr: {schedule: cosine, peak: 3e-4, warmup: 500}
  - match: {role: [embedding, head]}
    optimizer: adamw
    lr: {schedule: cosine, peak: 3e-4, warmup: 500}
  - match: {role: matrix}
"""
CHAIN = """\
chain:
  - {transform: clip_by_global_norm, max_norm: 1.0}
  - {transform: scale_by_adam, b2: 0.95}
  - {transform: add_decayed_weights, weight_decay: 0.1}
lr: 3e-4
"""
SETTINGS = ("seed", "nonfinite", "accumulate", "precision", "mode", "maximize", "format")


def load(text: str) -> Recipe:
    return Recipe.load(read_text(text, "r.yaml"))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))


def said(recipe: Recipe) -> dict[str, Any]:
    """The canonical form without the settings."""
    return {k: v for k, v in recipe.canonical().items() if k not in SETTINGS}


def train(opt: Any, net: nn.Module, steps: int = 4) -> list[torch.Tensor]:
    for k in range(steps):
        generator = torch.Generator().manual_seed(k)
        for param in net.parameters():
            param.grad = torch.randn(param.shape, generator=generator)
        opt.step()
    return [param.detach().clone() for param in net.parameters()]


def test_the_recipe_of_the_front_page() -> None:
    recipe = load(FACE).bind(10_000)
    opt = recipe.build(model())
    names = [group["param_names"] for group in opt.param_groups]
    assert names == [
        ["1.bias", "2.weight", "2.bias", "3.bias"],
        ["0.weight", "3.weight"],
        ["1.weight"],
    ]
    assert [group["weight_decay"] for group in opt.param_groups] == [0.0, 0.01, 0.1]
    line = recipe.canonical()["policy"][2]
    assert line["optimizer"] == "muon@1"
    assert line["lr"]["floor"] == 0.002, "the rule of the recipe, and its schedule"
    assert line["match"] == {"role": ["matrix"], "name": [], "min_dim": 0, "optional": False}


def test_a_clip_before_a_policy_measures_all_parameters_together() -> None:
    recipe = load(
        "optimizer: sgd\nlr: 1\nclip: {global_norm: 1.0}\npolicy: [{match: {role: norm}}]"
    )
    net = model()
    before = [p.detach().clone() for p in net.parameters()]
    opt = recipe.build(net)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    opt.step()
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, net.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("short", "transform", "value"),
    [
        ("{global_norm: 0.5}", "clip_by_global_norm@1", {"max_norm": 0.5}),
        ("{norm: 0.5}", "clip_by_norm@1", {"clip_norm": 0.5}),
        ("{value: 0.5}", "clip_by_value@1", {"clip_value": 0.5}),
        ("{agc: 0.02}", "adaptive_gradient_clip@1", {"clip_factor": 0.02, "clip_eps": 1e-3}),
        (
            "{agc: {clip_eps: 0.1}}",
            "adaptive_gradient_clip@1",
            {"clip_factor": 0.01, "clip_eps": 0.1},
        ),
        ("{percentile: 5}", "clip_by_percentile@1", {"percentile": 5.0, "window": 1000}),
        ("{percentile: {window: 9}}", "clip_by_percentile@1", {"percentile": 10.0, "window": 9}),
    ],
)
def test_the_clips(short: str, transform: str, value: dict[str, Any]) -> None:
    recipe = load(f"optimizer: sgd\nclip: {short}")
    assert recipe.canonical()["before"] == [{"transform": transform, **value}]
    recipe.build(model())


def test_a_scheduled_clip_and_what_comes_before_it() -> None:
    recipe = load(
        "optimizer: sgd\nbefore: [centralize_gradient]\n"
        "clip: {global_norm: {schedule: constant, peak: 2, warmup: 1}}"
    )
    assert [piece["transform"] for piece in recipe.canonical()["before"]] == [
        "centralize_gradient@1",
        "clip_by_global_norm@1",
    ]
    opt = recipe.build(model())
    assert opt.param_groups[0]["max_norm"] == 1.0
    train(opt, model(), 1)
    assert opt.scheduled(0)["max_norm"](1) == 2.0


def test_a_chain_is_what_python_chains() -> None:
    recipe = load(CHAIN)
    net, twin = model(), model()
    transforms = rs.transforms
    rule = rs.chain(
        transforms.clip_by_global_norm(1.0),
        transforms.scale_by_adam(b2=0.95),
        transforms.add_decayed_weights(0.1),
    )
    ours = train(recipe.build(net), net)
    theirs = train(rs.optimizer(rule, twin, lr=3e-4), twin)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert said(load("chain: [scale_by_adam]"))["lr"] == 1e-3, "the default is written out"
    assert "lr" not in said(load("chain: [scale_by_adam, scale_by_learning_rate]"))


def test_settings_reach_the_loop() -> None:
    recipe = load(
        "optimizer: sgd\nseed: 7\nnonfinite: raise\naccumulate: 3\nprecision: master\n"
        "mode: eager\nmaximize: true\nhorizon: {updates: 50}"
    )
    assert recipe.steps == 50
    opt = recipe.build(model())
    assert (opt.options.nonfinite, opt.options.accumulate, opt.options.precision) == (
        "raise",
        3,
        "master",
    )
    assert [opt.param_groups[0][key] for key in ("seed", "maximize", "mode")] == [7, True, "eager"]


def test_schedules_nest_whatever_the_argument_is_called() -> None:
    recipe = load(
        "optimizer: sgd\nsteps: 100\nlr: {schedule: warmup, length: 10, of: {schedule: join, "
        "schedules: [{schedule: constant, peak: 1, warmup: 0}, {schedule: cosine, peak: 1, "
        "steps: 40}], boundaries: [50]}}"
    )
    lr = recipe.canonical()["lr"]
    assert lr["schedule"] == "warmup@1"
    assert lr["of"]["schedules"][1]["steps"] == 40, "inside of another, steps are its own"
    assert Recipe.load(recipe.canonical()) == recipe
    opt = recipe.build(model())
    assert opt.scheduled(0)["lr"](70) == pytest.approx(
        rs.schedules.cosine(1.0, steps=40)(10), abs=1e-12
    )


@pytest.mark.parametrize(
    "text",
    [
        FACE,
        CHAIN,
        "optimizer: adamw\nclip: {agc: 0.01}\nseed: 3\nsilence: [RH003, RH001]",
        "optimizer: sgd\nbefore: [sam]\npolicy: [{match: {min_dim: 2, name: '0*'}, lr_factor: 2}]",
        "chain: [{transform: trace, named: a}, {transform: trace, named: b}]",
        "optimizer: adamw\nbetas: [0.9, {schedule: cosine, peak: 0.99, floor: 0.9}]",
        'optimizer: muon\nsplit: {"*qkv*": [1, 1, 1]}',
    ],
)
@pytest.mark.parametrize("steps", [None, 700])
def test_the_canonical_form_is_the_same_recipe(text: str, steps: int | None) -> None:
    recipe = load(text) if steps is None else load(text).bind(steps)
    stored = json.loads(canonical_json(recipe.canonical()))
    again = Recipe.load(stored)
    assert again == recipe
    assert again.canonical() == recipe.canonical()
    assert again.hash == recipe.hash


def test_the_hash_is_of_what_is_said() -> None:
    assert load("optimizer: sgd").hash == load("optimizer: sgd@1\nlr: 0.001\nseed: 0").hash
    assert load("optimizer: sgd\nseed: 1").hash != load("optimizer: sgd").hash
    assert load("optimizer: sgd").bind(10).hash != load("optimizer: sgd").bind(11).hash
    short = load("optimizer: sgd\nclip: {global_norm: 1}")
    long = load("optimizer: sgd\nbefore: [{transform: clip_by_global_norm, max_norm: 1.0}]")
    assert short.hash == long.hash
    # A hash that is recorded today must be the same for ever.
    assert load("optimizer: sgd\nlr: 0.1").hash == (
        "1b3f3f005c6a4475f8f2ec4cf73d52202b65ca4e8ec9d9aa149566c99ad9b9fe"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "optimizer: sgd\nchain: [scale_by_adam]",
            "1:1: optimizer: a recipe has an optimizer or a chain, not both",
        ),
        ("chain: []", "1:8: chain: [] should be a list of transforms, first to last"),
        (
            "chain: [scale_by_adm]",
            "1:9: chain[0]: no transform is named 'scale_by_adm'; did you mean 'scale_by_adam'?",
        ),
        (
            "chain: [{transfrm: scale_by_adam}]",
            "1:10: chain[0].transfrm: unknown key; did you mean 'transform'?",
        ),
        (
            "chain: [clip_by_global_norm]",
            "1:9: chain[0]: 'max_norm' is missing, which clip_by_global_norm@1 needs",
        ),
        ("chain: [scale_by_adam]\nbetas: 1", "2:1: betas: unknown key for a chain; known are: …"),
        (
            "chain: [scale_by_adam, scale_by_learning_rate]\nlr: 1",
            "2:5: lr: chain has a step size of its own; give the lr there (RH008)",
        ),
        (
            "optimizer: sgd\nclip: 1.0",
            "2:7: clip: 1.0 should be a mapping, such as {global_norm: 1.0}",
        ),
        (
            "optimizer: sgd\nclip: {globl_norm: 1}",
            "2:8: clip.globl_norm: unknown clip; did you mean 'global_norm'?",
        ),
        (
            "optimizer: sgd\nclip: {norm: 1, value: 2}",
            (
                "2:7: clip: one kind of clip has a short form; write {global_norm: 1.0}, or "
                "transforms under before"
            ),
        ),
        (
            "optimizer: sgd\npolicy: [{weight_decay: 0}]",
            "2:10: policy[0]: 'match' is missing: which parameters, such as {role: norm}",
        ),
        (
            "optimizer: sgd\npolicy: [{match: {role: nrom}}]",
            "2:25: policy[0].match.role: unknown role \"nrom\"; did you mean 'norm'?",
        ),
        (
            "optimizer: sgd\npolicy: [{match: {}, optimizer: adamw, betas: [2, 0]}]",
            "2:48: policy[0].betas[0]: 2 should be less than 1",
        ),
        (
            "optimizer: sgd\npolicy:\n  - match: {role: norm}\n    betas: [0.5, 0.5]",
            "4:5: policy[0].betas: unknown key for sgd@1; known are: …",
        ),
        (
            "optimizer: sgd\nhorizon: {fraction: 5}",
            "2:11: horizon.fraction: unknown unit; known are: epochs, samples, tokens, updates",
        ),
        (
            "optimizer: sgd\nsteps: 5\nhorizon: {updates: 5}",
            "3:1: horizon: says what steps says already; leave one of them out",
        ),
        (
            "optimizer: sgd\nsilence: [[]]",
            "2:11: silence[0]: no check has the code []; known are: …",
        ),
        ("optimizer: sgd\nformat: 2", "2:9: format: 2 should be less than or equal to 1"),
        (
            "optimizer: sgd\nlr: {schedule: warmup, length: 1, of: 3}",
            "2:39: lr.of: 3 should be a schedule: {schedule: cosine, …}",
        ),
        (
            "optimizer: muon\npolicy: [{match: {name: a}, optimizer: muon, split: {b: [1, 1]}}]",
            (
                "2:10: policy[0]: muon chooses by name within this line, which does so too; use "
                "roles here"
            ),
        ),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load(text)
    begin, listed, _ = told.partition("known are: …")
    line = str(caught.value)
    assert line.startswith(f"r.yaml:{begin}") if listed else line == f"r.yaml:{told}"


def test_the_horizon_is_said_once() -> None:
    recipe = load("optimizer: sgd\nsteps: 50")
    assert rs.attach(recipe, model(), steps=50).recipe.hash == recipe.hash
    with pytest.raises(InputError, match=r"steps: 50 differs from the 60 steps of the run"):
        rs.attach(recipe, model(), steps=60)


def test_attach_takes_all_of_it() -> None:
    run = rs.attach(load(FACE), model(), steps=600, overrides={"policy.0.weight_decay": 0.5})
    assert run.optimizer.param_groups[0]["weight_decay"] == 0.5
    run.close()


GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "recipes.md"


def test_the_guides_recipe_runs() -> None:
    text = GUIDE.read_text("utf-8")
    first = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    run = rs.attach(load(first), model(), steps=1000)
    assert len(run.optimizer.param_groups) == 3
    for key in OWN_KEYS:
        assert f"`{key}`" in text, key


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(GUIDE.parents[2].glob("examples/*.yaml")) if "\narms:" not in p.read_text()],
    ids=lambda path: path.stem,
)
def test_the_examples_build(path: Path) -> None:
    recipe = Recipe.load(path).bind(10_000)
    assert not recipe.warnings
    recipe.build(model())


def test_what_is_of_the_whole_recipe_has_no_place_in_a_line() -> None:
    line = {"match": {"role": "norm"}, "regime": ["plateau"], "weight_decay": 0.0}
    with pytest.raises(InputError) as told:
        rs.Recipe.load({"optimizer": "adamw", "policy": [line]})
    assert str(told.value) == "policy[0].regime: is of the whole recipe; write it beside policy"
