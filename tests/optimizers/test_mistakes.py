"""What is no rule, no line, no state: refused in one line that says what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import Transform
from rheostat.optimizers.policy import Policy

ADAMW: Callable[[], Transform] = rs.component("adamw").factory
MUON: Callable[[], Policy] = rs.component("muon").factory
ANY: Any = rs

NO_TRANSFORM: list[tuple[Any, str]] = [
    (None, "not None; a factory must return what it makes"),
    (torch.optim.AdamW, "not the class AdamW"),
    (rs.transforms.trace, r"not a function; call it: trace\(…\)"),
    ([rs.transforms.trace(0.9)], r"not a list; chain\(\*transforms\) makes one of it"),
    (torch.optim.SGD([nn.Parameter(torch.ones(1))]), "not an object of type SGD"),
]


def _model() -> nn.Linear:
    return nn.Linear(2, 2)


@pytest.mark.parametrize(("given", "said"), NO_TRANSFORM)
def test_what_is_no_transform(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"optimizer: should be a transform, {said}"):
        rs.optimizer(given, _model())
    with pytest.raises(InputError, match=f"chain: should be a transform, {said}"):
        rs.chain(rs.transforms.trace(0.9), given)
    with pytest.raises(InputError, match=f"match: should be a transform, {said}"):
        rs.match(given)
    with pytest.raises(InputError, match=f"named: should be a transform, {said}"):
        rs.named("other", given)


def test_what_is_a_name_or_a_policy_where_a_transform_belongs() -> None:
    for given, said in (
        ("adamw", r"not text; component\('adamw'"),
        (MUON(), "not the policy muon"),
    ):
        for take in (ANY.chain, ANY.match):
            with pytest.raises(InputError, match=said):
                take(given)


def test_a_policy_says_which_rules_can_stand_in_its_place() -> None:
    said = r"\.lines\[0\]\.rule, its chain for role=\('matrix', 'convolution'\)$"
    with pytest.raises(InputError, match=f"match: should be a transform, .*{said}"):
        ANY.match(MUON(), role="matrix")
    own = rs.policy(rs.match(MUON().lines[0].rule, role="matrix"), rs.match(ADAMW()))
    groups = rs.optimizer(own, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).param_groups
    assert [group["param_names"][0] for group in groups] == ["0.weight", "0.bias"]


def test_what_is_no_line_of_a_policy() -> None:
    for given, said in ((ADAMW(), "Transform"), ("adamw", "str"), ([], "list")):
        with pytest.raises(InputError, match=rf"policy: should be lines, match\(.*not a {said}"):
            ANY.policy(given)


def test_a_policy_takes_its_numbers_in_its_lines() -> None:
    with pytest.raises(InputError, match=r"is a policy.* give 'lr' to the rules in its lines"):
        rs.optimizer(rs.policy(rs.match(ADAMW())), _model(), lr=1e-3)


def test_case_does_not_hide_what_was_meant() -> None:
    for name, meant in (("AdamW", "adamw"), ("SGD", "sgd"), ("Adam-Mini", "adam_mini")):
        with pytest.raises(InputError, match=f"did you mean '{meant}'"):
            rs.optimizer(name, _model())
    with pytest.raises(InputError, match="did you mean 'torch/AdamW'"):
        rs.optimizer("torch/adamw", _model())


def test_a_target_that_holds_no_parameters() -> None:
    with pytest.raises(InputError, match="for a module or parameters, not None"):
        ANY.optimizer("sgd", None)
    with pytest.raises(InputError, match=r"give the model, or model\.named_parameters\(\)"):
        ANY.optimizer("sgd", dict(_model().named_parameters()))


def test_sgd_with_momentum_says_what_takes_sparse_gradients() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = rs.optimizer("sgd", table, momentum=0.9)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sgd without momentum and decay, adagrad and"):
        optimizer.step()


def test_what_is_no_state() -> None:
    model = _model()
    optimizer = rs.optimizer("adamw", model)
    for wrong in ({}, dict(model.state_dict()), None, []):
        given: Any = wrong
        with pytest.raises(InputError, match="what is loaded is no optimizer's state"):
            optimizer.load_state_dict(given)
    with pytest.raises(InputError, match="0 param groups, this optimizer 1"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    theirs = torch.optim.AdamW(model.parameters()).state_dict()
    with pytest.raises(InputError, match=r"another library's; .*import_state takes it over"):
        optimizer.load_state_dict(theirs)


def _pop(opt: Any) -> None:
    opt.param_groups[0]["params"].pop()


def _append(opt: Any) -> None:
    opt.param_groups[0]["params"].append(nn.Parameter(torch.ones(2)))


def _delete(opt: Any) -> None:
    del opt.param_groups[1]


def _raw(opt: Any) -> None:
    opt.param_groups.append({"params": [nn.Parameter(torch.ones(2))]})


EDITS: list[tuple[Callable[[Any], None], str]] = [
    (_pop, r"param group 0 has 1 parameters and 2 names; .*add_param_group\(.*anew"),
    (_append, r"param group 0 has 3 parameters and 2 names; .*add_param_group\(.*anew"),
    (_delete, r"param_groups has 1 groups, and the optimizer 2 rules; .*anew"),
    (_raw, r"param_groups has 3 groups, and the optimizer 2 rules; .*add_param_group\("),
]


@pytest.mark.usefixtures("whoever_counts")
@pytest.mark.parametrize(("edit", "said"), EDITS)
def test_groups_edited_by_hand(edit: Callable[[Any], None], said: str) -> None:
    layers = [_model(), _model()]
    groups: list[Any] = [{"params": list(one.named_parameters())} for one in layers]
    opt = rs.optimizer("adamw", groups)
    for one in layers:
        for param in one.parameters():
            param.grad = torch.ones_like(param)
    opt.step()
    edit(opt)
    for act in (opt.step, opt.state_dict, opt.eval):
        with pytest.raises(InputError, match=said):
            act()


@pytest.mark.usefixtures("whoever_counts")
def test_a_step_count_that_is_no_tensor() -> None:
    param = nn.Parameter(torch.ones(2))
    opt = rs.optimizer("adamw", [("w", param)])
    param.grad = torch.ones(2)
    opt.step()
    kept = opt.state[param]["step"]
    opt.state[param]["step"] = 1000
    for _ in range(2):
        with pytest.raises(InputError, match=r"of w in group 0 has step=1000; .*fill_\(1000\)"):
            opt.step()
    opt.state[param]["step"] = kept.fill_(1000)
    opt.step()
    assert opt.state[param]["step"].item() == 1001


@pytest.mark.parametrize("name", ["foreach", "fused", "capturable", "differentiable"])
def test_how_torch_runs_is_asked_for_as_a_mode(name: str) -> None:
    with pytest.raises(InputError, match=f"adamw: '{name}' is torch's; .* mode="):
        rs.optimizer("adamw", [nn.Parameter(torch.ones(2))], **{name: True})
    rs.optimizer("torch/AdamW", [nn.Parameter(torch.ones(2))], foreach=True)


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 0.99, 0.999), "0.9"])
def test_a_pair_is_asked_for_as_one(betas: Any) -> None:
    with pytest.raises(InputError, match=r"adamw: betas=.*: should be a pair"):
        rs.optimizer("adamw", [nn.Parameter(torch.ones(2))], betas=betas)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1, 2], r"param group 0: 1: should be a parameter, or \('its name', parameter\)"),
        ([("w", 1)], r"param group 0: \('w', 1\): should be a parameter"),
        ([nn.Parameter(torch.ones(2)) * 2], r"param group 0: param\.0 was computed from others"),
        ([("w", nn.Parameter(torch.ones(2)) * 2)], "param group 0: w was computed from others"),
        ([{"params": 3}], "param group 0: 'params' should be parameters, not 3"),
        (
            [{"params": [nn.Parameter(torch.ones(2))]}, 3],
            "param group 1 should be a mapping .*not 3",
        ),
    ],
)
def test_what_is_no_parameter(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        rs.optimizer("adamw", given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["2", None, [2]])
def test_what_is_no_number(given: Any) -> None:
    opt = rs.optimizer("adamw", _model())
    with pytest.raises(InputError, match=r"grow: factor=.*: should be a number"):
        opt.grow(given)
    with pytest.raises(InputError, match=r"consumed: tokens=.*: should be finite and not negative"):
        opt.consumed(tokens=given)


ONE_LINE: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: ANY.layerwise_groups(_model(), "a"),
        r"layerwise_groups: decay='a': should be above 0",
    ),
    (lambda: ANY.layerwise_groups(_model(), None), r"layerwise_groups: decay=None: should be"),
    (
        lambda: ANY.layerwise_groups(None, 0.5),
        r"layerwise_groups: .*not an object of type NoneType",
    ),
    (lambda: ANY.match(ADAMW(), role=None), r"match: role=None: should be text, or several"),
    (lambda: ANY.match(ADAMW(), name=3), r"match: name=3: should be text, or several"),
    (lambda: ANY.match(ADAMW(), name=[3]), r"match: name=\(3,\): should be text, or several"),
    (lambda: ANY.match(ADAMW(), min_dim="2"), r"match: min_dim='2': should be a whole number"),
    (lambda: ANY.named("", ADAMW()), r"named: prefix='': should be text"),
    (lambda: ANY.named(3, ADAMW()), r"named: prefix=3: should be text"),
    (lambda: ANY.optimizer("adamw", _model()).step(3), r"step: .* not with an object of type int"),
    (
        lambda: ANY.transforms.blend(MUON(), rs.transforms.trace()),
        r"blend: first=<Policy>: should be a transform, not the policy muon, .* \.lines\[0\]\.rule",
    ),
    (
        lambda: ANY.transforms.blend(rs.transforms.trace(), "lion"),
        r"blend: second='lion': should be a transform, not text; component\('lion'",
    ),
    (lambda: ANY.transforms.trace(ADAMW()), r"trace: momentum=<Transform>: should be a number"),
    (
        lambda: ANY.transforms.trace(torch.ones(200)),
        r"trace: momentum: should be one number, not 200",
    ),
    (lambda: ANY.transforms.trace("a" * 999), r"trace: momentum='a{119}…: should be a number"),
]


@pytest.mark.parametrize(("act", "said"), ONE_LINE)
def test_it_is_refused_in_one_line(act: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_patterns_and_numbers_of_any_kind_make_a_line() -> None:
    line = rs.match(ADAMW(), role=["bias", "norm"], name=(n for n in ANY._DOORS), min_dim=1)
    assert line.role == ("bias", "norm")
    assert rs.layerwise_groups(nn.Sequential(_model()), torch.tensor(0.5).item())


@pytest.mark.parametrize("given", ["{", "[]", "", None, 3])
def test_a_state_whose_written_numbers_are_broken(given: Any) -> None:
    optimizer = rs.optimizer("adamw", _model())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["given"] = given
    with pytest.raises(InputError, match=re.escape(f"group 0 was saved with given={given!r}")):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("states", [[], None, "state"])
def test_a_state_that_is_no_mapping(states: Any) -> None:
    optimizer = rs.optimizer("adamw", _model())
    saved = {**optimizer.state_dict(), "state": states}
    kind = type(states).__name__
    with pytest.raises(InputError, match=f"has a {kind} under 'state', which should be a mapping"):
        optimizer.load_state_dict(saved)
