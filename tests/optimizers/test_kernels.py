"""Kernels: chosen by static facts, and equal to the eager way to rounding."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core import compiler
from rheostat.core.errors import InputError
from rheostat.core.transform import Hyper, State
from rheostat.optimizers.compiled import CompiledKernel
from rheostat.optimizers.kernels import COMPILE_FROM
from rheostat.optimizers.tracing import traced

ELEMENTWISE = [
    component.ref
    for component in rs.components("optimizer")
    if component.module.startswith("rheostat.")
    and isinstance(rule := component.factory(), rs.Transform)
    and CompiledKernel.can_run(rule)
]


def _params(seed: int = 0) -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(200, 200), (7,), (), (1, 5), (0, 3), (33, 1000)]
    return [
        (f"p{i}", nn.Parameter(torch.randn(shape, generator=generator)))
        for i, shape in enumerate(shapes)
    ]


def _train(params: list[tuple[str, nn.Parameter]], opt: Any, steps: int = 7) -> None:
    for k in range(steps):
        generator = torch.Generator().manual_seed(50 + k)
        for i, (_, param) in enumerate(params):
            gradient = torch.randn(param.shape, generator=generator)
            # One parameter's gradient is missing at times: step counts differ.
            param.grad = None if i == 1 and k in (0, 3) else gradient
        opt.step()


def _agree(name: str, mode: Any, **arguments: Any) -> None:
    ways: list[list[torch.Tensor]] = []
    for way in ("eager", mode):
        params = _params()
        opt = rs.optimizer(name, params, mode=way, **arguments)
        assert opt.param_groups[0]["mode"] == way
        _train(params, opt)
        ways.append([p.detach() for _, p in params])
    for eager, fast in zip(*ways, strict=True):
        torch.testing.assert_close(fast, eager, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["adamw", "adam", "amsgrad", "adagrad"])
def test_fused_agrees_with_eager(name: str) -> None:
    _agree(name, "fused", lr=0.01, weight_decay=0.1)
    _agree(name, "fused", lr=rs.schedules.cosine(0.01, steps=5), weight_decay=0.0)


@pytest.mark.parametrize("name", ["lion@1", "adabelief@1", "nadamw@1"])
def test_compiled_agrees_with_eager(name: str) -> None:
    _agree(name, "compiled", lr=0.01)


@pytest.mark.usefixtures("by_torch")
@pytest.mark.slow
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_rule_that_compiles_agrees_with_eager(name: str) -> None:
    _agree(name, "compiled")


@pytest.mark.usefixtures("by_torch")
def test_a_cast_to_half_precision_and_back_rounds() -> None:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u.bfloat16().float()

    param = nn.Parameter(torch.zeros(300, 70))
    gradient = torch.randn(300, 70, generator=torch.Generator().manual_seed(0))
    opt = rs.optimizer(rs.Transform(update, scope="element"), [param], mode="compiled", lr=1.0)
    param.grad = gradient
    opt.step()
    assert torch.equal(param.detach(), -gradient.bfloat16().float())


@pytest.mark.usefixtures("by_torch")
def test_clip_and_adamw_compile_together() -> None:
    pieces = rs.transforms
    ways: list[list[torch.Tensor]] = []
    for mode in ("eager", "compiled"):
        rule = rs.chain(
            pieces.clip_by_global_norm(1.0), pieces.scale_by_adam(), pieces.add_decayed_weights(0.1)
        )
        params = _params()
        _train(params, rs.optimizer(rule, params, lr=0.01, mode=mode))
        ways.append([p.detach() for _, p in params])
    for eager, fast in zip(*ways, strict=True):
        torch.testing.assert_close(fast, eager, rtol=2e-5, atol=2e-6)


@pytest.mark.usefixtures("by_torch")
def test_no_recompile_when_hyperparameters_change_or_gradients_are_missing() -> None:
    params = _params()
    schedule = rs.schedules.cosine(0.01, steps=50)
    opt = rs.optimizer("lion", params, lr=schedule, weight_decay=schedule, mode="compiled")
    _train(params, opt, 2)
    with torch.compiler.set_stance("fail_on_recompile"):
        _train(params, opt, 5)
        other = [("x", nn.Parameter(torch.randn(12345))), ("y", nn.Parameter(torch.randn(70000)))]
        _train(other, rs.optimizer("lion", other, lr=0.5, betas=(0.5, 0.6), mode="compiled"), 3)


def test_the_mode_follows_from_the_rule_and_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(COMPILE_FROM))
    modes = {
        ("adamw", "small"): "fused",
        ("lion", "small"): "eager",
        ("adamw", "large"): "fused",
        ("lion", "large"): "compiled",
        ("lamb", "large"): "compiled",
        ("soap", "large"): "compiled",
        ("adafactor", "large"): "compiled",
        ("lbfgs", "large"): "eager",
    }
    for (name, size), mode in modes.items():
        param = small if size == "small" else large
        assert rs.optimizer(name, [param]).param_groups[0]["mode"] == mode, (name, size)
    with pytest.raises(InputError, match="torch has no fused kernel for lion"):
        rs.optimizer("lion", [small], mode="fused")
    with pytest.raises(InputError, match="lbfgs needs parameters in their shape"):
        rs.optimizer("lbfgs", [small], mode="compiled")
    with pytest.raises(InputError, match="should be 'auto'"):
        rs.optimizer("lion", [small], mode="fast")

    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k != "CXX"})
    monkeypatch.setattr(compiler.shutil, "which", lambda _: None)
    compiler.warn_once.cache_clear()
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler found"):
        assert rs.optimizer("lion", [large]).param_groups[0]["mode"] == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rs.optimizer("lion", [large])  # said once


def test_the_mode_is_saved_and_the_resumed_run_is_the_same_bits() -> None:
    for name, mode in (("adamw", "fused"), ("lion", "compiled")):
        params = _params()
        opt = rs.optimizer(name, params, mode=mode)
        _train(params, opt, 3)
        again = copy.deepcopy(params)
        other = rs.optimizer(name, again, mode="eager")
        other.load_state_dict(opt.state_dict())
        assert other.param_groups[0]["mode"] == mode
        _train(params, opt, 4)
        _train(again, other, 4)
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(params, again, strict=True))


def test_what_a_kernel_cannot_take_runs_eagerly_beside_it() -> None:
    odd = [
        ("transposed", nn.Parameter(torch.randn(64, 48).T)),
        ("half", nn.Parameter(torch.randn(64, 48, dtype=torch.bfloat16))),
        ("double", nn.Parameter(torch.randn(64, 48, dtype=torch.float64))),
        ("complex", nn.Parameter(torch.randn(64, 48, dtype=torch.complex64))),
    ]
    for name, mode in (("adamw", "fused"), ("lion", "compiled")):
        ways: list[list[torch.Tensor]] = []
        for way in ("eager", mode):
            params = copy.deepcopy(odd)
            opt = rs.optimizer(name, params, mode=way, lr=0.01)
            for k in range(3):
                for _, param in params:
                    generator = torch.Generator().manual_seed(k)
                    shape, dtype = param.shape, param.dtype
                    param.grad = torch.randn(shape, dtype=dtype, generator=generator)
                opt.step()
            ways.append([p.detach() for _, p in params])
        for eager, fast in zip(*ways, strict=True):
            torch.testing.assert_close(fast, eager, rtol=2e-5, atol=2e-5)


SHAPES = [(5, 4), (20,), (4, 5), (2, 10), (5, 4), (7,), (300, 200)]
"""Five of one length, which can be run as rows, one by itself, and a large one."""


def _listed(seed: int = 0) -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = enumerate(SHAPES)
    return [(f"p{i}", nn.Parameter(torch.randn(s, generator=generator))) for i, s in shapes]


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("name", ["lamb", "novograd", "nadam"])
def test_rules_that_sum_over_a_parameter_run_many_at_once(name: str) -> None:
    ways: list[list[torch.Tensor]] = []
    for mode in ("eager", "compiled"):
        params = _listed()
        opt = rs.optimizer(name, params, mode=mode)
        _train(params, opt)
        ways.append([p.detach() for _, p in params])
        ways[-1] += [value for _, p in params for value in opt.state[p].values()]
    for eager, fast in zip(*ways, strict=True):
        torch.testing.assert_close(fast, eager, rtol=2e-5, atol=2e-6)


def _storages(opt: Any) -> dict[int, int]:
    """The bytes of the state, by the address of the memory that holds them."""
    found = (v.untyped_storage() for state in opt.state.values() for v in state.values())
    return {storage.data_ptr(): storage.nbytes() for storage in found}


@pytest.mark.usefixtures("by_torch")
def test_small_buffers_lie_together_and_take_no_more_memory_than_they_did() -> None:
    params = _listed()
    opt = rs.optimizer("lion", params, mode="compiled")
    before, held = _storages(opt), opt.state[params[0][1]]["exp_avg"]
    for k in range(6):
        for _, p in params:
            p.grad = torch.ones_like(p)
        if k in (2, 3):
            params[1][1].grad = None  # the others are gathered; nobody moves house for one step
        opt.step()
    after = _storages(opt)
    assert len(after) < len(before)
    assert sum(after.values()) == sum(before.values())
    assert opt.state[params[0][1]]["exp_avg"] is held


@pytest.mark.usefixtures("by_torch")
def test_a_tensor_that_is_put_into_the_state_is_used() -> None:
    ways: list[list[torch.Tensor]] = []
    for mode in ("eager", "compiled"):
        params = _listed()
        opt = rs.optimizer("lion", params, mode=mode)
        _train(params, opt, steps=2)
        opt.state[params[0][1]]["exp_avg"] = torch.ones(5, 4)
        twin = copy.deepcopy(opt)
        _train(params, opt, steps=2)
        ways.append([p.detach() for _, p in params])
        for (_, p), copied in zip(params, twin.param_groups[0]["params"], strict=True):
            assert not torch.equal(p, copied)
    for eager, fast in zip(*ways, strict=True):
        torch.testing.assert_close(fast, eager, rtol=2e-5, atol=2e-6)


def test_what_depends_on_numbers_alone_is_not_in_the_loop_over_elements() -> None:
    pieces = rs.transforms
    clipped = rs.chain(pieces.clip_by_global_norm(1.0), pieces.scale_by_adam())
    found = traced(rs.chain(clipped, pieces.scale_by_learning_rate(1e-3)))
    assert found is not None
    assert found.measured == ("square",)
    vector = next(n for n in found.graph.graph.nodes if n.name == "vector")
    numbers = {vector, *vector.users}
    for node in found.graph.graph.nodes:
        if node.op == "call_function" and node not in numbers:
            assert not set(node.all_input_nodes) <= numbers, node
    targets = [str(node.target) for node in found.graph.graph.nodes]
    assert sum("div" in target for target in targets) == 1  # the mean over the root


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True},
    ],
    ids=str,
)
def test_fused_sgd_agrees_with_eager(arguments: dict[str, Any]) -> None:
    _agree("sgd", "fused", **arguments)


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_a_clip_before_a_fused_kernel_leaves_gradients_alone(nonfinite: Any) -> None:
    ways: list[list[torch.Tensor]] = []
    for mode in ("eager", "fused"):
        params = _listed()
        rule = rs.chain(rs.transforms.clip_by_global_norm(0.5), rs.transforms.scale_by_adam())
        opt = rs.optimizer(rule, params, mode=mode, nonfinite=nonfinite)
        assert opt.param_groups[0]["mode"] == mode
        _train(params, opt)
        generator = torch.Generator().manual_seed(50 + 6)
        for _, p in params:
            assert p.grad is not None
            assert torch.equal(p.grad, torch.randn(p.shape, generator=generator))
        ways.append([p.detach() for _, p in params])
    for eager, fast in zip(*ways, strict=True):
        torch.testing.assert_close(fast, eager, rtol=2e-5, atol=2e-6)


def test_a_clip_of_some_groups_measures_those_groups_alone() -> None:
    clip = rs.transforms.clip_by_global_norm(1.0)
    clipped = rs.chain(clip, rs.transforms.scale_by_learning_rate(1.0))
    plain = rs.component("sgd").factory(lr=1.0)
    small, large = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    policy = rs.policy(rs.match(clipped, name="a"), rs.match(plain))
    opt = rs.optimizer(policy, [("a", small), ("b", large)])
    small.grad, large.grad = torch.full((4,), 0.25), torch.full((4,), 100.0)
    opt.step()
    torch.testing.assert_close(small.detach(), torch.full((4,), -0.25))
    torch.testing.assert_close(large.detach(), torch.full((4,), -100.0))


def test_a_renamed_piece_is_not_mistaken_for_a_plain_one() -> None:
    decay = rs.named("late", rs.transforms.add_decayed_weights(0.5))
    ways: list[torch.Tensor] = []
    for mode in ("eager", "auto"):
        param = nn.Parameter(torch.ones(6))
        rule = rs.chain(rs.transforms.scale_by_adam(), decay)
        opt = rs.optimizer(rule, [param], lr=0.1, mode=mode)
        param.grad = torch.ones(6)
        opt.step()
        ways.append(param.detach())
    torch.testing.assert_close(*ways)
    assert float(ways[0][0]) < 0.86  # 1 − 0.1 · (1 + 0.5)


def test_a_clip_before_a_fused_kernel_takes_any_layout() -> None:
    ways: list[torch.Tensor] = []
    for mode in ("eager", "fused"):
        torch.manual_seed(0)
        param = nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
        rule = rs.chain(rs.transforms.clip_by_global_norm(0.5), rs.transforms.scale_by_adam())
        opt = rs.optimizer(rule, [param], mode=mode)
        param.grad = torch.randn_like(param)
        opt.step()
        ways.append(param.detach())
    torch.testing.assert_close(*ways)
