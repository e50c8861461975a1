"""Native kernels: the bits of the eager run where the formula is the same, on any number of
threads, and nothing that breaks where there is no compiler."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers import native
from rheostat.optimizers.kernels import COMPILE_FROM
from rheostat.optimizers.native import NativeKernel

T = rs.transforms

SAME_BITS = ["lion", "signum", "sgd", "rprop", "sophia", "asgd", "schedule_free_sgd"]
"""Rules whose traced formula is the eager one, operation by operation, without a sum: torch adds in
an order of its own on every processor."""
ROUNDED = ["adamw", "lamb", "madgrad", "schedule_free_adamw", "dadapt_adam", "prodigy"]

WRITTEN = {
    component.name
    for component in rs.components("optimizer")
    if component.module.startswith("rheostat.")
    and isinstance(rule := component.factory(), rs.Transform)
    and NativeKernel.can_run(rule)
}


def _kernel(name: str) -> NativeKernel:
    return NativeKernel(rs.component(name).factory())


def _params(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def _trained(
    ref: Any, mode: Any, dtype: torch.dtype = torch.float32, **arguments: Any
) -> list[torch.Tensor]:
    params = _params((300, 200), (7,), (), (1, 5), (0, 3), (513,), dtype=dtype)
    opt = rs.optimizer(ref, params, mode=mode, **arguments)
    generator = torch.Generator().manual_seed(1)
    for k in range(6):
        for i, param in enumerate(params):
            gradient = torch.randn(param.shape, generator=generator, dtype=dtype)
            param.grad = None if i == 1 and k in (0, 3) else gradient
        opt.step()
    return [p.detach().clone() for p in params]


def _agree(ref: Any, dtype: torch.dtype) -> None:
    for eager, fast in zip(
        _trained(ref, "eager", dtype), _trained(ref, "compiled", dtype), strict=True
    ):
        # Two units in the last place of a value that may have come near to zero meanwhile.
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(fast, eager, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SAME_BITS)
def test_the_same_formula_gives_the_same_bits(name: str) -> None:
    for eager, fast in zip(_trained(name, "eager"), _trained(name, "compiled"), strict=True):
        assert torch.equal(eager, fast)


@pytest.mark.parametrize("name", ROUNDED)
def test_other_forms_of_a_formula_differ_by_roundings(name: str) -> None:
    _agree(name, torch.float32)
    _agree(name, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_every_rule_that_is_written_agrees_with_its_eager_run(name: str) -> None:
    _agree(name, torch.float32)
    _agree(name, torch.float64)


def test_every_rule_that_is_traced_is_written() -> None:
    assert len(WRITTEN) == 34
    assert {"adamw", "lamb", "mars", "madgrad", "novograd", "stable_adamw", "sophia"} <= WRITTEN
    assert {name for name in WRITTEN if _kernel(name).measures} == {"prodigy", "dadapt_adam"}


@pytest.mark.parametrize("name", ["lamb", "adopt", "dadapt_adam"])
def test_the_bits_do_not_depend_on_the_threads(name: str) -> None:
    threads = torch.get_num_threads()
    found: list[list[torch.Tensor]] = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(_trained(name, "compiled"))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_what_takes_long_is_not_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[str] = []

    def read(source: str) -> Any:
        sources.append(source)
        return library(source)

    library = native.library
    monkeypatch.setattr(native, "library", read)
    _trained("lamb", "compiled")
    source = sources[0]
    first, _, rest = source.partition("static void pass1(")
    second, _, _ = rest.partition("static void parameter(")
    assert "root(w" in first
    assert "root(w" not in second


def test_two_threads_that_step_at_once_do_not_share_what_a_pass_leaves() -> None:
    shape = (700, 700)
    alone: list[Tensor] = []
    for together in (False, True):
        pairs: list[tuple[nn.Parameter, Any]] = []
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            param = nn.Parameter(torch.randn(shape, generator=generator))
            param.grad = torch.randn(shape, generator=generator)
            pairs.append((param, rs.optimizer("lamb", [param], mode="compiled")))
        works = [threading.Thread(target=_steps, args=(opt, 30)) for _, opt in pairs]
        for work in works:
            work.start()
            if not together:
                work.join()
        for work in works:
            work.join()
        found = [param.detach().clone() for param, _ in pairs]
        alone = alone or found
        assert all(map(torch.equal, found, alone))


def _steps(opt: Any, count: int) -> None:
    for _ in range(count):
        opt.step()


def test_what_is_multiplied_by_nothing_is_not_read() -> None:
    """A measurement does not see weights whose decay is 0; a buffer that is written stays itself,
    and so does the gradient."""
    for decay in (0.0, 0.1):
        (param,) = params = _params((200,))
        opt = rs.optimizer("dadapt_adam", params, mode="compiled", weight_decay=decay)
        given = param.grad = torch.ones_like(param)
        param.data[3] = float("nan")
        opt.step()
        found = opt.param_groups[0]["d"], opt.param_groups[0]["numerator_weighted"]
        assert all(map(math.isfinite, found)) == (decay == 0)
        assert torch.equal(given, torch.ones_like(given))
    (param,) = params = _params((200,))
    given = param.grad = torch.full_like(param, 2.0)
    opt = rs.optimizer("adamw", params, mode="compiled", betas=(0.0, 0.0))
    opt.step()
    assert torch.equal(given, torch.full_like(given, 2.0))
    assert torch.equal(opt.state[param]["exp_avg"], given)


def test_sums_are_taken_in_double_precision() -> None:
    # 10⁶ ones and a tiny share each: a float32 running sum would lose them.
    (param,) = _params((1_000_000,))
    with torch.no_grad():
        param.fill_(0.1)
    param.grad = torch.full_like(param, 1e-3)
    opt = rs.optimizer("lars", [param], mode="compiled", lr=1.0, momentum=0.0, weight_decay=0.0)
    before = param.detach().double()
    opt.step()
    moved = before - param.detach().double()
    trust = opt.param_groups[0]["trust_coefficient"]
    # ‖w‖ / ‖g‖ = 100, so every element moves by trust · 100 · 1e-3.
    torch.testing.assert_close(moved, torch.full_like(moved, trust * 0.1), rtol=3e-5, atol=0)


def _measure(u: Any, state: State, param: Any, hyper: Hyper) -> Mapping[str, torch.Tensor]:
    """Two sums, one of them multiplied by a number that the trace does not know."""
    return {"uw": (u * param).sum(dtype=torch.float64), "wide": hyper.share * u.abs().sum()}


def _shared(u: torch.Tensor, state: State, param: torch.Tensor, hyper: Hyper) -> torch.Tensor:
    return u * (hyper.share * hyper.measured["uw"] / hyper.measured["wide"])


@pytest.mark.parametrize("before", [(), (rs.transforms.add_decayed_weights(0.5),)])
def test_what_is_measured_is_the_sum_over_all_parameters(before: Any) -> None:
    measuring = Transform(
        _shared, hyperparameters={"share": 0.3}, scope="element", measure=_measure, name="shared"
    )
    rule = rs.chain(*before, measuring)
    assert NativeKernel(rule).measures
    for eager, fast in zip(_trained(rule, "eager"), _trained(rule, "compiled"), strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_a_clip_measures_what_the_pieces_before_it_made(nonfinite: Any) -> None:
    # Not the gradients' own squares, which the look for NaN has summed; and torch's norm, which
    # is not written here.
    pieces = rs.transforms
    rule = rs.chain(pieces.add_decayed_weights(0.5), pieces.clip_by_global_norm(1.0))
    assert NativeKernel.can_run(rule)
    assert not NativeKernel(rule).measures
    ways = [_trained(rule, mode, nonfinite=nonfinite) for mode in ("eager", "compiled")]
    for eager, fast in zip(*ways, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-6, atol=1e-6)


def test_a_rule_that_would_write_its_buffers_twice_is_not_traced() -> None:
    pieces = rs.transforms
    rule = rs.chain(pieces.trace(0.9), pieces.clip_by_global_norm(1.0))
    assert not NativeKernel.can_run(rule)


@pytest.mark.parametrize(
    ("after", "finishes"),
    [
        (rs.transforms.ema_weights(0.9), True),
        (rs.transforms.box(-0.5, 0.5), True),
        (rs.transforms.swa_weights(start=3, every=2), True),
        # What branches on the count is done piece by piece, once the kernel has moved the weights.
        (rs.transforms.lookahead(k=3), False),
    ],
)
def test_what_pieces_do_after_the_move_is_written_too(after: Transform, finishes: bool) -> None:
    rule = rs.chain(rs.transforms.scale_by_adam(), after)
    assert NativeKernel(rule).finishes is finishes
    found: list[list[torch.Tensor]] = []
    for mode in ("eager", "compiled"):
        (param,) = _params((300, 200))
        opt = rs.optimizer(rule, [param], lr=0.1, mode=mode)
        for _ in range(5):
            param.grad = param.detach().sin()
            opt.step()
        found.append([param.detach(), *opt.state[param].values()])
    for eager, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, eager, rtol=2e-6, atol=2e-6)


def test_a_graph_notices_that_its_parameters_moved() -> None:
    (param,) = _params((40,))
    loss = (param**2).sum()
    opt = rs.optimizer("lion", [param], mode="compiled")
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_not_a_number_and_infinity_go_through_as_in_torch() -> None:
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40])
    for name in ("signum", "sophia", "rprop", "adamax"):
        ways: list[torch.Tensor] = []
        for mode in ("eager", "compiled"):
            param = nn.Parameter(torch.ones(6))
            opt = rs.optimizer(name, [param], mode=mode, nonfinite="propagate", lr=0.1)
            # One step: from the second on, torch's lerp makes NaN of two infinities.
            param.grad = values.clone()
            opt.step()
            ways.append(param.detach())
        torch.testing.assert_close(ways[1], ways[0], equal_nan=True, rtol=2e-6, atol=1e-7)


def _cube_root(u: torch.Tensor, state: State, param: torch.Tensor, hyper: Hyper) -> torch.Tensor:
    return u.log().mul_(1 / 3).exp_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_third_of_a_logarithm_is_a_cube_root(dtype: torch.dtype) -> None:
    edges = [0.0, float("inf"), float("nan"), -1.0, 1e-45, 1e-38, 1e-30, 3.4e38, 1.0, 8.0]
    draw = torch.Generator().manual_seed(0)
    powers = torch.empty(20_000).uniform_(-44, 38, generator=draw)
    param = nn.Parameter(torch.zeros(20_010, dtype=dtype))
    param.grad = torch.cat([torch.tensor(edges), 10**powers]).to(dtype)
    rule = rs.chain(Transform(_cube_root, scope="element", name="cube_root"))
    opt = rs.optimizer(rule, [param], lr=1.0, mode="compiled", nonfinite="propagate")
    opt.step()
    exact = torch.where(param.grad < 0, torch.nan, param.grad.double().pow(1 / 3))
    tolerance = 2 * torch.finfo(torch.float32).eps if dtype is torch.float32 else 1e-13
    torch.testing.assert_close(
        -param.detach().double(), exact, rtol=tolerance, atol=0, equal_nan=True
    )


class _Labelled(torch.Tensor):
    """A subclass whose numbers may lie anywhere."""


def test_subclasses_and_holes_run_eagerly() -> None:
    kernel = _kernel("lion")
    plain = torch.zeros(4, 4)
    state = {"exp_avg": torch.zeros(4, 4)}
    assert kernel.suits(plain, state)
    assert not kernel.suits(plain.as_subclass(_Labelled), state)
    assert not kernel.suits(plain, {"exp_avg": torch.zeros(4, 8)[:, ::2]})
    assert not kernel.suits(plain, {"exp_avg": torch.zeros(4, 4, dtype=torch.float64)})
    assert not kernel.suits(plain.to("meta"), state)


_SCRIPT = """
import sys, torch, rheostat as rs
param = torch.nn.Parameter(torch.ones(3))
param.grad = torch.ones(3)
opt = rs.optimizer("lion", [param], mode="compiled", lr=0.5)
opt.step(); opt.step()
print(param.tolist())
"""


def _child(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT], env=given, capture_output=True, text=True, check=True
    )


def test_a_compiler_that_fails_costs_speed_and_one_warning(tmp_path: Path) -> None:
    done = _child(tmp_path, CXX="false")
    assert done.stdout == "[0.0, 0.0, 0.0]\n"
    assert done.stderr.count("run eagerly, several times slower") == 1


def test_the_library_is_kept_and_a_spoilt_one_is_made_anew(tmp_path: Path) -> None:
    assert _child(tmp_path).stdout == "[0.0, 0.0, 0.0]\n"
    folder = tmp_path / "rheostat" / "kernels"
    (library,) = folder.iterdir()
    made = library.stat().st_mtime_ns
    assert _child(tmp_path).stderr == ""
    assert library.stat().st_mtime_ns == made
    library.write_bytes(b"spoilt")
    again = _child(tmp_path)
    assert (again.stdout, again.stderr) == ("[0.0, 0.0, 0.0]\n", "")
    assert library.stat().st_size > 1000


def test_nothing_is_allocated_for_a_step() -> None:
    params = _params(*[(50, 50)] * 20, (400, 400))
    opt = rs.optimizer("lion", params, mode="compiled", nonfinite="propagate")
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own
        with torch.profiler.profile(profile_memory=True) as found:
            opt.step()
    most = max((event.self_cpu_memory_usage for event in found.key_averages()), default=0)
    assert most < 4096  # the vector of scalars, the steps


@pytest.mark.parametrize("before", [T.clip_by_norm(1.0), T.clip_by_global_norm(1.0)])
def test_a_factor_in_the_dtype_of_the_update_is_not_rounded_in_float64(before: Any) -> None:
    rule = rs.chain(before, T.trace(0.9))
    _agree_in_double(rule, "compiled")


def test_what_a_rule_does_by_dtype_is_done_by_the_dtype_of_the_parameter() -> None:
    def by_epsilon(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + 1e6 * torch.finfo(u.dtype).eps

    _agree_in_double(Transform(by_epsilon, scope="element"), "auto")


def _agree_in_double(rule: Transform, mode: Any) -> None:
    gradient = torch.randn(COMPILE_FROM, dtype=torch.float64)
    ways: list[Tensor] = []
    for way in ("eager", mode):
        params = [nn.Parameter(torch.zeros(COMPILE_FROM, dtype=d)) for d in (gradient.dtype, None)]
        opt = rs.optimizer(rule, params, lr=1.0, mode=way)
        for param in params:
            param.grad = gradient.to(param.dtype)
        opt.step()
        ways.append(params[0].detach())
    torch.testing.assert_close(*ways, rtol=1e-13, atol=0.0)
