"""Sums in one pass of C++: the definitions in float64, the same bits on any number of threads, and
vector by vector where a tensor cannot be read so."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rheostat.core.signal import Memory, Product, Reading, Signal
from rheostat.signals import monitor as monitors
from rheostat.signals.monitor import Monitor
from rheostat.signals.sums import SHARE, Program, Sums, compiled

PRODUCTS: tuple[Product, ...] = (
    *(("gradient", "gradient"), ("weights", "weights"), ("update", "update"), ("one", "one")),
    *(("update", "weights"), ("update", "gradient"), ("update", "last_update")),
    *(("gradient", "last_update"), ("last_gradient", "gradient"), ("one", "weights")),
    *(("last_update", "last_update"), ("last_gradient", "last_update"), ("weights", "gradient")),
    *(("weights", "last_gradient"), ("one", "gradient_zeros"), ("update", "last_gradient")),
    *(("gradient_zeros", "gradient_zeros"), ("gradient", "momentum"), ("update", "momentum")),
    *(("one", "second_moment"), ("one", "second_moment_zeros"), ("momentum", "momentum")),
)
SHAPES = [(300, 70), (7,), (), (0, 3), (SHARE,), (SHARE + 513,), (511,), (2, 256)]

Change = Callable[[list[nn.Parameter]], None]


def _watched(params: list[nn.Parameter], products: tuple[Product, ...] = PRODUCTS) -> Monitor:
    def measure(reading: Reading, memory: Memory) -> float:
        return 0.0

    optimizer = torch.optim.Adam(params, lr=0.01)
    return Monitor([Signal(measure, unit="1", cost="", products=products)], None, optimizer)


def _flat(tensors: list[Any]) -> np.ndarray:
    return np.concatenate([t.detach().double().reshape(-1).numpy() for t in tensors])


def _train(
    dtype: torch.dtype, check: bool = True, steps: int = 4, change: Change | None = None
) -> tuple[list[float], Monitor]:
    """All products of some updates, beside numpy's in float64."""
    generator = torch.Generator().manual_seed(0)
    params = [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in SHAPES
    ]
    monitor = _watched(params)
    optimizer: Any = monitor._optimizer
    found: list[float] = []
    vectors: dict[str, np.ndarray] = {"one": np.ones(len(_flat(params)))}
    for k in range(steps):
        for at, param in enumerate(params):
            drawn = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            drawn[drawn.abs() < 0.1] = 0.0
            param.grad = None if k and (at + k) % 5 == 4 else drawn.to(dtype)
        if change is not None:
            change(params)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        states = [optimizer.state.get(p) for p in params]
        vectors |= {"gradient": _flat(grads), "weights": _flat(params)}
        vectors["gradient_zeros"] = (vectors["gradient"] == 0) * 1.0
        for name, key in (("momentum", "exp_avg"), ("second_moment", "exp_avg_sq")):
            pairs = zip(states, params, strict=True)
            some = [s[key] if s else torch.zeros_like(p) for s, p in pairs]
            vectors[name] = _flat(some)
        vectors["second_moment_zeros"] = (np.sqrt(vectors["second_moment"]) <= 1e-8) * 1.0
        early = vectors["momentum"]
        monitor.before_step()
        optimizer.step()
        monitor.after_step()
        vectors["update"] = vectors["weights"] - _flat(params)
        late = _flat([optimizer.state[p]["exp_avg"] for p in params])
        for a, b in PRODUCTS:
            value = monitor.reading.dot(a, b)
            found.append(value)
            if not check or (
                k == 0 and {"momentum", "second_moment", "second_moment_zeros"} & {a, b}
            ):
                continue
            vectors["momentum"] = late if a == "update" else early
            known = a in vectors and b in vectors
            expected = vectors[a] @ vectors[b] if known else math.nan
            size = np.abs(vectors[a]) @ np.abs(vectors[b]) if known else math.nan
            error = 1e-13 if dtype == torch.float64 else 2e-7
            close = pytest.approx(expected, rel=0, abs=error * size, nan_ok=True)
            assert value == close, (a, b, k)
        vectors["last_gradient"], vectors["last_update"] = vectors["gradient"], vectors["update"]
    return found, monitor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_are_those_of_numpy_in_float64(dtype: torch.dtype) -> None:
    _, monitor = _train(dtype)
    assert monitor._one_pass


def test_a_part_may_have_several_dtypes_and_the_moments_others() -> None:
    params = [nn.Parameter(torch.randn(600, dtype=d)) for d in (torch.float32, torch.bfloat16)]
    products: tuple[Product, ...] = (("gradient", "momentum"), ("weights", "weights"))
    monitor = _watched(params, products)
    optimizer: Any = monitor._optimizer
    for param in params:
        param.grad = torch.randn_like(param)
        optimizer.state[param] = {"exp_avg": torch.randn(600, dtype=torch.float64)}
    monitor.before_step()
    assert monitor._parts[""]._in_one
    monitor.after_step()
    pairs = [(p.grad, optimizer.state[p]["exp_avg"]) for p in params]
    expected = sum(float(g.double() @ m) for g, m in pairs if g is not None)
    assert monitor.reading.dot("gradient", "momentum") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_do_not_depend_on_the_threads(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rheostat.signals.sums.THREADS_FROM", 0)
    found: list[str] = []
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(str(_train(dtype, check=False)[0]))
    assert found[1:] == found[:1] * 3


def test_both_ways_agree(vector_by_vector: None, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, monitor = _train(torch.float32, check=False)
    assert not monitor._one_pass
    monkeypatch.undo()
    fast, monitor = _train(torch.float32, check=False)
    assert monitor._one_pass
    assert fast == pytest.approx(slow, rel=1e-4, abs=1e-3, nan_ok=True)


def _turned(params: list[nn.Parameter]) -> None:
    params[0].grad = torch.randn(70, 300).t()


def _sparse(params: list[nn.Parameter]) -> None:
    params[0].grad = torch.randn(300, 70).to_sparse()


def _subclass(params: list[nn.Parameter]) -> None:
    class Own(torch.Tensor):
        """Any."""

    params[0].grad = torch.randn(300, 70).as_subclass(Own)


@pytest.mark.parametrize("change", [_turned, _sparse, _subclass])
def test_what_cannot_be_read_so_is_read_vector_by_vector(change: Change) -> None:
    products: tuple[Product, ...] = (
        *(("gradient", "gradient"), ("update", "update"), ("gradient", "last_update")),
        *(("last_gradient", "last_update"), ("update", "last_update"), ("weights", "gradient")),
    )
    param = nn.Parameter(torch.randn(300, 70))
    optimizer = torch.optim.SGD([param], lr=0.1)
    monitor = _watched([param], products)
    last: tuple[np.ndarray, np.ndarray] | None = None
    ways: list[bool] = []
    for k in range(6):
        param.grad = torch.randn(300, 70)
        if k in (2, 3):
            change([param])
        g, w = param.grad.to_dense().double().reshape(-1).numpy(), _flat([param])
        monitor.before_step()
        ways.append(monitor._parts[""]._in_one)
        optimizer.step()
        monitor.after_step()
        u = w - _flat([param])
        dot = monitor.reading.dot
        assert dot("gradient", "gradient") == pytest.approx(g @ g, rel=1e-5)
        assert dot("update", "update") == pytest.approx(u @ u, rel=1e-5)
        assert dot("weights", "gradient") == pytest.approx(w @ g, rel=1e-4, abs=1e-2)
        if last is not None:
            assert dot("gradient", "last_update") == pytest.approx(g @ last[1], rel=1e-4, abs=1e-2)
            assert dot("update", "last_update") == pytest.approx(u @ last[1], rel=1e-4, abs=1e-2)
            assert dot("last_gradient", "last_update") == pytest.approx(last[0] @ last[1], rel=1e-4)
        last = g, u
    assert ways == [True, True, False, False, True, True]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [3, 600, 20_999])
def test_what_is_not_finite_stays(value: float, at: int) -> None:
    def spoil(params: list[nn.Parameter]) -> None:
        assert params[0].grad is not None
        params[0].grad.view(-1)[at] = value

    found, _ = _train(torch.float32, check=False, steps=1, change=spoil)
    square = found[PRODUCTS.index(("gradient", "gradient"))]
    assert math.isnan(square) if math.isnan(value) else square == math.inf


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-22, 1e-15, 1.0, 1e18, 1e30, 3e38])
@pytest.mark.parametrize("size", [40, 512, 5000])
def test_no_scale_is_lost(scale: float, size: int) -> None:
    """float32 alone would overflow, or round squares to nothing."""
    vector = scale * torch.randn(size, dtype=torch.float64).clamp(-1, 1)
    param = nn.Parameter(vector.float())
    monitor = _watched([param], (("gradient", "gradient"), ("weights", "gradient")))
    param.grad = param.detach().clone()
    monitor.before_step()
    monitor.after_step()
    exact = param.detach().double()
    expected = float(exact @ exact)
    for other in ("gradient", "weights"):
        assert monitor.reading.dot("gradient", other) == pytest.approx(expected, rel=1e-7, abs=0)


def test_small_blocks_among_large_ones_count() -> None:
    """Where a block is too small for float32, it alone is summed in double precision."""
    vector = torch.cat([torch.full((512,), 1e-25), torch.zeros(512), torch.full((512,), 1e-12)])
    param = nn.Parameter(vector)
    monitor = _watched([param], (("one", "gradient"), ("gradient", "gradient")))
    param.grad = vector.clone()
    monitor.before_step()
    monitor.after_step()
    exact = vector.double()
    assert monitor.reading.dot("gradient", "gradient") == pytest.approx(float(exact @ exact))
    assert monitor.reading.dot("one", "gradient") == pytest.approx(float(exact.sum()))


def test_memory_is_read_before_it_is_written() -> None:
    take = compiled()
    assert take is not None
    weights, moving = torch.randn(3000), torch.randn(3000)
    sums = Sums([weights], take)
    assert sums.look("now", [weights])
    sums.hold("moving", [moving])
    columns: Any = {"weights": "moving", "now": "now"}
    products: Any = [("update", "update"), ("weights", "weights"), ("one", "one"), ("one", "what")]
    program = Program(columns, products, {}, {"update": ("weights", "now")}, {"update": "moving"})
    update, square = moving - weights, float(moving.double() @ moving.double())
    found = sums.take(program)
    assert torch.equal(moving, update)
    assert found[0] == pytest.approx(float(update.double() @ update.double()))
    assert found[1:3] == pytest.approx([square, 3000.0])
    assert math.isnan(found[3])


@pytest.mark.parametrize("offset", [0, 1])
def test_what_is_too_large_for_a_cache_is_kept_too(offset: int) -> None:
    take = compiled()
    assert take is not None
    weights = torch.randn(65 * SHARE + 700)
    moving = torch.empty(len(weights) + 1)[offset : len(weights) + offset]
    sums = Sums([weights], take)
    assert sums.look("now", [weights])
    sums.hold("moving", [moving])
    columns: Any = {"weights": "now"}
    program = Program(columns, [("weights", "weights")], {}, {}, {"weights": "moving"})
    expected = float(weights.double() @ weights.double())
    assert sums.take(program) == pytest.approx([expected], rel=1e-8)
    assert torch.equal(moving, weights)


def test_weights_that_became_smaller_are_not_read_beyond_their_end() -> None:
    take = compiled()
    assert take is not None
    param = nn.Parameter(torch.randn(50_000))
    sums = Sums([param], take)
    assert sums.look("now", [param])
    param.data = param.data[:10]
    assert not sums.look("now", [param])


def test_gradients_are_not_held() -> None:
    param = nn.Parameter(torch.randn(1000))
    monitor = _watched([param], PRODUCTS)
    param.grad = torch.randn(1000)
    gone = weakref.ref(param.grad)
    monitor.before_step()
    monitor.after_step()
    param.grad = None
    gc.collect()
    assert gone() is None


def test_nothing_is_allocated_for_a_step() -> None:
    param = nn.Parameter(torch.randn(100_000))
    monitor = _watched([param], PRODUCTS)
    optimizer: Any = monitor._optimizer
    for _ in range(3):
        param.grad = torch.randn(100_000)
        monitor.before_step()
        optimizer.step()
        monitor.after_step()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("zeros", "empty", "zeros_like", "stack"):
            patch.setattr(torch, name, None)
        monitor.before_step()
        monitor.after_step()


# -- saved and resumed -----------------------------------------------------------------------------


def _norms() -> tuple[nn.Parameter, Monitor]:
    param = nn.Parameter(torch.linspace(0.1, 1.0, 5000))
    return param, Monitor(["gradient_norm", "curvature"], None, torch.optim.SGD([param], lr=0.1))


def _value(param: nn.Parameter, monitor: Monitor, k: int) -> str:
    param.grad = torch.randn(5000, generator=torch.Generator().manual_seed(k))
    monitor.before_step()
    assert monitor._optimizer is not None
    monitor._optimizer.step()
    return str(dict(monitor.after_step()))


def test_a_monitor_goes_on_in_the_way_that_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was saved without a compiler goes on without, to the same bits."""
    with monkeypatch.context() as patch:
        patch.setattr(monitors, "compiled", lambda: None)
        param, monitor = _norms()
    _value(param, monitor, 0)
    saved, weights = copy.deepcopy(monitor.state_dict()), param.detach().clone()
    straight = [_value(param, monitor, k) for k in range(1, 4)]
    param, again = _norms()
    param.data.copy_(weights)
    assert again._one_pass
    again.load_state_dict(saved)
    assert not again._one_pass
    assert [_value(param, again, k) for k in range(1, 4)] == straight


def test_that_it_cannot_go_on_so_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    param, monitor = _norms()
    _value(param, monitor, 0)
    saved = monitor.state_dict()
    monkeypatch.setattr(monitors, "compiled", lambda: None)
    _, again = _norms()
    with pytest.warns(UserWarning, match="took its sums in one pass of C\\+\\+, which this one"):
        again.load_state_dict(saved)
