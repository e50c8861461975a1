"""Another library's optimizer in a recipe: attached, scheduled, recorded, saved, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.recipes.explain import explain
from rheostat.recipes.explain_words import as_text
from rheostat.recipes.formats import read_text
from rheostat.recipes.recipe import Recipe, examine
from rheostat.recipes.run import Run
from rheostat.record.run import RunRecord

COSINE = {"schedule": "cosine", "peak": 0.01, "warmup": 2}
X = torch.linspace(-1, 1, 32).reshape(8, 4)


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def train(run: Run, model: nn.Module, steps: int, **arguments: Any) -> list[float]:
    rates: list[float] = []
    for _ in range(steps):
        run.optimizer.zero_grad()
        loss = (model(X) - 1).square().mean()
        loss.backward()
        rates.append(run.optimizer.param_groups[0]["lr"])
        assert run.step(loss, **arguments).applied
    return rates


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_is_the_librarys_own_object_under_our_schedule(tmp_path: Path) -> None:
    ours, theirs = net(), net()
    recipe = {"optimizer": "torch/AdamW", "lr": COSINE, "betas": [0.8, 0.99]}
    run = rs.attach(recipe, ours, steps=8, directory=tmp_path / "run")
    assert type(run.optimizer) is torch.optim.AdamW
    rates = train(run, ours, 8)
    run.close()
    curve = rs.schedules.cosine(0.01, steps=8, warmup=2)
    assert rates == [curve(k) for k in range(8)]
    opt = torch.optim.AdamW(theirs.parameters(), betas=(0.8, 0.99))
    for rate in rates:
        opt.param_groups[0]["lr"] = rate
        opt.zero_grad()
        (theirs(X) - 1).square().mean().backward()
        opt.step()
    assert same(ours, theirs)
    record = RunRecord.read(tmp_path / "run")
    assert record.series["lr"].tolist() == rates
    assert record.series["momentum_norm"][-1] > 0
    assert record.header["recipe"]["optimizer"].startswith("torch/AdamW@")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("torch/AdamW", {"steps": 12}),
        ("torch/SGD", {"momentum": 0.9, "horizon": {"tokens": 768}}),
        ("schedulefree/AdamWScheduleFree", {"horizon": {"tokens": 768}}),
        (
            "pytorch_optimizer/Lion",
            {"weight_decay": {"schedule": "linear", "peak": 0.1}, "steps": 12},
        ),
    ],
)
def test_a_resumed_run_ends_in_the_same_bits(
    tmp_path: Path, name: str, more: dict[str, Any]
) -> None:
    recipe = {"optimizer": name, "lr": COSINE, **more}
    consumed = {"consumed": {"tokens": 64}} if "horizon" in more else {}
    whole, first, second = net(), net(), net()
    with rs.attach(recipe, whole) as run:
        train(run, whole, 12, **consumed)
    with rs.attach(recipe, first, directory=tmp_path / "run", resume="auto") as run:
        train(run, first, 7, **consumed)
        run.save(wait=True)
    with rs.attach(recipe, second, directory=tmp_path / "run", resume="must") as run:
        assert run.batches == 7
        train(run, second, 5, **consumed)
    assert same(whole, second)
    assert not same(whole, first)


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    recipe = {"optimizer": "torch/SGD", "momentum": 0.5, "steps": 9}
    model = net()
    with rs.attach(recipe, model, directory=tmp_path / "run", resume="auto") as run:
        train(run, model, 1)
        run.save(wait=True)
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Tanh(), nn.Linear(6, 2))
    with pytest.raises(InputError, match="does not fit"):
        rs.attach(recipe, other, directory=tmp_path / "run", resume="must")
    state = Recipe.load(recipe).build(model).state_dict()
    scheduled = Recipe.load({**recipe, "lr": COSINE}).build(model)
    with pytest.raises(InputError, match="was saved under the plan"):
        scheduled.load_state_dict(state)


def test_changes_of_plan_and_restarts_are_those_of_our_own(tmp_path: Path) -> None:
    model = net()
    lr = {"schedule": "cosine_restarts", "peak": 0.01, "period": 3}
    with rs.attach(
        {"optimizer": "torch/SGD", "lr": lr}, model, steps=9, directory=tmp_path / "run"
    ) as run:
        train(run, model, 7)
        run.cool_down(12)
        assert train(run, model, 5)[-1] == pytest.approx(
            run.optimizer.param_groups[0]["lr"], abs=2e-3
        )
    events = RunRecord.read(tmp_path / "run").events
    assert [e.fields["step"] for e in events if e.kind == "restart"] == [3, 6]
    assert [e.fields["operation"] for e in events if e.kind == "replan"] == ["cool_down"]
    written = rs.attach({"optimizer": "torch/SGD", "lr": COSINE}, model, steps=9)
    written.optimizer.param_groups[0]["lr"] = 7.0
    with pytest.raises(InputError, match="belongs to its schedule"):
        written.optimizer.step()


def test_a_scaler_that_skips_does_not_move_the_schedule() -> None:
    model = net()
    run = rs.attach({"optimizer": "torch/SGD", "lr": COSINE}, model, steps=9)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((model(X) * float("inf")).sum()).backward()
    assert not run.step(scaler=scaler).applied
    run.optimizer.zero_grad()
    scaler.scale((model(X) - 1).square().mean()).backward()
    assert run.step(scaler=scaler).applied
    assert run.optimizer.param_groups[0]["updates"] == 1


RESETTING = """\
optimizer: torch/SGD
lr: {schedule: cosine_restarts, peak: 1, period: 3, state: reset}"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "optimizer: torch/AdamW\naccumulate: 4\nclip: {value: 1}\npolicy: []\nnonfinite: raise",
            ["accumulate", "clip", "policy", "nonfinite"],
        ),
        (
            "optimizer: sgd\npolicy: [{match: {role: norm}, optimizer: torch/SGD}]",
            ["policy[0].optimizer"],
        ),
        ("chain: [trace, torch/SGD]", ["chain[1]"]),
        (f"{RESETTING}\nsteps: 9", ["lr"]),
        ("optimizer: torch/SGD\nlr: -1.0", ["optimizer"]),
        (
            "optimizer: torch/SGD\nnesterov: yes\nlr: {schedule: cosin}",
            ["nesterov", "lr", "lr.schedule"],
        ),
    ],
)
def test_what_a_librarys_loop_cannot_do_is_told(text: str, told: list[str]) -> None:
    recipe, problems = examine(read_text(text, "r.yaml"), model=net())
    assert recipe is None or len(told) == 1
    assert sorted(p.path for p in problems if p.severity == "error") == sorted(told)


def test_its_own_maximize_is_its_own() -> None:
    recipe = Recipe.load({"optimizer": "torch/SGD", "maximize": True})
    assert recipe.build(net()).param_groups[0]["maximize"]
    assert Recipe.load(recipe.canonical()) == recipe
    assert "seed" not in recipe.canonical()


def test_training_mode_is_where_it_begins() -> None:
    model = net()
    with rs.attach({"optimizer": "schedulefree/SGDScheduleFree"}, model, steps=3) as run:
        assert isinstance(run.optimizer, schedulefree.SGDScheduleFree)
        train(run, model, 3)


def test_explain_says_what_is_known() -> None:
    recipe = Recipe.load({"optimizer": "torch/AdamW", "lr": COSINE, "steps": 50})
    said = as_text(explain(recipe, net()))
    assert "state: not known" in said
    assert "lr of torch/AdamW@" in said
    assert "warm-up ends" in said


@pytest.mark.parametrize(
    "made",
    [
        lambda p: torch.optim.AdamW(p, lr=0.5, betas=(0.8, 0.9), amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=torch.tensor(0.5), momentum=0.9, maximize=True),
        lambda p: schedulefree.AdamWScheduleFree(p, warmup_steps=3, r=0.5),
        lambda p: torch.optim.LBFGS(p, max_iter=3, line_search_fn="strong_wolfe"),
    ],
)
def test_the_recipe_of_a_librarys_optimizer(made: Any) -> None:
    opt = made(list(net().parameters()))
    recipe = Recipe.of(opt)
    again = recipe.build(net())
    assert type(again) is type(opt)
    for key, value in opt.param_groups[0].items():
        # Ours begin in training mode, whatever the library does.
        assert key in ("params", "train_mode") or again.param_groups[0][key] == value, key


def test_the_recipe_of_what_follows_our_schedule() -> None:
    recipe = Recipe.load({"optimizer": "torch/AdamW", "lr": COSINE, "steps": 50})
    said = Recipe.of(recipe.build(net())).canonical()
    assert said == {k: v for k, v in recipe.canonical().items() if k != "steps"}


def test_what_no_recipe_can_say_of_a_librarys_optimizer() -> None:
    params = list(net().parameters())

    class Mine(torch.optim.SGD):
        pass

    driven = torch.optim.SGD(params, lr=0.1)
    torch.optim.lr_scheduler.StepLR(driven, 3)
    groups = [{"params": params[:1], "lr": 0.1}, {"params": params[1:], "lr": 0.2}]
    function = rs.schedules.from_function(lambda steps: 0.1 + 0 * steps)
    followed = rs.optimizer("torch/SGD", net(), lr=function)
    for opt, told in [
        (Mine(params, lr=0.1), "Mine has no key here: no library"),
        (driven, "a torch scheduler drives this torch/SGD"),
        (torch.optim.SGD(groups, lr=0.1), "groups of this torch/SGD differ in lr"),
        (followed, "torch/SGD: lr: a schedule made of a Python function"),
    ]:
        with pytest.raises(InputError, match=told):
            Recipe.of(opt)
