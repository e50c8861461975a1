"""The numbers that stay on an accelerator: no step waits for it, and the weights are the host's.

Without an accelerator both can be shown. On a fake CUDA tensor `.item()`, `bool()` and `float()`
raise, so that a step over fake parameters which ends has not waited. And the way of a device runs
on the CPU where it is told to, with numbers to compare.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import rheostat as rs
from rheostat.core.errors import RheostatError
from rheostat.core.transform import Hyper, Transform, chain
from rheostat.optimizers import compiled, device, fused
from rheostat.optimizers.compiled import CompiledKernel
from rheostat.optimizers.fused import FusedKernel
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.numbers import Number

WAITS = {
    "lbfgs": "a line search reads losses and slopes",
    "soap": "its bases are refreshed by the parameter's own count, and eigh checks itself",
    "shampoo": "its roots are taken by the parameter's own count, and eigh checks itself",
    "psgd_kron": "its factors move by the parameter's own count, and noise is drawn by it",
    "galore": "its spaces change by the parameter's own count, and svd checks itself",
}
"""Rules whose steps wait for an accelerator, and why."""

NAMES = [c.name for c in rs.components("optimizer") if c.module.startswith("rheostat.")]
STAYS = [name for name in NAMES if name not in WAITS]
SCHEDULE = rs.schedules.cosine(0.01, steps=20)


def _rules(name: str) -> list[Transform]:
    made = rs.optimizer(name, nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), mode="eager")
    return [made.rule(index) for index in range(len(made.param_groups))]


def _runs(name: str, mode: str) -> bool:
    can = {"fused": FusedKernel.can_run, "compiled": CompiledKernel.can_run}
    return mode == "eager" or all(can[mode](rule) for rule in _rules(name))


WAYS = [
    (name, mode) for name in STAYS for mode in ("eager", "fused", "compiled") if _runs(name, mode)
]


def _params(like: str = "cpu") -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(20, 12), (7,), (), (0, 3), (3, 4, 2, 2)]
    return [
        (f"p{i}", nn.Parameter(torch.randn(shape, generator=generator).to(like)))
        for i, shape in enumerate(shapes)
    ]


def _give(params: list[tuple[str, nn.Parameter]], k: int, bad: tuple[int, ...] = ()) -> None:
    """Gradients of step k: those of the second parameter are missing at times."""
    generator = torch.Generator().manual_seed(50 + k)
    for i, (_, param) in enumerate(params):
        gradient = torch.randn(param.shape, generator=generator)
        if k in bad and i == 0:
            gradient.view(-1)[3] = float("nan")
        param.grad = None if i == 1 and k in (1, 4) else gradient


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers stay on the "device" of parameters that are on the CPU."""
    monkeypatch.setattr(device, "DEVICE_TYPES", {"cpu"})


def _both_ways(
    monkeypatch: pytest.MonkeyPatch, rule: Any, bad: tuple[int, ...] = (), **arguments: Any
) -> tuple[Optimizer, Optimizer]:
    """An optimizer whose host counts, and one whose device does, after the same eight steps."""
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = _params()
        opt = rs.optimizer(rule() if callable(rule) else rule, params, **arguments)
        for k in range(8):
            _give(params, k, bad)
            opt.step()
        ways.append(opt)
    return ways[0], ways[1]


def _weights(opt: Optimizer) -> list[Tensor]:
    return [p.detach() for group in opt.param_groups for p in group["params"]]


def _assert_same(host: Optimizer, there: Optimizer) -> None:
    mine, other = host.last_step, there.last_step
    assert mine is not None
    assert other is not None
    assert (mine.applied, mine.step, mine.reason) == (other.applied, other.step, other.reason)
    if mine.grad_norm is not None:  # the host's is summed in the gradients' own precision
        assert mine.grad_norm == pytest.approx(other.grad_norm, rel=2e-3)
    for weight, same in zip(_weights(host), _weights(there), strict=True):
        torch.testing.assert_close(weight, same, rtol=2e-6, atol=2e-7)
    for a, b in zip(host.state.values(), there.state.values(), strict=True):
        assert a.keys() == b.keys()
        assert a["step"].dtype == b["step"].dtype
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], rtol=2e-5, atol=1e-6)
    saved = there.state_dict()["param_groups"]
    for a, b in zip(host.state_dict()["param_groups"], saved, strict=True):
        assert {k: type(v) for k, v in a.items()} == {k: type(v) for k, v in b.items()}
        for key, value in a.items():
            if isinstance(value, float):
                assert b[key] == pytest.approx(value, rel=1e-6), key
        assert a["updates"] == b["updates"]


# -- the same numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAYS)
def test_the_device_steps_to_the_weights_of_the_host(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps that are skipped (the first among them), and counts that differ."""
    host, there = _both_ways(monkeypatch, name, bad=(0, 3), mode="eager")
    assert there._roster.resident is not None
    assert host._roster.resident is None
    _assert_same(host, there)


@pytest.mark.parametrize("name", [n for n in STAYS if _runs(n, "fused")])
def test_fused_kernels_leave_all_as_it_is_where_a_step_is_skipped(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, there = _both_ways(monkeypatch, name, bad=(0, 3), mode="fused", lr=SCHEDULE)
    _assert_same(host, there)


@pytest.mark.parametrize("name", ["lion", "lamb", "prodigy", "nadam"])
def test_compiled_kernels_choose_inside(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The graph itself, uncompiled: the compiler's own rounding is not asked for here.
    monkeypatch.setattr(compiled, "_compiled", lambda graph: graph.forward)
    host, there = _both_ways(monkeypatch, name, bad=(0, 3), mode="compiled")
    _assert_same(host, there)


@pytest.mark.slow
def test_a_compiled_kernel_chooses_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    host, there = _both_ways(monkeypatch, "lion", bad=(2,), mode="compiled", lr=SCHEDULE)
    _assert_same(host, there)


@pytest.mark.parametrize("nonfinite", ["raise", "propagate"])
def test_without_the_skip_no_step_is_in_doubt(
    nonfinite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, there = _both_ways(monkeypatch, "adamw", nonfinite=nonfinite, mode="eager", lr=SCHEDULE)
    _assert_same(host, there)
    params = _params()
    opt = rs.optimizer("adamw", params, nonfinite="raise")
    _give(params, 0, bad=(0,))
    with pytest.raises(RheostatError, match="gradient of p0 is not finite"):
        opt.step()


def test_pieces_around_a_rule_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = rs.transforms
    rules = [
        lambda: chain(
            pieces.clip_by_global_norm(rs.schedules.cosine(1.0, steps=9)),
            pieces.scale_by_adam(),
            pieces.add_cautious_decay(0.1),
            pieces.scale_by_learning_rate(0.01),
            pieces.box(-0.5, 0.5),
            pieces.ema_weights(0.9, bias_correction=True),
        ),
        lambda: chain(
            pieces.adaptive_gradient_clip(0.1),
            pieces.trace(0.9, 0.5),
            pieces.limit_update_rms(0.5),
            pieces.scale_by_learning_rate(0.01),
            pieces.lookahead(3),
            pieces.max_norm(2.0),
        ),
        lambda: chain(
            pieces.clip_by_percentile(50.0, 4),
            pieces.grokfast_ema(),
            pieces.scale_by_learning_rate(0.01),
            pieces.swa_weights(3, 2),
        ),
        lambda: chain(pieces.clip_by_value(0.5), pieces.scale_by_learning_rate(0.01)),
    ]
    for rule in rules:
        for mode in ("auto", "eager"):
            _assert_same(*_both_ways(monkeypatch, rule, bad=(0, 3), mode=mode))


@pytest.mark.parametrize("precision", ["plain", "master"])
def test_half_precision_agrees(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = [("p", nn.Parameter(torch.linspace(-1, 1, 40).bfloat16()))]
        opt = rs.optimizer("adafactor_bv", params, lr=0.1, precision=precision)
        for k in range(5):
            bad = float("inf") if k in (0, 2) else 1.0
            params[0][1].grad = torch.linspace(-k, 3, 40).mul(bad).bfloat16()
            opt.step()
        ways.append(opt)
    _assert_same(*ways)


def test_the_first_attempt_takes_the_weights_as_they_are_then(on_cpu: None) -> None:
    param = nn.Parameter(torch.zeros(3))
    opt = rs.optimizer("schedule_free_sgd", [param], lr=0.1)
    param.data.fill_(2.0)
    param.grad = torch.zeros(3)
    opt.step()
    assert opt.state[param]["z"].tolist() == [2.0] * 3


def test_float64_gradients_whose_squares_overflow_are_finite(on_cpu: None) -> None:
    param = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    opt = rs.optimizer("signum", [param], lr=0.5)
    for largest, steps in ((1e300, 1), (float("inf"), 1), (1e300, 2)):
        param.grad = torch.tensor([largest, -1.0], dtype=torch.float64)
        opt.step()
        assert opt.last_step is not None
        assert opt.last_step.step == steps


# -- what the host learns --------------------------------------------------------------------------


def test_a_result_is_read_when_it_is_asked_for(on_cpu: None) -> None:
    params = _params()
    opt = rs.optimizer("adamw", params, lr=SCHEDULE)
    results = []
    for k in range(4):
        _give(params, k, bad=(2,))
        opt.step()
        results.append(opt.last_step)
    # Until somebody asks, every step counts as applied.
    assert opt.param_groups[0]["updates"] == 4
    assert [result.applied for result in results] == [True, True, False, True]
    assert [result.step for result in results] == [1, 2, 2, 3]
    assert results[2].reason == "non-finite gradient in p0"
    assert results[3].reason is None
    assert results[3].grad_norm == pytest.approx(
        sum(float(p.grad.double().square().sum()) for _, p in params if p.grad is not None) ** 0.5
    )
    assert opt.param_groups[0]["updates"] == 3
    assert opt.param_groups[0]["lr"] == SCHEDULE(3)
    assert results[2] == copy.deepcopy(results[2])
    assert "reason='non-finite gradient in p0'" in repr(results[2])


def test_a_state_dict_holds_what_was_applied(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("adamw", "prodigy"):
        monkeypatch.setattr(device, "DEVICE_TYPES", {"cpu"})
        params = _params()
        opt = rs.optimizer(name, params, lr=SCHEDULE)
        for k in range(3):
            _give(params, k, bad=(0,))
            opt.step()
        saved = copy.deepcopy(opt.state_dict())
        assert saved["param_groups"][0]["updates"] == 2
        weights = [(n, nn.Parameter(p.detach().clone())) for n, p in params]
        twin = copy.deepcopy(opt)
        twin_params = [p for group in twin.param_groups for p in group["params"]]
        for k in range(3, 6):
            _give(params, k)
            opt.step()
            _give([(n, p) for (n, _), p in zip(params, twin_params, strict=True)], k)
            twin.step()
        # Resumed where the device counts, and where the host does.
        for types in ({"cpu"}, {"cuda"}):
            monkeypatch.setattr(device, "DEVICE_TYPES", types)
            mine = [(n, nn.Parameter(p.detach().clone())) for n, p in weights]
            resumed = rs.optimizer(name, mine, lr=SCHEDULE)
            resumed.load_state_dict(copy.deepcopy(saved))
            for k in range(3, 6):
                _give(mine, k)
                resumed.step()
            _assert_same(resumed, opt)
        _assert_same(twin, opt)


def test_schedules_go_on_past_a_window(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "WINDOW", 8)
    monkeypatch.setattr(device, "GLANCE", 3)
    lr = rs.schedules.cosine(1.0, steps=60)
    param = nn.Parameter(torch.zeros((), dtype=torch.float64))
    frozen = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    groups = [{"params": [param]}, {"params": [frozen], "lr_factor": 0.5}]
    opt = rs.optimizer("sgd", groups, lr=lr, momentum=0.0, mode="eager")
    expected, applied = 0.0, 0
    for k in range(50):
        skipped = k % 5 == 3
        param.grad = torch.tensor(float("nan") if skipped else 1.0, dtype=torch.float64)
        frozen.grad = torch.ones(2, dtype=torch.float64)
        if not skipped:
            expected -= lr(applied)
            applied += 1
        opt.step()
    assert param.item() == pytest.approx(expected, rel=1e-12)
    assert frozen[0].item() == pytest.approx(expected / 2, rel=1e-12)
    assert opt.last_step is not None
    assert opt.last_step.step == applied
    assert opt.param_groups[0]["lr"] == lr(applied)


def test_changed_hyperparameters_and_new_groups_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = _params()
        opt = rs.optimizer("adamw", params[:3], mode="eager")
        for k in range(6):
            opt.param_groups[0]["lr"] = 0.01 * (k + 1)
            opt.param_groups[0]["betas"] = (0.9 - 0.1 * k, 0.99)
            if k == 3:
                opt.add_param_group({"params": params[3:]})
            _give(params, k, bad=(2,))
            opt.step()
        ways.append(opt)
    _assert_same(*ways)


def test_what_the_host_must_count_it_counts(on_cpu: None) -> None:
    def resident(rule: Any, **arguments: Any) -> bool:
        params = _params()
        opt = rs.optimizer(rule, params, **arguments)
        _give(params, 0)
        opt.step()
        return opt._roster.resident is not None

    assert resident("lion")
    assert not resident("soap")
    assert not resident("lion", accumulate=2)
    assert not resident("lion", precision="stochastic")
    assert not resident(chain(rs.transforms.add_noise(), rs.transforms.scale_by_adam()), lr=0.1)


# -- numbers that stand for themselves -------------------------------------------------------------


def test_a_number_computes_as_a_plain_one(on_cpu: None) -> None:
    memo: dict[Any, Any] = {}
    three, half = (Number(torch.tensor(v, dtype=torch.float64), memo) for v in (3.0, 0.5))
    pairs: list[tuple[Any, float]] = [
        (1 - half**three, 1 - 0.5**3),
        (-three % 2, 1.0),
        (abs(half - three) // 2, 1.0),
        (0.0 ** (three - 3), 1.0),
        ((three > 1) * 2 + (three == 4), 2.0),
        (2 / three, 2 / 3),
    ]
    for number, plain in pairs:
        assert float(number) == pytest.approx(plain, rel=1e-15)
    assert (1 - half) is (1 - half)
    u = torch.tensor([1.0, 2.0])
    v = torch.tensor([5.0, 7.0])
    assert (u * half).dtype is torch.float32
    for act in (
        lambda h: u.lerp(v, h),
        lambda h: u.clone().addcmul_(v, v, value=h),
        lambda h: u.addcdiv(u, v, value=1 - h),
        lambda h: u.clone().add_(v, alpha=h),
        lambda h: u.sub(v, alpha=h),
        lambda h: u.clamp(-h, h),
        lambda h: h / u,
        lambda h: torch.where(u > 1, h, u),
        lambda h: u**h,
        lambda h: u.bfloat16().lerp(v.bfloat16(), h),
    ):
        torch.testing.assert_close(act(half), act(0.5), rtol=1e-6, atol=0)
    assert three
    with pytest.raises(TypeError, match="addr takes no number"):
        u.addr(u, v, alpha=half)


# -- no step waits ---------------------------------------------------------------------------------


class _Watch(TorchDispatchMode):
    """Refuses what waits for a device though no value is read, and stands in for kernels that have
    no fake."""

    WAITING = ("nonzero", "masked_select", "_linalg_eigh", "_linalg_svd", "equal")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name.startswith("_fused_"):
            return None
        assert name not in self.WAITING, name
        if name == "_to_copy":
            _check_copy(args[0], kwargs.get("device", args[0].device), kwargs.get("non_blocking"))
        return func(*args, **kwargs)


def _looked_at(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """`copy_` asks for the device's own library before it asks a fake, and here it may be missing:
    as there is nothing to copy, it is only looked at."""
    _check_copy(source, target.device, non_blocking)
    return target


class _GraphCopies(TorchFunctionMode):
    """The same for the `copy_` of a graph."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.copy_.default:
            return _looked_at(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _check_copy(source: Tensor, target: Any, non_blocking: bool | None) -> None:
    stays = target is None or torch.device(target).type == source.device.type
    assert stays or non_blocking, f"a copy from {source.device} to {target} waits"


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "PLAIN", (*fused.PLAIN, FakeTensor))
    monkeypatch.setattr(compiled, "_compiled", lambda graph: graph.forward)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Tensor, "copy_", _looked_at)
    with FakeTensorMode(), _Watch(), _GraphCopies():
        yield


def _steps_there(rule: Any, count: int = 2, **arguments: Any) -> Optimizer:
    shapes = [(6, 4), (7,), (), (3, 4, 2, 2)]
    params = [(f"p{i}", nn.Parameter(torch.empty(s, device="cuda"))) for i, s in enumerate(shapes)]
    opt = rs.optimizer(rule, params, **arguments)
    for k in range(count):
        for i, (_, param) in enumerate(params):
            param.grad = None if i == 1 and k == 1 else torch.empty_like(param)
        opt.step()
    return opt


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(("name", "mode"), WAYS)
def test_no_step_waits(name: str, mode: Any, fake_cuda: None) -> None:
    opt = _steps_there(name, mode=mode)
    assert opt._roster.resident is not None
    assert opt.last_step is not None
    with pytest.raises(DataDependentOutputException):
        assert opt.last_step.applied


def test_no_scheduled_or_clipped_step_waits(fake_cuda: None) -> None:
    pieces = rs.transforms
    rule = chain(pieces.clip_by_global_norm(1.0), pieces.scale_by_adam())
    for mode in ("fused", "eager"):
        _steps_there(rule, lr=SCHEDULE, mode=mode)
        _steps_there("adamw", lr=SCHEDULE, weight_decay=SCHEDULE, mode=mode)
        _steps_there("adamw", nonfinite="propagate", mode=mode)


def test_the_proof_can_fail(fake_cuda: None) -> None:
    def update(u: Tensor, state: Any, param: Tensor, hyper: Hyper) -> Tensor:
        return u * (2 if hyper.step > 1 else 1)

    with pytest.raises(DataDependentOutputException):
        _steps_there(Transform(update, name="branches"), lr=0.1)
    with pytest.raises(AssertionError, match="waits"):
        torch.empty(3, device="cuda").copy_(torch.ones(3))
    with pytest.raises(DataDependentOutputException):
        _steps_there("soap")


@pytest.mark.parametrize("name", NAMES)
def test_the_rules_that_wait_say_so(name: str) -> None:
    assert any(rule.synchronises for rule in _rules(name)) is (name in WAITS)
