"""Schedule-free SGD, AdamW and RAdam against the authors' package, the paper, and averaged SGD."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import schedulefree
import torch
from tests.references import schedule_free as paper
from tests.references.problems import batches, loss_of, network, same_bits, train, weights
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import identity

SGD, ADAMW, RADAM = "schedule_free_sgd", "schedule_free_adamw", "schedule_free_radam"
PEERS: dict[str, Any] = {
    SGD: schedulefree.SGDScheduleFree,
    ADAMW: schedulefree.AdamWScheduleFree,
    RADAM: schedulefree.RAdamScheduleFree,
}
WARM = {"warmup_steps": 20, "r": 1.0, "weight_lr_power": 1.0}
CASES: list[tuple[str, dict[str, Any]]] = [
    (SGD, {}),
    (SGD, {"lr": 0.3, "momentum": 0.95, "weight_decay": 0.01, **WARM}),
    (SGD, {"lr": 0.3, "momentum": 0.5, "weight_lr_power": 0.0}),
    (ADAMW, {}),
    (ADAMW, {"lr": 0.03, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.1, **WARM}),
    (RADAM, {}),
    (RADAM, {"lr": 0.03, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.1, "r": 0.5}),
    (RADAM, {"lr": 0.01, "silent_sgd_phase": False, "weight_lr_power": 1.0}),
    (RADAM, {"lr": 0.01, "silent_sgd_phase": False, "betas": (0.9, 0.5)}),  # never rectified
]
DEFAULTS = [(name, {}) for name in PEERS]
ZERO_BETA: list[tuple[str, dict[str, Any]]] = [
    (SGD, {"lr": 0.3, "momentum": 0.0}),
    (ADAMW, {"lr": 0.03, "betas": (0.0, 0.99)}),
    (RADAM, {"lr": 0.03, "betas": (0.0, 0.99)}),
]


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_authors_package(
    name: str, arguments: dict[str, Any], dtype: torch.dtype
) -> None:
    mine, other = network(dtype), network(dtype)
    ours = rs.optimizer(name, mine, **arguments)
    theirs = PEERS[name](other.parameters(), **arguments)
    theirs.train()
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6
    for first in (0, 50):
        train(mine, ours, 50, first)
        train(other, theirs, 50, first)
        torch.testing.assert_close(weights(mine), weights(other), rtol=tolerance, atol=tolerance)
        ours.eval()
        theirs.eval()
        torch.testing.assert_close(weights(mine), weights(other), rtol=tolerance, atol=tolerance)
        ours.train()
        theirs.train()


def test_equals_the_papers_algorithm_under_a_schedule() -> None:
    hessian = np.diag([1.0, 0.3, 0.05])
    start, target = np.array([1.0, -2.0, 0.5]), np.array([0.2, 0.4, -0.1])
    rates = [0.05 * (1 + np.sin(t)) for t in range(80)]
    settings: dict[str, Any] = {"betas": (0.85, 0.97), "eps": 1e-7, "weight_decay": 0.05, "r": 0.7}
    y, x = paper.schedule_free_adamw(
        start, lambda w, t: hessian @ (w - target) + np.cos(t), rates, power=1.5, **settings
    )
    param = nn.Parameter(torch.from_numpy(start))
    optimizer = rs.optimizer(ADAMW, [param], weight_lr_power=1.5, **settings)
    for t, rate in enumerate(rates, 1):
        optimizer.param_groups[0]["lr"] = rate
        slope = hessian @ (param.detach().numpy() - target) + np.cos(t)
        param.grad = torch.from_numpy(slope)
        optimizer.step()
    np.testing.assert_allclose(param.detach(), y, rtol=1e-11)
    with optimizer.averaged():
        np.testing.assert_allclose(param.detach(), x, rtol=1e-11)


def test_at_beta_0_it_is_sgd_and_the_view_its_average() -> None:
    mine, other = network(), network()
    ours = rs.optimizer(SGD, mine, lr=0.2, momentum=0.0)
    theirs = torch.optim.SGD(other.parameters(), lr=0.2)
    iterates: list[list[Tensor]] = []
    for k in range(50):
        train(mine, ours, 1, k)
        train(other, theirs, 1, k)
        iterates.append(weights(other))
    torch.testing.assert_close(weights(mine), weights(other), rtol=1e-13, atol=1e-14)
    means = [torch.stack(one).mean(0) for one in zip(*iterates, strict=True)]
    with ours.averaged():
        torch.testing.assert_close(weights(mine), means, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "arguments"), ZERO_BETA)
def test_the_rules_kept_by_x_and_by_z_are_one(name: str, arguments: dict[str, Any]) -> None:
    """β = 0 keeps x in the buffer, β > 0 keeps z: towards 0 the second becomes the first."""
    tiny = {"momentum": 1e-5} if "momentum" in arguments else {"betas": (1e-5, 0.99)}
    found: list[list[Tensor]] = []
    for given in (arguments, {**arguments, **tiny}):
        model = network()
        optimizer = rs.optimizer(name, model, **given)
        train(model, optimizer, 50)
        kept = {key for key in optimizer.state[next(model.parameters())] if key in ("x", "z")}
        assert kept == ({"x"} if given is arguments else {"z"})
        with optimizer.averaged():
            found.append(weights(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_a_beta_raised_from_0_in_mid_training_is_obeyed() -> None:
    param = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    # With β₂ = 0 and eps = 1 the denominator is 2: a step of z is 0.1.
    optimizer = rs.optimizer(ADAMW, [param], betas=(0.0, 0.0), lr=0.2, eps=1.0)
    param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.step()
    assert param.item() == pytest.approx(0.8)
    optimizer.param_groups[0]["betas"] = (0.5, 0.0)
    optimizer.step()
    # y = 0.8 and x = 0.85 hold, so z is 0.75 by the new β, then 0.65; the third point weighs 1/3.
    x = 0.85 + (0.65 - 0.85) / 3
    assert param.item() == pytest.approx(0.5 * 0.65 + 0.5 * x)
    with optimizer.averaged():
        assert param.item() == pytest.approx(x)


@pytest.mark.parametrize(("name", "arguments"), [*CASES, *ZERO_BETA])
def test_a_late_first_gradient_starts_an_average_of_its_own(
    name: str, arguments: dict[str, Any]
) -> None:
    late = nn.Parameter(torch.linspace(-1, 1, 7))
    early = nn.Parameter(torch.ones(5))
    fresh = nn.Parameter(late.detach().clone())
    ours = rs.optimizer(name, [late, early], **arguments)
    alone = rs.optimizer(name, [fresh], **arguments)
    for _ in range(100):
        early.grad = torch.full_like(early, 0.3)
        ours.step()
    for k in range(30):
        late.grad = fresh.grad = torch.linspace(0.5, 2, 7).sin() + k
        ours.step()
        alone.step()
        assert torch.equal(late, fresh)
    ours.eval()
    alone.eval()
    assert torch.equal(late, fresh)


@pytest.mark.parametrize(("name", "arguments"), [*CASES, *ZERO_BETA])
def test_lr_0_is_an_exact_no_op_and_spoils_nothing(name: str, arguments: dict[str, Any]) -> None:
    param = nn.Parameter(torch.tensor([1.0, -0.0, 3e38, 1e-40]))
    before = param.detach().clone()
    optimizer = rs.optimizer(name, [param], **{**arguments, "lr": 0.0})
    for gradient in (torch.zeros(4), torch.tensor([0.5, 1.0, 2.0, 1.0])):
        param.grad = gradient
        for _ in range(3):
            optimizer.step()
            assert torch.equal(param.view(torch.int32), before.view(torch.int32))
    optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(10):
        optimizer.step()
    assert param.isfinite().all()
    assert (param[:2] < before[:2]).all()


@pytest.mark.parametrize(("name", "arguments"), [*CASES, *ZERO_BETA])
@pytest.mark.parametrize("evaluating", [False, True])
def test_a_resumed_run_is_the_same_run(
    name: str, arguments: dict[str, Any], evaluating: bool
) -> None:
    whole = network(torch.float32)
    straight = rs.optimizer(name, whole, **arguments)
    train(whole, straight, 12)
    if evaluating:
        straight.eval()
    model = copy.deepcopy(whole)
    again = rs.optimizer(name, model, **arguments)
    again.load_state_dict(copy.deepcopy(straight.state_dict()))
    for one, optimizer in ((whole, straight), (model, again)):
        optimizer.train()
        train(one, optimizer, 12, 12)
    assert same_bits(weights(whole), weights(model))
    straight.eval()
    again.eval()
    assert same_bits(weights(whole), weights(model))


@pytest.mark.parametrize(("name", "arguments"), [*DEFAULTS, *ZERO_BETA])
def test_eval_and_train_put_every_bit_back(name: str, arguments: dict[str, Any]) -> None:
    watched, plain = network(torch.float32), network(torch.float32)
    one, other = (rs.optimizer(name, m, **arguments) for m in (watched, plain))
    for k in range(20):
        train(watched, one, 1, k)
        train(plain, other, 1, k)
        before = weights(watched)
        one.eval()
        one.eval()
        assert k == 0 or not same_bits(before, weights(watched)) or name == RADAM
        one.train()
        one.train()
        assert same_bits(before, weights(watched))
    assert same_bits(weights(watched), weights(plain))


def test_without_a_step_the_view_is_the_parameter() -> None:
    for name, arguments in (*DEFAULTS, *ZERO_BETA):
        model = network(torch.float32)
        before = weights(model)
        optimizer = rs.optimizer(name, model, **arguments)
        optimizer.eval()
        assert same_bits(before, weights(model))


def test_a_momentum_set_to_0_in_mid_training_is_refused_where_it_matters() -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = rs.optimizer(SGD, [param])
    param.grad = torch.ones(2)
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.0
    with pytest.raises(InputError, match="build the optimizer with 0"):
        optimizer.eval()


def test_half_precision_parameters_keep_a_float32_base_point() -> None:
    param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = rs.optimizer(ADAMW, [param], warmup_steps=5)
    for _ in range(4):
        param.grad = torch.full_like(param, 0.1)
        optimizer.step()
    state = optimizer.state[param]
    assert state["z"].dtype == state["exp_avg_sq"].dtype == torch.float32
    assert state["weight_sum"].dtype == torch.float64
    # Every step of Adam on a constant gradient has the size of lr: 2.5e-3 (1 + 2 + 3 + 4) / 5.
    torch.testing.assert_close(state["z"], torch.full((3,), 1 - 5e-3), rtol=1e-5, atol=0)


def test_as_a_transform_it_ends_a_chain_of_other_pieces() -> None:
    mine, other = network(), network()
    rule = rs.chain(
        rs.transforms.clip_by_global_norm(0.1),
        rs.transforms.add_decayed_weights(0.01),
        rs.transforms.schedule_free_step(lr=0.5, momentum=0.8, warmup_steps=10),
    )
    ours = rs.optimizer(rule, mine)
    theirs = schedulefree.SGDScheduleFree(
        other.parameters(), lr=0.5, momentum=0.8, warmup_steps=10, weight_decay=0.01
    )
    theirs.train()
    for k in range(50):
        train(mine, ours, 1, k)
        loss_of(other, batches(1, k)[0]).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.1)
        theirs.step()
        theirs.zero_grad()
    torch.testing.assert_close(weights(mine), weights(other), rtol=1e-12, atol=1e-13)


WRITERS: dict[str, Callable[[], rs.Transform]] = {
    "non_negative": rs.transforms.non_negative,
    "box": rs.transforms.box,
    "unit_norm": rs.transforms.unit_norm,
    "max_norm": rs.transforms.max_norm,
    "lookahead": rs.transforms.lookahead,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("rule", ["schedule_free_sgd", "schedule_free_adamw"])
def test_what_moves_the_weights_besides_is_refused(rule: str, name: str) -> None:
    made = rs.component(rule, "optimizer").factory
    said = f"chain: {name} moves the weights .* those of schedule_free_step are a mixture.* adamw"
    for pieces in (
        (made(), WRITERS[name]()),
        (WRITERS[name](), made()),
        (rs.named("inner", made()), WRITERS[name]()),
        (rs.transforms.clip_by_global_norm(1.0), rs.chain(made()), WRITERS[name]()),
    ):
        with pytest.raises(InputError, match=said) as caught:
            rs.chain(*pieces)
        assert "\n" not in str(caught.value)
    lines = rs.policy(rs.match(made()))
    with pytest.raises(InputError, match=said):
        lines.after(WRITERS[name]())


CHANGERS: dict[str, Callable[[], rs.Transform]] = {
    "clip_by_global_norm": lambda: rs.transforms.clip_by_global_norm(1.0),
    "scale_by_adam": rs.transforms.scale_by_adam,
    "add_decayed_weights": rs.transforms.add_decayed_weights,
    "cautious_update": rs.transforms.cautious_update,
    "orthogonalize": rs.transforms.orthogonalize,
}


@pytest.mark.parametrize("name", CHANGERS)
def test_what_would_change_the_step_behind_it_is_refused(name: str) -> None:
    step, piece = rs.transforms.schedule_free_step(), CHANGERS[name]()
    said = f"chain: {name} would change the step of schedule_free_step, .*; put {name} before"
    for pieces in (
        (step, piece),
        (rs.chain(rs.Transform(identity), step), rs.chain(piece)),
        (rs.named("inner", step), rs.named("outer", piece)),
    ):
        with pytest.raises(InputError, match=said) as caught:
            rs.chain(*pieces)
        assert "\n" not in str(caught.value)
    assert rs.chain(piece, step).scaled


def test_what_leaves_the_update_alone_may_stand_behind_it() -> None:
    silent = rs.Transform(identity, name="silent")
    step = rs.transforms.schedule_free_step
    assert rs.chain(step(), silent).scaled
    assert rs.chain(step(), rs.named("outer", silent), rs.transforms.sam(0.1)).scaled
