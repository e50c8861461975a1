"""A run resumed with structural changes: attach(changes=…), and a checkpoint migrated by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.checkpoint.generations import FOLDER
from rheostat.checkpoint.load import newest
from rheostat.checkpoint.tensors import bits
from rheostat.core.errors import InputError
from rheostat.optimizers.changes import (
    Change,
    add,
    drop,
    insert,
    rename,
    replace_rule,
    take_here,
)
from rheostat.recipes.changed import changed_checkpoint
from rheostat.record.run import RunRecord

pytestmark = pytest.mark.filterwarnings("ignore:.*RH019")  # a large lr, on purpose

RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": {"schedule": "cosine", "peak": 0.1}}


def model(*names: str) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential()
    for name in names or ("body", "head"):
        net.add_module(name, nn.Linear(4, 4))
    net.add_module("norm", nn.BatchNorm1d(4))
    net.get_submodule("norm").eval()
    return net


def attach(net: nn.Module, **given: Any) -> Any:
    options: dict[str, Any] = {"steps": 20, "resume": "must", "directory": "run", **given}
    return rs.attach(options.pop("recipe", RECIPE), net, **options)


def train(net: nn.Module, run: Any, steps: int) -> None:
    for _ in range(steps):
        run.optimizer.zero_grad()
        loss = net(torch.randn(8, 4)).square().mean()
        loss.backward()
        run.step(loss)


@pytest.fixture
def saved() -> nn.Module:
    """The model of a run of five steps, saved in "run"."""
    net = model()
    with attach(net, resume="auto") as run:
        train(net, run, 5)
        run.save(wait=True)
    return net


def resumed(net: nn.Module, *changes: Change, **given: Any) -> Any:
    return attach(net, changes=changes, **given)


def test_a_renamed_and_extended_model_goes_on_and_restarts(saved: nn.Module) -> None:
    changes = (rename({"body.": "trunk."}), drop("head.*"), add("exit.*"))
    net = model("trunk", "exit")
    with pytest.raises(InputError, match=r"trunk\.weight.*nearest"):
        attach(net)
    fresh = net.get_submodule("exit").weight.detach().clone()
    with resumed(net, *changes) as run:
        assert run.batches == 5
        assert torch.equal(net.get_submodule("trunk").weight, saved.get_submodule("body").weight)
        assert torch.equal(net.get_submodule("exit").weight, fresh)
        assert not net.get_submodule("norm").training
        steps = {n: int(run.optimizer.state[p]["step"]) for n, p in net.named_parameters()}
        assert (steps["trunk.bias"], steps["exit.bias"]) == (5, 0)
        train(net, run, 2)
        run.save(wait=True)
    # The same program again: its changes were made. Without them, too.
    for given in (changes, ()):
        again = model("trunk", "exit")
        with resumed(again, *given) as run:
            assert run.batches == 7
            assert torch.equal(again.get_submodule("exit").bias, net.get_submodule("exit").bias)
    found = newest(Path("run") / FOLDER)
    assert found is not None
    (noted,) = found.documents["run"]["progress"]["changed"]
    assert noted["operations"] == [change.data() for change in changes]
    events = [e for e in RunRecord.read("run").events if e.kind == "resume"]
    assert events[0].fields["changed"] == [noted]


def test_another_recipe_by_operation_and_never_by_silence(saved: nn.Module) -> None:
    lion = {"optimizer": "lion", "lr": {"schedule": "cosine", "peak": 0.01}}
    other = {**RECIPE, "policy": [{"match": {"name": "head.*"}, **lion}]}
    with pytest.raises(InputError, match="of another recipe"):
        attach(model(), recipe=other)
    with pytest.raises(InputError, match=r"head\.weight was saved under scale_by_adam@1"):
        resumed(model(), take_here("lr"), recipe=other)
    net = model()
    with resumed(net, replace_rule("head.*"), recipe=other) as run:
        groups = {n: g for g in run.optimizer.param_groups for n in g["param_names"]}
        assert groups["head.weight"]["lr"] == rs.schedules.cosine(0.01, steps=20)(5)
        assert groups["body.weight"]["lr"] == rs.schedules.cosine(0.1, steps=20)(5)
        train(net, run, 1)
        run.save(wait=True)
    with attach(model(), recipe=other) as run:  # it is the run's recipe now
        assert run.batches == 6


def test_insert_a_clip_and_another_horizon(saved: nn.Module) -> None:
    clipped = {**RECIPE, "clip": {"global_norm": 0.5}}
    with pytest.raises(InputError, match=r"lr had another schedule.*take_here\('lr'\)"):
        resumed(model(), insert("clip_by_global_norm"), recipe=clipped, steps=40)
    changes = (insert("clip_by_global_norm"), take_here("lr"))
    with resumed(model(), *changes, recipe=clipped, steps=40) as run:
        (group,) = run.optimizer.param_groups
        assert group["lr"] == rs.schedules.cosine(0.1, steps=40)(5)
        assert group["max_norm"] == 0.5


def test_what_is_refused_changes_nothing(saved: nn.Module) -> None:
    net = model()
    before = [bits(p.detach()).clone() for p in net.parameters()]
    for change, says in (
        (drop("hed.*"), r"drop\(hed\.\*\): no parameter is named hed\.\*"),
        (rename({"head.": "exit."}), r"exit\.weight.*it is not attached to"),
        (insert("trace"), "trace: no rule differs by it"),
        (take_here("momentum"), "no hyperparameter is momentum"),
    ):
        with pytest.raises(InputError, match=says):
            resumed(net, change)
    for parameter, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(bits(parameter.detach()), old)
    wider = nn.Sequential()
    wider.add_module("body", nn.Linear(4, 6))
    with pytest.raises(InputError, match=r"body\.weight was saved as float32\[4, 4\]"):
        resumed(wider, drop("head.*", "norm.*"))
    with pytest.raises(InputError, match="changes are made to what a run resumes"):
        resumed(net, drop("head.*"), resume="never", directory="other", save_every=5)
    with pytest.raises(InputError, match="there is no checkpoint to change"):
        resumed(net, drop("head.*"), resume="auto", directory="other")


def test_a_schedule_changed_in_mid_run_must_be_given_up(saved: nn.Module) -> None:
    net = model()
    with attach(net) as run:
        run.extend(40)
        run.save(wait=True)
    with pytest.raises(InputError, match=r"changed in mid-run \(extend\); take_here\('lr'\)"):
        resumed(model("body"), drop("head.*"))
    with resumed(model("body"), drop("head.*"), take_here("lr")) as run:
        assert run.optimizer.param_groups[0]["lr"] == rs.schedules.cosine(0.1, steps=20)(5)


def test_names_alone_need_no_model(saved: nn.Module) -> None:
    found = newest(Path("run") / FOLDER)
    assert found is not None
    with pytest.raises(InputError, match=r"add\(x\) needs the model"):
        changed_checkpoint(found, [add("x")])
    made = changed_checkpoint(found, [rename({"head.": "exit.", "norm.": "scale."})])
    assert "exit.weight/exp_avg" in made.tensors["optimizer"]
    assert "scale.running_mean" in made.tensors["model"]
    assert made.documents["model"]["evaluating"] == ["scale"]
    assert "head.weight" in found.tensors["model"]
