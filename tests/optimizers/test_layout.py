"""What a kernel believes of tensors is asked before it gets their addresses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.layout import Alike, is_dense
from rheostat.optimizers.loop import Optimizer

WAYS = [
    ("lion", "compiled"),  # native
    ("adamw", "fused"),
    ("adafactor", "compiled"),  # matrices
    ("muon", "compiled"),  # flanked
    ("lion", "eager"),  # gathered
]


def _made(name: Any, mode: Any) -> tuple[Optimizer, list[nn.Parameter], str]:
    """An optimizer that has made a step, and the name of a buffer of its first parameter."""
    torch.manual_seed(0)
    named = [(f"weight{i}", nn.Parameter(torch.randn(20, 12))) for i in range(20)]
    params = [param for _, param in named]
    opt = rs.optimizer(name, named, lr=0.01, mode=mode)
    _step(opt, params)
    buffers = [key for key in opt.state[params[0]] if key != "step"]
    return opt, params, buffers[0]


def _step(opt: Optimizer, params: list[nn.Parameter]) -> None:
    for param in params:
        param.grad = torch.ones_like(param)
    opt.step()


def _of_four(found: Tensor) -> Tensor:
    return found.new_zeros(4)


def _other_memory(state: dict[str, Tensor], key: str, made: Tensor) -> None:
    """The same tensor with other memory behind it."""
    state[key].data = made


def _exchanged(state: dict[str, Tensor], key: str, made: Tensor) -> None:
    """Another tensor."""
    state[key] = made


@pytest.mark.parametrize(("name", "mode"), WAYS)
@pytest.mark.parametrize("count", [1, 20])
def test_a_parameter_that_grew_is_refused(name: str, mode: str, count: int) -> None:
    opt, params, _ = _made(name, mode)
    before = {key: value.clone() for key, value in opt.state[params[1]].items()}
    for param in params[:count]:
        param.data = torch.zeros(24, 12)
    with pytest.raises(InputError, match=r"weight0 has shape \(24, 12\), and its state") as error:
        _step(opt, params)
    assert "make the optimizer anew" in str(error.value)
    assert "\n" not in str(error.value)
    # Nothing has moved or was counted.
    assert all(torch.equal(opt.state[params[1]][key], value) for key, value in before.items())


@pytest.mark.parametrize(("name", "mode"), WAYS)
@pytest.mark.parametrize("put", [_other_memory, _exchanged])
@pytest.mark.parametrize(
    ("change", "said"),
    cast(
        "list[tuple[Callable[[Tensor], Tensor], str]]",
        [
            (_of_four, r"state '\w+' \(4,\), which should be"),
            (Tensor.half, "was float32 and is float16; put it back"),
            (Tensor.double, "was float32 and is float64; put it back"),
        ],
    ),
)
def test_a_state_of_another_size_or_dtype_is_refused(
    name: str,
    mode: str,
    put: Callable[[dict[str, Tensor], str, Tensor], None],
    change: Callable[[Tensor], Tensor],
    said: str,
) -> None:
    opt, params, key = _made(name, mode)
    found = opt.state[params[3]][key]
    put(opt.state[params[3]], key, change(found.detach()))
    with pytest.raises(InputError, match=f"weight3.*{said}"):
        _step(opt, params)


@pytest.mark.parametrize(("name", "mode"), WAYS)
def test_a_state_that_is_elsewhere_or_gone_is_refused(name: str, mode: str) -> None:
    opt, params, key = _made(name, mode)
    kept = opt.state[params[2]][key]
    opt.state[params[2]][key] = kept.to("meta")
    with pytest.raises(InputError, match=r"weight2 is on cpu, and its state '\w+' on meta"):
        _step(opt, params)
    del opt.state[params[2]][key]
    with pytest.raises(InputError, match=r"weight2: its state '\w+' was taken away"):
        _step(opt, params)
    opt.state[params[2]][key] = kept
    _step(opt, params)


@pytest.mark.parametrize("mode", ["fused", "eager"])
def test_a_gradient_of_the_size_before_is_refused(mode: Any) -> None:
    param = nn.Parameter(torch.zeros(1000))
    opt = rs.optimizer("sgd", [("weight", param)], lr=0.1, mode=mode)
    _step(opt, [param])
    param.data = torch.zeros(1010)
    with pytest.raises(InputError, match=r"weight has shape \(1010,\), and its gradient \(1000,\)"):
        opt.step()
    _step(opt, [param])  # nothing else minds
    assert torch.equal(param, torch.full((1010,), -0.1))


@pytest.mark.parametrize(("name", "mode"), [way for way in WAYS if way[0] != "adafactor"])
def test_a_state_that_is_turned_is_read_in_its_order(name: str, mode: str) -> None:
    straight, params, key = _made(name, mode)
    turned, others, _ = _made(name, mode)
    for param in others:
        found = turned.state[param][key]
        assert found.shape == (20, 12)
        found.copy_(torch.arange(240.0).view(20, 12))
        found.data = found.t().contiguous().t()
        straight.state[params[0]][key].copy_(torch.arange(240.0).view(20, 12))
    for _ in range(2):
        _step(straight, params)
        _step(turned, others)
    torch.testing.assert_close(others[0], params[0])
    torch.testing.assert_close(turned.state[others[0]][key], straight.state[params[0]][key])


def test_the_same_number_of_elements_in_another_shape_is_refused() -> None:
    opt, params, _ = _made("adafactor", "compiled")
    params[0].data = torch.zeros(12, 20)
    with pytest.raises(InputError, match=r"weight0 has shape \(12, 20\), and its state"):
        _step(opt, params)


@pytest.mark.parametrize("mode", ["auto", "fused"])
def test_a_parameter_with_holes_leaves_its_neighbours_alone(mode: Any) -> None:
    both, gradients = torch.ones(3, 2), torch.tensor([[1.0, 100.0]]).repeat(3, 1)
    mine, other = nn.Parameter(both[:, 0]), both[:, 1]
    opt = rs.optimizer("sgd", [mine], lr=0.1, mode=mode)
    mine.grad = gradients[:, 0]  # laid out as the parameter is
    opt.step()
    assert torch.equal(mine, torch.full((3,), 0.9))
    assert torch.equal(other, torch.ones(3))


def test_dense_is_what_has_neither_holes_nor_overlap() -> None:
    whole = torch.zeros(2, 3, 4, 5)
    for tensor in (
        whole,
        whole.to(memory_format=torch.channels_last),
        whole.permute(3, 0, 2, 1),
        whole[:, :0],
        torch.zeros(()),
        torch.zeros(4, 1).t(),
    ):
        assert is_dense(tensor)
    for tensor in (whole[..., 0], whole[:, :2], torch.zeros(1).expand(3), torch._neg_view(whole)):
        assert not is_dense(tensor)


@pytest.mark.parametrize(("name", "mode"), [("lion", "compiled"), ("adafactor", "compiled")])
def test_freed_memory_is_no_place_to_write(name: str, mode: str) -> None:
    opt, params, _ = _made(name, mode)
    params[7].untyped_storage().resize_(0)
    with pytest.raises(InputError, match=r"parameter, .* of shape \(20, 12\) was freed"):
        opt.step()


@pytest.mark.parametrize("value", [None, 0.0])
def test_a_state_that_is_no_tensor_is_refused(value: Any) -> None:
    opt, params, key = _made("lion", "compiled")
    opt.state[params[3]][key] = value
    with pytest.raises(InputError, match=rf"weight3: its state '{key}' is {value}; put a tensor"):
        _step(opt, params)


def test_a_step_count_is_one_number() -> None:
    opt, params, _ = _made("lion", "compiled")
    opt.state[params[3]]["step"] = torch.ones(1)
    with pytest.raises(InputError, match=r"weight3 in group 0 has step=tensor\(\[1.\]\)"):
        _step(opt, params)


def test_alike_asks_for_all_that_a_kernel_believes() -> None:
    alike = Alike([torch.zeros(3, 4), torch.zeros(2)])
    assert alike([torch.ones(3, 4), torch.ones(2)])
    pair = torch.zeros(2)
    for other in (
        torch.zeros(4, 3),
        torch.zeros(4, 3).t(),
        torch.zeros(12),
        torch.zeros(3, 4, dtype=torch.float64),
        torch.zeros(3, 4, device="meta"),
        nn.Parameter(torch.zeros(3, 4)),
        torch.zeros(3, 4).to_sparse(),
    ):
        assert not alike([other, pair])
    assert not alike([pair, pair])


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")  # is in beta state
def test_alike_knows_nothing_of_tensors_without_strides_and_of_copies() -> None:
    rows = torch.zeros(3, 4).to_sparse_csr()
    assert not Alike([rows])([rows])
    assert copy.deepcopy(Alike([torch.zeros(2)]))([])
