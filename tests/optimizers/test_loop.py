"""The one loop: the contract of torch.optim, and what ours adds to it."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError, RheostatError
from rheostat.core.transform import Hyper, State
from rheostat.optimizers.changes import load_changed, rename
from rheostat.optimizers.loop import Optimizer

pytestmark = pytest.mark.usefixtures("whoever_counts")


def _param(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def _step(optimizer: Optimizer, param: nn.Parameter, *gradient: float) -> rs.StepResult:
    param.grad = torch.tensor(gradient)
    optimizer.step()
    assert optimizer.last_step is not None
    return optimizer.last_step


def test_state_exists_from_construction_keyed_by_name() -> None:
    model = nn.Linear(3, 2)
    optimizer = rs.optimizer("adamw", model)
    assert isinstance(optimizer, torch.optim.Optimizer)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["weight", "bias"]
    assert set(saved["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert saved["state"][0]["exp_avg"].shape == (2, 3)


def test_a_fresh_step_with_zero_gradients_and_lr_changes_nothing() -> None:
    param = _param(1.0, -0.0, 3e38)
    for rule in ("sgd", "adamw"):
        optimizer = rs.optimizer(rule, [param], lr=0.0)
        before = param.detach().clone()
        _step(optimizer, param, 0.0, 0.0, 0.0)
        assert torch.equal(param.view(torch.int32), before.view(torch.int32))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_gradients(bad: float) -> None:
    param = _param(1.0, 2.0)
    skip = rs.optimizer("adamw", [("w", param)], lr=rs.schedules.cosine(0.1, steps=9))
    result = _step(skip, param, bad, 1.0)
    assert (result.applied, result.step) == (False, 0)
    assert result.reason == "non-finite gradient in w"
    assert param.tolist() == [1.0, 2.0]
    assert skip.state[param]["step"] == 0
    assert skip.param_groups[0]["lr"] == 0.1, "a skipped update does not advance the schedule"

    strict = rs.optimizer("adamw", [("w", param)], nonfinite="raise")
    with pytest.raises(RheostatError, match="gradient of w is not finite"):
        _step(strict, param, bad, 1.0)
    assert param.tolist() == [1.0, 2.0]

    careless = rs.optimizer("sgd", [param], nonfinite="propagate")
    assert _step(careless, param, bad, 1.0).applied
    assert not param.isfinite().all()


def test_huge_finite_gradients_are_not_mistaken_for_infinite_ones() -> None:
    param = _param(1.0, 2.0)
    result = _step(rs.optimizer("sgd", [param], lr=1e-38), param, 3e38, 3e38)
    assert result.grad_norm == pytest.approx(3e38 * math.sqrt(2))
    assert result.reason is not None
    assert result.reason.endswith("is beyond what float32 can square, in param.0")


def test_gradients_are_never_written() -> None:
    param = _param(1.0, 2.0)
    for rule in ("sgd", "adamw"):
        optimizer = rs.optimizer(rule, [param], weight_decay=0.1)
        _step(optimizer, param, 0.5, -0.25)
        assert param.grad is not None
        assert param.grad.tolist() == [0.5, -0.25]


def test_schedules_count_applied_updates() -> None:
    param = _param(1.0)
    schedule = rs.schedules.cosine(1.0, steps=4)
    optimizer = rs.optimizer("sgd", [param], lr=schedule)
    used: list[float] = []
    for k in range(6):
        assert optimizer.param_groups[0]["lr"] == schedule(k)
        before = param.item()
        _step(optimizer, param, 1.0)
        used.append(before - param.item())
    assert used == pytest.approx([schedule(k) for k in range(6)], abs=1e-6)


def test_any_hyperparameter_takes_a_schedule_also_inside_a_tuple() -> None:
    param = _param(1.0)
    rising = rs.schedules.constant(0.5, warmup=4)
    optimizer = rs.optimizer("adamw", [param], betas=(rising, 0.99), weight_decay=rising)
    _step(optimizer, param, 1.0)
    assert optimizer.param_groups[0]["betas"] == (rising(1), 0.99)
    assert optimizer.param_groups[0]["weight_decay"] == rising(1)


def test_overwriting_a_scheduled_hyperparameter_names_its_owner() -> None:
    param = _param(1.0)
    optimizer = rs.optimizer("sgd", [param], lr=rs.schedules.cosine(0.1, steps=9))
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]  # frameworks do this
    _step(optimizer, param, 1.0)
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(InputError, match="lr of param group 0 belongs to its schedule"):
        _step(optimizer, param, 1.0)


def test_groups_override_and_misspelt_keys_are_refused() -> None:
    a, b = _param(1.0), _param(1.0)
    optimizer = rs.optimizer("sgd", [{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.1)
    a.grad, b.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert (a.item(), b.item()) == pytest.approx((0.5, 0.9))
    with pytest.raises(InputError, match="'weight_decya'; did you mean 'weight_decay'"):
        rs.optimizer("sgd", [{"params": [a], "weight_decya": 0.1}])
    with pytest.raises(InputError, match="unknown argument 'momentumm'; did you mean 'momentum'"):
        rs.optimizer("sgd", [a], momentumm=0.9)
    with pytest.raises(InputError, match="no parameters"):
        rs.optimizer("sgd", [])


def test_loading_matches_by_name_not_by_position() -> None:
    first = nn.ParameterDict({"a": _param(1.0), "b": _param(2.0)})
    saved_by = rs.optimizer("adamw", first)
    first["a"].grad, first["b"].grad = torch.ones(1), 3 * torch.ones(1)
    saved_by.step()
    saved = saved_by.state_dict()
    swapped = [("b", _param(2.0)), ("a", _param(1.0))]
    loaded = rs.optimizer("adamw", swapped)
    loaded.load_state_dict(saved)
    for name, param in swapped:
        assert torch.equal(loaded.state[param]["exp_avg"], saved_by.state[first[name]]["exp_avg"])


def test_a_state_that_does_not_fit_changes_nothing_and_lists_every_difference() -> None:
    saved = rs.optimizer("adamw", [("a", _param(1.0)), ("b", _param(1.0, 2.0))]).state_dict()
    a, c = _param(1.0, 5.0), _param(3.0)
    optimizer = rs.optimizer("adamw", [("a", a), ("c", c)], lr=0.25)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(InputError) as caught:
        optimizer.load_state_dict(saved)
    for part in ("no saved state for c", "saved with b", "a.exp_avg was saved with shape (1,)"):
        assert part in str(caught.value)
    assert str(optimizer.state_dict()) == str(before)

    with pytest.raises(InputError, match="was saved"):
        rs.optimizer("sgd", [("a", a), ("c", c)], momentum=0.9).load_state_dict(before)


def test_state_keeps_its_own_dtype_when_loaded() -> None:
    half = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = rs.optimizer("adamw", [half])
    half.grad = torch.full_like(half, 0.1)
    optimizer.step()
    assert optimizer.state[half]["exp_avg"].dtype == torch.float32
    again = rs.optimizer("adamw", [half])
    again.load_state_dict(optimizer.state_dict())
    assert again.state[half]["exp_avg"].dtype == torch.float32
    assert torch.equal(again.state[half]["exp_avg_sq"], optimizer.state[half]["exp_avg_sq"])


def test_state_dict_loads_with_weights_only() -> None:
    optimizer = rs.optimizer("adamw", nn.Linear(2, 2), lr=rs.schedules.cosine(0.1, steps=5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))


def test_a_schedule_is_resumed_by_its_count_and_never_swapped_in_silence() -> None:
    param = _param(1.0)
    schedule = rs.schedules.cosine(0.1, steps=9)
    optimizer = rs.optimizer("sgd", [param], lr=schedule)
    for _ in range(3):
        _step(optimizer, param, 1.0)
    resumed = rs.optimizer("sgd", [param], lr=schedule)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["lr"] == schedule(3)
    other = rs.optimizer("sgd", [param], lr=rs.schedules.cosine(0.2, steps=9))
    with pytest.raises(InputError, match="was saved under the plan"):
        other.load_state_dict(optimizer.state_dict())


def test_a_copy_goes_on_by_itself() -> None:
    param = _param(1.0)
    optimizer = rs.optimizer("adamw", [param], lr=rs.schedules.cosine(0.1, steps=9))
    _step(optimizer, param, 1.0)
    twin = copy.deepcopy(optimizer)
    (copied,) = twin.param_groups[0]["params"]
    _step(optimizer, param, 1.0)
    _step(twin, copied, 1.0)
    assert torch.equal(param, copied)
    assert twin.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_closure_returns_its_loss_and_hooks_run() -> None:
    param = _param(2.0)
    optimizer = rs.optimizer("sgd", [param], lr=0.1)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert param.item() == pytest.approx(1.6)
    assert seen == ["pre", "post"]


def test_frozen_parameters_get_their_state_when_they_are_unfrozen() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    optimizer = rs.optimizer("adamw", model)
    assert model.weight not in optimizer.state
    optimizer.load_state_dict(optimizer.state_dict())
    model.weight.requires_grad_(True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert optimizer.state[model.weight]["step"] == 1


def test_a_group_added_in_mid_training_joins_the_count() -> None:
    a, b = _param(1.0), _param(1.0)
    schedule = rs.schedules.cosine(0.1, steps=9)
    optimizer = rs.optimizer("sgd", [a], lr=schedule)
    for _ in range(3):
        _step(optimizer, a, 1.0)
    optimizer.add_param_group({"params": [b]})
    assert optimizer.param_groups[1]["lr"] == schedule(3)
    assert optimizer.param_groups[1]["param_names"] == ["param.1"]
    b.grad = torch.ones(1)
    optimizer.step()
    assert b.item() == pytest.approx(1 - schedule(3))


def test_torch_schedulers_and_grad_scaler_work_unchanged() -> None:
    model = nn.Linear(2, 1)
    optimizer = rs.optimizer("sgd", model, lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    scaler = torch.amp.GradScaler("cpu")
    lrs: list[Any] = []
    for _ in range(5):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 2)).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    assert lrs == sorted(lrs) or max(lrs) == 1.0
    assert optimizer.param_groups[0]["momentum"] < 0.95


def test_a_saved_state_stays_as_it_was_saved() -> None:
    rule = rs.chain(rs.transforms.ema_weights(0.5), rs.transforms.scale_by_learning_rate(0.1))
    param = _param(1.0, 2.0)
    optimizer = rs.optimizer(rule, [param], accumulate=2)
    _step(optimizer, param, 1.0, 1.0)
    saved = optimizer.state_dict()
    optimizer.eval()
    shown = optimizer.state_dict()
    assert "parked" not in saved["state"][0]
    assert "parked" in shown["state"][0]
    optimizer.train()
    for state, evaluating in ((saved, False), (shown, True)):
        other = rs.optimizer(rule, [_param(1.0, 2.0)], accumulate=2)
        other.load_state_dict(state)
        assert other.param_groups[0]["evaluating"] == evaluating
    for key, value in saved["state"][0].items():
        assert value is optimizer.state[param][key]  # the tensors are shared, as torch's are


def test_the_state_is_packed_as_torch_packs_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = rs.optimizer("muon", model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    mine = optimizer.state_dict()
    theirs = torch.optim.Optimizer.state_dict(optimizer)
    assert mine["param_groups"] == theirs["param_groups"]
    assert [list(group) for group in mine["param_groups"]] == [
        list(group) for group in theirs["param_groups"]
    ]
    assert list(mine["state"]) == list(theirs["state"])
    assert all(mine["state"][place] == held for place, held in theirs["state"].items())


def test_hooks_of_the_state_dict_may_wrap_it() -> None:
    param = _param(1.0)
    optimizer = rs.optimizer("prodigy", [param])
    called: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda _: called.append("pre"))
    optimizer.register_state_dict_post_hook(lambda _, saved: {"wrapped": saved})
    optimizer.register_state_dict_post_hook(lambda *_: called.append("post"))
    _step(optimizer, param, 1.0)
    wrapped = optimizer.state_dict()
    assert list(wrapped) == ["wrapped"]
    assert isinstance(wrapped["wrapped"]["param_groups"][0]["d"], float)
    assert called == ["pre", "post"]
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: saved["wrapped"])
    optimizer.load_state_dict(wrapped)


def test_a_chain_takes_the_learning_rate_at_its_end() -> None:
    param, twin = _param(1.0, -2.0), _param(1.0, -2.0)
    pieces = rs.chain(rs.transforms.scale_by_adam(b2=0.95), rs.transforms.add_decayed_weights(0.1))
    chained = rs.optimizer(pieces, [param], lr=0.01)
    named = rs.optimizer("adamw", [twin], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for gradient in ((0.5, 1.0), (-0.1, 2.0)):
        _step(chained, param, *gradient)
        _step(named, twin, *gradient)
    assert torch.equal(param, twin)
    with pytest.raises(InputError, match="declares the hyperparameter 'weight_decay'"):
        rs.chain(rs.transforms.add_decayed_weights(0.1), rs.transforms.add_decayed_weights(0.2))


def test_a_measure_is_summed_over_parameters_in_the_order_of_their_names() -> None:
    order: list[float] = []

    def measure(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> dict[str, Tensor]:
        order.append(param.item())
        return {"sum": u.sum()}

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u / hyper.measured["sum"]

    rule = rs.chain(
        rs.Transform(lambda u, s, p, h: 2 * u), rs.Transform(update, measure=measure, name="share")
    )
    b, a = _param(10.0), _param(20.0)
    optimizer = rs.optimizer(rule, [("b", b), ("a", a)], lr=1.0)
    b.grad, a.grad = torch.ones(1), 3 * torch.ones(1)
    optimizer.step()
    assert order == [20.0, 10.0]
    assert (b.item(), a.item()) == pytest.approx((9.75, 19.25))


@rs.register("optimizer", "test_one_piece")
def one_piece(
    lr: rs.core.hyper.NonNegative = 0.1, beta: rs.core.hyper.Fraction = 0.5
) -> rs.Transform:
    """Signs of a running mean.

    lr: step size.
    beta: decay rate of the mean.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return state["mean"].lerp_(u, 1 - hyper.beta).sign()

    return rs.Transform(update, buffers={"mean": rs.Buffer()})


@rs.register("optimizer", "test_unscaled_chain")
def unscaled(
    lr: rs.core.hyper.NonNegative = 0.1, b: rs.core.hyper.NonNegative = 0.0
) -> rs.Transform:
    """A chain without a step size.

    lr: step size.
    b: weight decay.
    """
    return rs.chain(rs.transforms.add_decayed_weights(b))


def test_a_rule_in_one_piece_declares_its_hyperparameters_by_its_signature() -> None:
    param = _param(1.0)
    optimizer = rs.optimizer("test_one_piece", [param], lr=0.25)
    assert {k: optimizer.param_groups[0][k] for k in ("lr", "beta")} == {"lr": 0.25, "beta": 0.5}
    _step(optimizer, param, 5.0)
    assert param.item() == 0.75


def test_an_unscaled_chain_keeps_the_lr_of_its_signature() -> None:
    param = _param(1.0)
    optimizer = rs.optimizer("test_unscaled_chain", [param], lr=0.25)
    _step(optimizer, param, 2.0)
    assert param.item() == 0.5


def test_scalars_are_of_the_whole_optimizer() -> None:
    """Prodigy's d holds for every group, also one whose gradients come late or that is added."""
    early, late, added = _param(1.0, 2.0), _param(3.0, 4.0), _param(5.0)
    groups = [{"params": [("b", early)]}, {"params": [("a", late)]}]
    optimizer = rs.optimizer("prodigy", groups)
    for _ in range(20):
        early.grad = early.detach() - 10
        optimizer.step()
    found = [group["d"] for group in optimizer.param_groups]
    assert found[0] == found[1] > 1e-5
    optimizer.add_param_group({"params": [("c", added)]})
    assert optimizer.param_groups[2]["d"] == found[0]
    late.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.param_groups[0]["d"] >= found[0]


def test_weights_loaded_after_construction_are_where_a_rule_starts() -> None:
    for rule in ("schedule_free_sgd", "prodigy", "madgrad"):
        model = nn.Linear(3, 2)
        optimizer = rs.optimizer(rule, model)
        loaded = {name: torch.full_like(p, 0.5) for name, p in model.named_parameters()}
        model.load_state_dict(loaded)
        for param in model.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()
        for name, param in model.named_parameters():
            assert torch.equal(param, loaded[name]), rule


def test_stochastic_rounding_is_right_on_average_and_replays() -> None:
    start = torch.ones(20_000, dtype=torch.bfloat16)
    runs: list[Tensor] = []
    for _ in range(2):
        param = nn.Parameter(start.clone())
        optimizer = rs.optimizer("sgd", [param], lr=1e-3, precision="stochastic")
        param.grad = torch.full_like(param, 0.5)
        optimizer.step()
        runs.append(param.detach())
    assert torch.equal(runs[0], runs[1])
    assert set(runs[0].float().unique().tolist()) == {1.0, 1.0 - 2**-8}
    # 5e-4 of a gap of 2^-8: the mean is right to a few standard errors.
    assert runs[0].float().mean().item() == pytest.approx(1 - 5e-4, abs=5e-5)
    plain = nn.Parameter(start.clone())
    plain.grad = torch.full_like(plain, 0.5)
    rs.optimizer("sgd", [plain], lr=1e-3).step()
    assert torch.equal(plain, start), "rounded to nearest, the update is lost"


def test_masters_keep_what_half_precision_loses() -> None:
    param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = rs.optimizer("sgd", [param], lr=1e-3, precision="master")
    for _ in range(10):
        param.grad = torch.full_like(param, 0.5)
        optimizer.step()
    assert optimizer.state[param]["master"].tolist() == pytest.approx([0.995] * 3, abs=1e-6)
    assert torch.equal(param, optimizer.state[param]["master"].bfloat16())


def test_accumulation_averages_in_a_buffer_of_its_own() -> None:
    param, whole = _param(1.0, 2.0), _param(1.0, 2.0)
    schedule = rs.schedules.cosine(0.1, steps=4)
    optimizer = rs.optimizer("adamw", [param], lr=schedule, accumulate=2)
    plain = rs.optimizer("adamw", [whole], lr=schedule)
    for k in range(3):
        first = _step(optimizer, param, 1.0 + k, -2.0)
        assert (first.applied, first.reason) == (False, "accumulating, 1 of 2")
        assert _step(optimizer, param, 3.0, 4.0).applied
        _step(plain, whole, 2.0 + k / 2, 1.0)
    assert torch.equal(param, whole)
    assert optimizer.param_groups[0]["updates"] == 3
    # In the middle of an accumulation, a resume goes on where it was.
    _step(optimizer, param, 1.0, 1.0)
    twin = nn.Parameter(param.detach().clone())
    other = rs.optimizer("adamw", [twin], lr=schedule, accumulate=2)
    other.load_state_dict(optimizer.state_dict())
    _step(optimizer, param, 5.0, 5.0)
    _step(other, twin, 5.0, 5.0)
    assert torch.equal(param, twin)


def _parts(
    optimizer: Optimizer, params: list[nn.Parameter], *steps: tuple[float | None, ...]
) -> None:
    for gradients in steps:
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = None if gradient is None else torch.full_like(param, gradient)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_an_average_is_of_all_that_came_since_the_last_update(dtype: torch.dtype) -> None:
    """Also where a parameter has no gradient in the last step of an average, or in any."""
    a, b = (nn.Parameter(torch.zeros(1, dtype=dtype)) for _ in range(2))
    optimizer = rs.optimizer("sgd", [a, b], lr=1.0, accumulate=2)
    seen: list[complex] = []
    for gradient in (4.0, None, None, None, 8.0, 8.0, None, 2.0):
        _parts(optimizer, [a, b], (1.0, gradient))
        seen.append(b.item())
        assert (b.grad is None) == (gradient is None)
    assert seen == [0, -2, -2, -2, -2, -10, -10, -11]
    assert a.item() == -4
    assert [optimizer.state[param]["step"].item() for param in (a, b)] == [4, 3]


def test_a_zero_gradient_was_received_also_across_a_resume() -> None:
    """With weight decay it moves the weight; no gradient at all does not."""

    def make() -> tuple[list[nn.Parameter], Optimizer]:
        params = [_param(1.0), _param(1.0)]
        named = zip(("a", "b"), params, strict=True)
        return params, rs.optimizer("sgd", list(named), lr=1.0, weight_decay=0.5, accumulate=2)

    params, optimizer = make()
    _parts(optimizer, params, (None, None), (1.0, 0.0))
    others, resumed = make()
    resumed.load_state_dict(optimizer.state_dict())
    twin = copy.deepcopy(optimizer)
    copied = twin.param_groups[0]["params"]
    for one, weights in ((optimizer, params), (resumed, others), (twin, copied)):
        _parts(one, weights, (1.0, None))
        assert [weight.item() for weight in weights] == [-0.5, 0.5]
        _parts(one, weights, (1.0, None), (1.0, None))
        assert weights[1].item() == 0.5
    # A parameter keeps what it received under another name.
    params, optimizer = make()
    _parts(optimizer, params, (1.0, 0.0))
    c, d = _param(1.0), _param(1.0)
    changed = rs.optimizer("sgd", [("a", c), ("c", d)], lr=1.0, weight_decay=0.5, accumulate=2)
    load_changed(changed, optimizer.state_dict(), [rename({"b": "c"})])
    _parts(changed, [c, d], (1.0, None))
    assert (c.item(), d.item()) == (-0.5, 0.5)


def test_nothing_is_left_of_an_average_that_a_rule_refused() -> None:
    def wrong(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u[:1] if u[0] > 5 else u

    param = _param(0.0, 0.0)
    optimizer = rs.optimizer(rs.Transform(wrong), [param], lr=1.0, accumulate=2)
    with pytest.raises(InputError, match="gave an update of shape"):
        _parts(optimizer, [param], (9.0,), (9.0,))
    _parts(optimizer, [param], (1.0,), (3.0,))
    assert param.tolist() == [-2.0, -2.0]
    assert optimizer.state[param]["step"] == 1


def test_a_grown_average_leaves_out_what_is_not_finite() -> None:
    param = _param(0.0)
    optimizer = rs.optimizer("sgd", [param], lr=1.0)
    optimizer.grow(2.0)
    _parts(optimizer, [param], (1.0,), (math.nan,), (3.0,))
    assert param.item() == -2


def test_sparse_gradients_are_refused_before_they_are_averaged() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = rs.optimizer("sgd", embedding, accumulate=2)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="weight has a sparse gradient"):
        optimizer.step()
    assert not optimizer.state[embedding.weight]["accumulated"].any()


def test_hessian_samples_are_exact_where_they_must_be() -> None:
    """On a diagonal quadratic Hutchinson's sample is the diagonal, whatever the signs."""
    param = _param(1.0, 2.0, 3.0)
    curvature = torch.tensor([2.0, 5.0, 0.5])
    optimizer = rs.optimizer("sophia", [("w", param)], betas=(0.9, 0.0))
    optimizer.observe(lambda: 0.5 * (curvature * param.square()).sum())
    assert torch.allclose(optimizer.state[param]["hessian"], curvature)
    optimizer.observe(lambda: 0.5 * (curvature * param.square()).sum(), "gnb", batch_size=4)
    expected = 4 * (curvature * param.detach()).square()
    assert torch.allclose(optimizer.state[param]["hessian"], expected)
    assert param.grad is None
    assert optimizer.state[param]["step"] == 0
    with pytest.raises(InputError, match="no rule of this optimizer uses"):
        rs.optimizer("sgd", [param]).observe(param.sum)
    with pytest.raises(InputError, match="should be 'hutchinson' or 'gnb'"):
        optimizer.observe(param.sum, "newton")


def test_a_step_without_any_gradient_is_no_update() -> None:
    param = _param(1.0)
    optimizer = rs.optimizer("adamw", [param], lr=rs.schedules.cosine(0.1, steps=9))
    optimizer.step()
    assert optimizer.last_step is not None
    assert (optimizer.last_step.applied, optimizer.last_step.step) == (False, 0)
    assert optimizer.last_step.reason == "no parameter has a gradient"
    for bad in (0, 1.5, "2", True):
        with pytest.raises(InputError, match="accumulate"):
            rs.optimizer("adamw", [param], accumulate=bad)


def test_sparse_gradients_are_refused_by_name() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = rs.optimizer("adamw", embedding)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="weight has a sparse gradient"):
        optimizer.step()


def test_an_added_group_goes_the_way_of_the_others() -> None:
    a, b, c = _param(0.0), _param(0.0), _param(0.0)
    optimizer = rs.optimizer("sgd", [a], lr=0.1, maximize=True, seed=7)
    optimizer.add_param_group({"params": [b]})
    optimizer.add_param_group({"params": [c], "maximize": False, "seed": 8})
    a.grad, b.grad, c.grad = torch.ones(1), torch.ones(1), torch.ones(1)
    optimizer.step()
    assert (a.item(), b.item(), c.item()) == pytest.approx((0.1, 0.1, -0.1))
    assert [group["seed"] for group in optimizer.param_groups] == [7, 7, 8]


def test_the_parameters_of_a_group_are_one_or_many_in_any_iterable() -> None:
    for param in (_param(0.0), _param(1.0, 2.0)):
        for given in (param, [param], iter([param])):
            optimizer = rs.optimizer("sgd", [{"params": given}])
            assert [group["params"] for group in optimizer.param_groups] == [[param]]
    with pytest.raises(InputError, match="no parameters"):
        rs.optimizer("sgd", [{"params": iter(())}])
    with pytest.raises(InputError, match="group 0 has no 'params'; it has parms, lr"):
        rs.optimizer("sgd", [{"parms": [_param(1.0)], "lr": 0.1}])


@pytest.mark.parametrize("twice", [[("a", 0), ("b", 0)], [("a", 0), ("a", 0)], [0, 0]])
def test_a_parameter_given_twice_is_stepped_once_under_its_first_name(twice: list[Any]) -> None:
    param = _param(1.0)
    given = [(one[0], param) if isinstance(one, tuple) else param for one in twice]
    rule = rs.policy(rs.match(rs.transforms.scale_by_learning_rate(1.0)))
    for optimizer in (rs.optimizer("sgd", given, lr=1.0), rs.optimizer(rule, given)):
        (group,) = optimizer.param_groups
        assert group["param_names"] == ["a" if isinstance(twice[0], tuple) else "param.0"]
        before = param.item()
        _step(optimizer, param, 0.25)
        assert param.item() == before - 0.25
        optimizer.add_param_group({"params": [_param(2.0)]})


def test_two_parameters_of_one_name_in_a_group_are_refused() -> None:
    """By name a state finds its parameter again."""
    nets = [nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)]
    pairs = [pair for net in nets for pair in net.named_parameters()]
    with pytest.raises(InputError, match="group 0: two parameters are named 'weight'; give"):
        rs.optimizer("adam", pairs)
    with pytest.raises(InputError, match="group 0: two parameters are named 'weight'; give"):
        rs.optimizer(rs.policy(rs.match(rs.transforms.trace(0.9))), pairs)
    rs.optimizer("adam", [{"params": [pair]} for pair in pairs])  # states are found by group
    with pytest.raises(InputError, match="group 1: other is in param group 0 already; give it"):
        rs.optimizer("adam", [{"params": [pair]} for pair in (pairs[0], ("other", pairs[0][1]))])
    rs.optimizer("adam", [(f"{i}.{name}", param) for i, (name, param) in enumerate(pairs)])
