"""Loading takes the saved numbers, and says so where the optimizer was made with others."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError, RheostatWarning


def _made(**arguments: Any) -> Any:
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    return rs.optimizer("adamw", [param], **arguments)


def _silently(optimizer: Any, state: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(copy.deepcopy(state))


def test_other_numbers_go_on_and_are_named() -> None:
    saved = _made(lr=0.1, betas=(0.9, 0.95)).state_dict()
    optimizer = _made(lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    with pytest.warns(RheostatWarning) as caught:
        optimizer.load_state_dict(saved)
    (warning,) = caught
    assert str(warning.message) == (
        "load_state_dict: the saved numbers go on in place of those that this optimizer was made "
        "with: betas [0.9, 0.95] of group 0 (made with [0.9, 0.99]), lr 0.1 of group 0 (made with "
        "0.05); write to param_groups after loading to change them"
    )
    assert warning.filename == __file__
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    # The same again is no news, and what was written by hand since is nobody's surprise.
    _silently(optimizer, saved)
    optimizer.param_groups[0].update(lr=0.05, betas=(0.9, 0.99))
    _silently(_made(lr=0.05, betas=(0.9, 0.99)), optimizer.state_dict())


@pytest.mark.parametrize("tensor", [False, True])
def test_numbers_that_only_moved_are_no_news(tensor: bool) -> None:
    def made() -> tuple[Any, Any]:
        optimizer = _made(lr=torch.tensor(0.1) if tensor else 0.1)
        return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 10)

    optimizer, scheduler = made()
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    saved = optimizer.state_dict()
    resumed, _ = made()
    _silently(resumed, saved)  # the scheduler had begun with another lr here
    assert float(resumed.param_groups[0]["lr"]) == pytest.approx(0.065)
    plateau = _made(lr=0.1)
    plateau.param_groups[0]["lr"] = 0.01
    _silently(_made(lr=0.1), plateau.state_dict())


def test_a_scheduled_number_and_a_frameworks_round_trip_are_no_news() -> None:
    lr = rs.schedules.cosine(0.1, steps=10)
    optimizer = _made(lr=lr)
    optimizer.step()
    _silently(_made(lr=lr), optimizer.state_dict())
    _silently(optimizer, optimizer.state_dict())  # as accelerate does when it prepares one


def test_each_group_is_held_against_its_own() -> None:
    def made(decay: float, factor: float) -> Any:
        params = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": decay}]
        groups[0]["lr_factor"] = factor
        return rs.optimizer("adamw", groups, lr=0.1)

    with pytest.warns(RheostatWarning, match=r"lr_factor 0.5 of group 0 .*weight_decay 0.0 of gro"):
        made(0.1, 1.0).load_state_dict(made(0.0, 0.5).state_dict())


def _chained(*pieces: rs.Transform) -> Any:
    param = nn.Parameter(torch.ones(2, 3))
    param.grad = torch.ones(2, 3)
    return rs.optimizer(
        rs.chain(rs.component("sgd", "optimizer").factory(lr=0.1), *pieces), [param]
    )


def _named(name: str) -> Any:
    def made(**arguments: Any) -> Any:
        param = nn.Parameter(torch.ones(2, 3))
        param.grad = torch.ones(2, 3)
        rule = rs.component(name, "optimizer").factory(**arguments)
        # Not alone, so that its own name is that of a part.
        return rs.optimizer(rs.chain(rs.transforms.clip_by_global_norm(1.0), rule), [param])

    return made


T = rs.transforms
BUILT_IN: list[tuple[Any, dict[str, Any], dict[str, Any], str]] = [
    (_named("schedule_free_adamw"), {}, {"warmup_steps": 7}, "schedule_free_adamw.warmup_steps 7"),
    (_named("ademamix"), {"alpha_warmup": 3}, {}, "ademamix.alpha_warmup 0"),
    (_named("ademamix"), {"beta3_warmup": 3}, {"beta3_warmup": 4}, "ademamix.beta3_warmup 4"),
    (_named("soap"), {}, {"precondition_frequency": 3}, "soap.precondition_frequency 3"),
    (lambda k: _chained(T.lookahead(k)), {"k": 3}, {"k": 5}, "lookahead.k 5"),
    (lambda k: _chained(rs.named("x", T.lookahead(k))), {"k": 3}, {"k": 5}, "x.lookahead.k 5"),
    (
        lambda start: _chained(T.swa_weights(start)),
        {"start": 3},
        {"start": 4},
        "swa_weights.start 4",
    ),
    (lambda dim: _chained(T.unit_norm(dim)), {"dim": 0}, {"dim": None}, "unit_norm.dim null"),
    (
        lambda first, last: _chained(T.max_norm(1.0, first), T.unit_norm(first), T.unit_norm(last)),
        {"first": 0, "last": 0},
        {"first": 0, "last": 1},
        r"unit_norm.dim (2) 1",
    ),
]


@pytest.mark.parametrize(
    ("make", "one", "other", "said"), BUILT_IN, ids=[said for *_, said in BUILT_IN]
)
def test_whole_numbers_that_are_built_in_stay_and_are_named(
    make: Any, one: dict[str, Any], other: dict[str, Any], said: str
) -> None:
    optimizer = make(**one)
    optimizer.step()
    saved = optimizer.state_dict()
    _silently(make(**one), saved)
    with pytest.warns(RheostatWarning) as caught:
        make(**other).load_state_dict(saved)
    (warning,) = caught
    assert f"what is built into this optimizer stays: {said} of group 0 (saved" in str(
        warning.message
    )
    assert warning.filename == __file__


def test_both_kinds_are_told_in_one_warning_and_what_nobody_wrote_down_is_no_news() -> None:
    saved = _named("ademamix")(lr=0.1, alpha_warmup=3).state_dict()
    with pytest.warns(RheostatWarning) as caught:
        _named("ademamix")(lr=0.2).load_state_dict(copy.deepcopy(saved))
    (warning,) = caught
    assert str(warning.message) == (
        "load_state_dict: the saved numbers go on in place of those that this optimizer was made "
        "with: lr 0.1 of group 0 (made with 0.2); write to param_groups after loading to change "
        "them; and what is built into this optimizer stays: ademamix.alpha_warmup 0 of group 0 "
        "(saved with 3); make it with the saved number to go on as before"
    )
    given = json.loads(saved["param_groups"][0]["given"])
    del given["built in"]  # as past releases saved it
    saved["param_groups"][0]["given"] = json.dumps(given)
    _silently(_named("ademamix")(lr=0.1), saved)


def _count_of_a_vector(state: dict[str, Any]) -> None:
    state["state"][0]["step"] = torch.ones(1)


def _count_that_is_none(state: dict[str, Any]) -> None:
    state["state"][0]["step"] = torch.tensor(float("nan"))


def _no_buffer(state: dict[str, Any]) -> None:
    state["state"][0]["exp_avg"] = None


def _complex_buffer(state: dict[str, Any]) -> None:
    state["state"][0]["exp_avg"] = torch.ones(3, dtype=torch.complex64)


def _sparse_buffer(state: dict[str, Any]) -> None:
    state["state"][0]["exp_avg"] = torch.ones(3).to_sparse()


def _group(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state["param_groups"][0].update({key: value})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            _count_of_a_vector,
            r"param.0.step was saved as tensor\(\[1.\]\), which should be a count",
        ),
        (_count_that_is_none, r"param.0.step was saved as tensor\(nan\)"),
        (_no_buffer, "param.0.exp_avg was saved as None, which should be a tensor"),
        (_complex_buffer, "param.0.exp_avg was saved as torch.strided of torch.complex64"),
        (_sparse_buffer, "param.0.exp_avg was saved as torch.sparse_coo of torch.float32"),
        (_group("factors", "x"), "group 0 was saved with factors='x'"),
        (_group("limit", "x"), "group 0 was saved with limit='x'"),
        (_group("updates", None), "group 0 was saved with updates=None"),
        (_group("growth", "x"), "has growth='x', which should be a number"),
    ],
)
def test_what_no_step_could_go_on_from_is_refused_whole(
    spoil: Callable[[dict[str, Any]], None], said: str
) -> None:
    saved = copy.deepcopy(_made(lr=0.5).state_dict())
    saved["state"][0]["exp_avg_sq"].fill_(9.0)
    spoil(saved)
    optimizer = _made(lr=0.1)
    before = str(optimizer.state_dict())
    with pytest.raises(InputError, match=said):
        optimizer.load_state_dict(saved)
    assert str(optimizer.state_dict()) == before
    optimizer.step()


def test_a_count_may_be_saved_as_a_plain_number() -> None:
    optimizer = _made()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"] = 7
    optimizer.load_state_dict(saved)
    optimizer.step()
    (state,) = optimizer.state.values()
    assert state["step"].item() == 8
