"""Structural changes of a saved state: what was asked for, all of it, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.conformance.subject import state_bits
from rheostat.core.errors import InputError
from rheostat.optimizers.changes import (
    Change,
    add,
    drop,
    from_data,
    insert,
    load_changed,
    remove,
    rename,
    replace_rule,
    take_here,
    take_saved,
)

T = rs.transforms
COSINE = rs.schedules.cosine(0.1, steps=20)


def model(*names: str, width: int = 4) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(width, width) for name in names or ("first", "second")})


def train(net: nn.ModuleDict, opt: Any, steps: int = 3) -> None:
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        for layer in net.values():
            x = layer(x).tanh()
        x.square().mean().backward()
        opt.step()


def trained(rule: Any = "adamw", *names: str, **given: Any) -> tuple[nn.ModuleDict, Any]:
    net = model(*names)
    opt = rs.optimizer(rule, net, **given)
    train(net, opt)
    return net, opt


def entry(net: nn.ModuleDict, opt: Any, name: str) -> dict[str, torch.Tensor]:
    return opt.state[dict(net.named_parameters())[name]]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *keys: str) -> bool:
    return all(torch.equal(one[key], other[key]) for key in keys or {**one, **other})


def refused(opt: Any, saved: dict[str, Any], changes: list[Change], *says: str) -> None:
    before = state_bits(opt), repr(opt.param_groups)
    with pytest.raises(InputError) as caught:
        load_changed(opt, saved, changes)
    for part in says:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (state_bits(opt), repr(opt.param_groups)) == before


def test_another_algorithm_with_the_same_buffers_is_refused() -> None:
    _, opt = trained("adam")
    for rule, given in (("adamw", {}), ("sgd", {"momentum": 0.9, "nesterov": True})):
        other = rs.optimizer(rule, model(), **given)
        with pytest.raises(InputError, match=r"group 0 was saved under add_decayed_weights@1 \| "):
            other.load_state_dict(opt.state_dict())


def test_rename_by_name_and_by_prefix() -> None:
    net, opt = trained()
    other = model("first", "last")
    again = rs.optimizer("adamw", other)
    refused(again, opt.state_dict(), [], "second.weight was saved, and is not here", "last.weight")
    load_changed(again, opt.state_dict(), [rename({"second.": "last."})])
    assert list(state_bits(again).values()) == list(state_bits(opt).values())
    assert again.param_groups[0]["param_names"][2:] == ["last.weight", "last.bias"]
    third = rs.optimizer("adamw", model())
    names = {"last.weight": "second.weight", "last.bias": "second.bias"}
    load_changed(third, again.state_dict(), [rename(names)])
    assert equal(entry(net, opt, "second.bias"), third.state[third.param_groups[0]["params"][3]])
    refused(third, opt.state_dict(), [rename({"secnd.": "last."})], "no parameter is named secnd.")
    refused(third, opt.state_dict(), [rename({"second.": "first."})], "would be named first.")


def test_add_and_drop() -> None:
    net, opt = trained("adamw", "first", "old")
    other = model("first", "new", "more")
    again = rs.optimizer("adamw", other)
    saved = opt.state_dict()
    refused(again, saved, [add("new.*")], "old.weight was saved", "more.bias was not saved: add")
    refused(again, saved, [drop("old.*"), add("*")], "first.weight is no new parameter")
    load_changed(again, saved, [drop("old.*"), add("new.*", "more.*")])
    assert equal(entry(other, again, "first.weight"), entry(net, opt, "first.weight"))
    assert entry(other, again, "new.weight")["step"] == 0
    assert again.param_groups[0]["updates"] == 3
    train(other, again, 1)
    steps = [int(entry(other, again, f"{name}.weight")["step"]) for name in ("first", "new")]
    assert steps == [4, 1]
    refused(again, saved, [drop("od.*"), add("new.*")], "no parameter is named od.*")


def test_a_tensor_is_never_reshaped() -> None:
    _, opt = trained("adamw", "first")
    wider = rs.optimizer("adamw", model("first", width=5))
    refused(wider, opt.state_dict(), [], "first.weight.exp_avg was saved with shape (4, 4)")


def test_another_rule_for_one_group_keeps_the_rest() -> None:
    def split(rule: str) -> Any:
        first = rs.component(rule).factory(lr=0.05)
        return rs.policy(
            rs.match(first, name="first.*"), rs.match(rs.component("adamw").factory(lr=0.01))
        )

    net, opt = trained(split("adamw"))
    other = model()
    again = rs.optimizer(split("lion"), other)
    refused(again, opt.state_dict(), [], "first.weight was saved under scale_by_adam@1")
    load_changed(again, opt.state_dict(), [replace_rule("first.*")])
    assert equal(entry(other, again, "second.weight"), entry(net, opt, "second.weight"))
    assert not entry(other, again, "first.weight")["exp_avg"].any()
    kept = [replace_rule("first.*", keep=("exp_avg", "step"))]
    load_changed(again, opt.state_dict(), kept)
    mine = entry(other, again, "first.weight")
    assert equal(mine, entry(net, opt, "first.weight"), "exp_avg", "step")
    assert set(mine) == {"exp_avg", "step"}
    keep = [replace_rule("first.*", keep=("exp_avg_sq",))]
    refused(again, opt.state_dict(), keep, "first.weight: exp_avg_sq cannot be kept")
    # All in one group becomes two groups, of which one goes on.
    whole_net, whole = trained("adamw", lr=0.01)
    load_changed(again, whole.state_dict(), [replace_rule("first.*")])
    assert equal(entry(other, again, "second.bias"), entry(whole_net, whole, "second.bias"))
    assert [group["updates"] for group in again.param_groups] == [3, 3]
    train(other, again, 1)


def test_insert_and_remove_a_transform() -> None:
    def chain(*more: Any) -> Any:
        return rs.chain(*more, T.scale_by_adam(), T.add_decayed_weights(0.1))

    net, opt = trained(chain(), lr=0.01)
    other = model()
    clipped = rs.optimizer(chain(T.clip_by_percentile(50.0)), other, lr=0.01)
    refused(clipped, opt.state_dict(), [], "insert, remove or replace_rule")
    refused(clipped, opt.state_dict(), [insert("trace")], "trace: no rule differs by it")
    load_changed(clipped, opt.state_dict(), [insert("clip_by_percentile")])
    mine, its = entry(other, clipped, "first.weight"), entry(net, opt, "first.weight")
    assert equal(mine, its, "step", "exp_avg", "exp_avg_sq")
    assert mine["update_norms"].isinf().all()
    train(other, clipped, 1)
    back = rs.optimizer(chain(), model(), lr=0.01)
    load_changed(back, clipped.state_dict(), [remove("clip_by_percentile")])
    assert set(back.state[back.param_groups[0]["params"][0]]) == {"step", "exp_avg", "exp_avg_sq"}
    # A buffer that begins as the parameter is the parameter as it is when the state is loaded.
    averaged = rs.optimizer(rs.chain(chain(), T.ema_weights(0.9)), net, lr=0.01)
    load_changed(averaged, opt.state_dict(), [insert("ema_weights")])
    name = next(n for n in averaged.rule(0).buffers if n not in ("exp_avg", "exp_avg_sq"))
    assert torch.equal(entry(net, averaged, "first.bias")[name], net["first"].bias)


def test_hyperparameters_from_here_or_as_saved() -> None:
    _, opt = trained(lr=0.05, weight_decay=0.2)
    other = rs.optimizer("adamw", model(), lr=COSINE, weight_decay=0.3)
    refused(
        *(other, opt.state_dict(), []),
        "lr had another schedule, or none: take_here('lr')",
        "weight_decay was saved as 0.2, here it is 0.3: take_here('weight_decay') or take_saved",
    )
    load_changed(other, opt.state_dict(), [take_here("lr"), take_saved("weight_*")])
    (group,) = other.param_groups
    assert (group["lr"], group["weight_decay"], group["updates"]) == (COSINE(3), 0.2, 3)
    refused(other, opt.state_dict(), [take_here("rl", "*")], "no hyperparameter is rl")
    # And the other way round: from a schedule to a number, and to another horizon.
    plain = rs.optimizer("adamw", model(), lr=0.01, weight_decay=0.2)
    load_changed(plain, other.state_dict(), [take_here("lr")])
    assert plain.param_groups[0]["lr"] == 0.01
    longer = rs.optimizer("adamw", model(), lr=rs.schedules.cosine(0.1, steps=40), weight_decay=0.2)
    load_changed(longer, other.state_dict(), [take_here("lr")])
    assert longer.param_groups[0]["lr"] == rs.schedules.cosine(0.1, steps=40)(3)


def test_the_loops_own_buffers() -> None:
    _, opt = trained(lr=0.01)
    other = rs.optimizer("adamw", model(), lr=0.01, accumulate=2)
    refused(other, opt.state_dict(), [], "first.weight: insert('accumulated') was not said")
    load_changed(other, opt.state_dict(), [insert("accumulated")])
    refused(opt, other.state_dict(), [], "remove('accumulated') was not said")
    load_changed(opt, other.state_dict(), [remove("accumulated")])


def test_scalars_go_on() -> None:
    _, opt = trained("prodigy", "first")
    opt.param_groups[0]["d"] = 0.25
    other = rs.optimizer("prodigy", model("first", "second"))
    load_changed(other, opt.state_dict(), [add("second.*")])
    assert other.param_groups[0]["d"] == 0.25


def test_a_state_without_names_cannot_be_changed_by_name() -> None:
    _, opt = trained()
    saved = opt.state_dict()
    del saved["param_groups"][0]["param_names"]
    refused(rs.optimizer("adamw", model()), saved, [drop("*")], "has no parameter names")


@pytest.mark.parametrize(
    "change",
    [rename({"a": "b", "c.": "d."}), drop("a.*"), replace_rule("x", keep=("step",)), insert("p")],
)
def test_a_change_is_data(change: Change) -> None:
    assert from_data(change.data()) == change
    with pytest.raises(InputError, match="is no change; did you mean 'rename'"):
        from_data({"renam": {}})
    with pytest.raises(InputError, match="it is about nothing"):
        drop()
