"""Rules that sum along rows and columns: compiled for matrices, they do what they do eagerly."""

from __future__ import annotations

import copy
import functools
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.optimizers.training import Named, named, train
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.transform import Buffer, Hyper, State, Transform
from rheostat.optimizers import matrices
from rheostat.optimizers.matrices import MatrixKernel, program_of

T = rs.transforms

SHAPES = [
    *((40, 72), (72, 40), (16, 16), (300, 48), (48, 301), (64, 33), (5, 1), (1, 9), (1, 1), (1,)),
    *((17,), (200,), (8, 3, 5), (6, 40, 2, 3), (150, 500)),
]
"""Wide, tall, square, thin; vectors; filters; more than one share of rows."""
RULES: dict[str, Callable[[], Any]] = {
    "adafactor": lambda: rs.component("adafactor", "optimizer").factory(weight_decay=0.1),
    "adafactor_bv": lambda: rs.component("adafactor_bv", "optimizer").factory(
        lr=0.01, momentum_dtype="float32", weight_decay=0.1
    ),
    "adafactor_bv, clipped": lambda: rs.component("adafactor_bv", "optimizer").factory(
        lr=0.01, momentum=0.0, clipping_threshold=0.7
    ),
    "adam_mini": lambda: rs.component("adam_mini", "optimizer").factory(weight_decay=0.1),
    "cautious": lambda: rs.chain(
        T.scale_by_adam(), T.cautious_update(), T.add_decayed_weights(0.1)
    ),
    "centralized": lambda: rs.chain(T.centralize_gradient(), T.scale_by_adam()),
    "orthogonal": lambda: rs.chain(T.orthogonal_gradient(), T.scale_by_adam()),
    "clipped by units": lambda: rs.chain(T.adaptive_gradient_clip(), T.scale_by_adam()),
    "limited": lambda: rs.chain(T.scale_by_adam(), T.limit_update_rms(0.5)),
}
NOT_FACTORED = {"adafactor": {(8, 3, 5), (6, 40, 2, 3)}}
"""torch's Adafactor factors the last two dimensions, which are no rows and columns there."""


def _named(dtype: torch.dtype, shapes: Sequence[tuple[int, ...]] = SHAPES) -> Named:
    return named(shapes, dtype)


def _both(rule: Callable[[], Any], dtype: torch.dtype, **given: Any) -> list[list[Tensor]]:
    """Parameters and buffers, trained eagerly and compiled."""
    found = []
    for mode in ("eager", "compiled"):
        params = _named(dtype, **given)
        opt = rs.optimizer(rule(), params, mode=mode)
        trained = train(opt, params, range(8))
        state = [opt.state[p][name] for _, p in params for name in opt.rule(0).buffers]
        found.append([*trained, *state])
    return found


@pytest.mark.parametrize("name", RULES)
def test_the_same_as_eagerly(name: str) -> None:
    for eager, fast in zip(*_both(RULES[name], torch.float64), strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-12, atol=1e-13)
    for eager, fast in zip(*_both(RULES[name], torch.float32), strict=True):
        torch.testing.assert_close(fast, eager, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", RULES)
def test_every_shape_is_written(name: str) -> None:
    """The test above compares two ways."""
    for shape in SHAPES:
        program = program_of(RULES[name](), torch.Size(shape), torch.float32)
        assert (program is not None) is (shape not in NOT_FACTORED.get(name, ())), shape


def test_a_kernel_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    launch = MatrixKernel._launch

    def counted(self: MatrixKernel, batch: Sequence[Any]) -> None:
        calls.append(len(batch))
        launch(self, batch)

    monkeypatch.setattr(MatrixKernel, "_launch", counted)
    params = _named(torch.float32, [(40, 72), (40, 72), (30,)])
    train(rs.optimizer("adafactor", params, mode="compiled"), params, range(3, 4))
    assert sorted(calls) == [1, 1]  # one has no gradient
    calls.clear()
    train(rs.optimizer("adafactor", params, mode="compiled"), params, range(4, 5))
    assert sorted(calls) == [1, 2]


# -- what a rule may do with rows and columns ------------------------------------------------------

Verb = Callable[[Tensor, State, Tensor, Hyper], Tensor]


def _wide(param: Tensor) -> tuple[int, ...]:
    return tuple(param.shape)


def _row(param: Tensor) -> tuple[int, ...]:
    return (param.shape[0], *(1,) * (param.ndim - 1))


def _flat_row(param: Tensor) -> tuple[int, ...]:
    return tuple(param.shape[:1])


def _column(param: Tensor) -> tuple[int, ...]:
    return (1, *param.shape[1:])


def _one(param: Tensor) -> tuple[int, ...]:
    return ()


def _old_value_after_a_sum(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    old = state["b"].clone()
    state["b"].copy_(u)
    return old * u.mean(-1, keepdim=True) + old.square().mean() * old + u


def _columns_then_rows(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    column = state["b"].mul_(0.5).add_(u.square().mean(0, keepdim=True))
    row = (u * column).sum(1, keepdim=True)
    return u * row / (1.0 + column) + 0.1 * row.sum() + 0.1 * column.mean()


def _rows_then_rows(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    row = u.abs().mean(1)
    state["b"].lerp_(row, 0.25)
    other = (u / (1.0 + state["b"].unsqueeze(1))).sum(1, keepdim=True)
    return u * other


def _row_sum_kept(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    before = state["b"].clone()
    state["b"].copy_(u.sum(1, keepdim=True))
    return u + before


def _number(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    mean = state["b"].mul_(0.5).add_(0.5 * u.abs().mean())
    return torch.where(u > mean, u, u * hyper.lr) / mean


def _largest_scale(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    state["b"].mul_(0.9).add_(u)
    return state["b"] * max(1.0, u.shape[0] / u.shape[-1]) ** 0.5


WAYS: dict[str, tuple[Verb, Callable[[Tensor], tuple[int, ...]]]] = {
    "an old value after a sum": (_old_value_after_a_sum, _wide),
    "columns, then rows": (_columns_then_rows, _column),
    "rows, then rows": (_rows_then_rows, _flat_row),
    "a row's sum is kept": (_row_sum_kept, _row),
    "a number": (_number, _one),
    "a number of the shape": (_largest_scale, _wide),
}
MATRICES = [(40, 72), (72, 40), (16, 16), (150, 500), (33, 3)]


def _rule(update: Verb, shape: Callable[[Tensor], tuple[int, ...]]) -> Transform:
    return Transform(
        update, buffers={"b": Buffer(shape=shape)}, hyperparameters={"lr": 0.1}, scope="matrix"
    )


@pytest.mark.parametrize("name", WAYS)
def test_any_rule_of_rows_and_columns(name: str) -> None:
    def rule() -> Transform:
        return _rule(*WAYS[name])

    for shape in MATRICES:
        assert program_of(rule(), torch.Size(shape), torch.float64) is not None
    for eager, fast in zip(*_both(rule, torch.float64, shapes=MATRICES), strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-11, atol=1e-11)


TRAPS: dict[str, Callable[[Tensor, Tensor, Tensor, Any], Tensor]] = {
    "a transposed gradient": lambda u, b, p, h: u.mT.reshape(u.shape) + u,
    "products of matrices": lambda u, b, p, h: u @ u.mT @ u,
    "rows beside columns": lambda u, b, p, h: u * u.mean(1),
    "rows laid as columns": lambda u, b, p, h: u * u.mean(1).unsqueeze(0),
    "rows viewed as columns": lambda u, b, p, h: u * u.mean(1).view(1, -1),
    "rows in another function": lambda u, b, p, h: torch.lerp(u, u.mean(1), 0.5),
    "rows by rows": lambda u, b, p, h: u + u.mean(1).unsqueeze(1) @ u.mean(1).unsqueeze(0),
    "columns by rows": lambda u, b, p, h: u + u.mean(0).unsqueeze(1) @ u.mean(1).unsqueeze(0),
    "a table of rows": lambda u, b, p, h: u + (u.mean(1)[:, None] - u.mean(1)[None]).abs().mean(),
    "sums over pairs": lambda u, b, p, h: u - u.view(-1, 2).sum(1).repeat(2).view(u.shape),
    "a tensor of zeros": lambda u, b, p, h: u * (torch.zeros_like(u) + 2 * u.mean()).sum(),
    "an element": lambda u, b, p, h: u / (1 + u[0, 0].abs()),
    "a row": lambda u, b, p, h: u - u[0].unsqueeze(0),
    "a row that is written": lambda u, b, p, h: b.mul_(0.5).add_(u[0].mul(2)) + u,
    "a view that is written": lambda u, b, p, h: b.view(-1).mul_(0.5).add_(u.view(-1)).view_as(u),
    "a flat view that is written": lambda u, b, p, h: b.mul_(1).unsqueeze(0).add_(u)[0] * 1.0,
    "a view of what is written": lambda u, b, p, h: b.view(b.shape).mul_(0.5) + b.add_(u) + b,
    "rounding": lambda u, b, p, h: torch.div(u, h.lr, rounding_mode="floor"),
    "another rounding": lambda u, b, p, h: torch.div(u, 0.3, rounding_mode="trunc"),
    "a factor of rsub": lambda u, b, p, h: torch.rsub(u, p, alpha=2.0),
    "truth by truth": lambda u, b, p, h: (u > 0).to(u.dtype) / (p > 0).to(u.dtype).clamp(min=0.5),
    "the root of truth": lambda u, b, p, h: (u > 0).to(u.dtype).sqrt(),
    "bits": lambda u, b, p, h: u + u.view(torch.int64).bitwise_and(-16).view(u.dtype),
    "float32": lambda u, b, p, h: u.float().to(u.dtype) * 1.5,
    "a tensor of its own": lambda u, b, p, h: u * torch.tensor(2.0),
    "no dimension": lambda u, b, p, h: u * u.mean(dim=None, keepdim=True),
    "many numbers": lambda u, b, p, h: functools.reduce(lambda v, _: v * (h.lr * 10), range(70), u),
}
"""What a reader of rows and columns may take for something else, on a square matrix."""


@pytest.mark.parametrize("name", TRAPS)
def test_what_is_not_understood_is_not_written(name: str) -> None:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return TRAPS[name](u, state["b"], param, hyper)

    def rule() -> Transform:
        return _rule(update, _wide)

    for eager, other in zip(*_both(rule, torch.float64, shapes=[(16, 16)]), strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-12, atol=1e-13)


def test_a_nan_on_either_side_stays() -> None:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return torch.maximum(param, u) + torch.minimum(u, param) + param.clamp(max=u)

    found = []
    for mode in ("eager", "compiled"):
        [(_, param)] = params = _named(torch.float64, [(12, 20)])
        opt = rs.optimizer(_rule(update, _wide), params, mode=mode, nonfinite="propagate")
        large = param.detach() > 0.5
        param.grad = torch.full_like(param, 0.1).masked_fill_(large, math.nan)
        opt.step()
        found.append(param.detach())
    torch.testing.assert_close(*found, equal_nan=True)
    assert found[0].isnan().any()


@dataclass(frozen=True)
class _Times:
    factor: float

    def update(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * self.factor


def _times(factor: float) -> Verb:
    def update(
        u: Tensor, state: State, param: Tensor, hyper: Hyper, *, factor: float = factor
    ) -> Tensor:
        return u * factor

    return update


def _by_all(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return functools.reduce(lambda v, b: v * b, hyper.betas, u)


def _by_global(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * FACTOR


FACTOR = 1.0


@pytest.mark.parametrize("scope", ["element", "matrix"])
def test_rules_that_differ_somewhere_do_not_share_a_program(
    scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(update: Verb, mode: Any, betas: tuple[float, ...] = (0.5,)) -> Tensor:
        rule = Transform(update, hyperparameters={"betas": betas}, scope=scope, scaled=True)
        [(_, param)] = params = _named(torch.float64, [(12, 20)])
        train(rs.optimizer(rule, params, mode=mode), params, range(1, 2))
        return param.detach()

    def agree(update: Verb, **given: Any) -> None:
        ways = [moved(update, mode, **given) for mode in ("eager", "compiled")]
        torch.testing.assert_close(*ways, rtol=1e-12, atol=1e-13)

    for factor in (2.0, 3.0):
        agree(_Times(factor).update)
        agree(_times(factor))
        monkeypatch.setitem(globals(), "FACTOR", factor)
        agree(_by_global)
    for betas in ((0.5, 0.25), (0.5, 0.25, 0.125)):
        agree(_by_all, betas=betas)


class _Settings:
    factor = 1.0


SETTINGS: dict[str, float] = {"factor": 1.0}
LISTED = [1.0]
HELD = types.SimpleNamespace(factor=1.0)
_known = SETTINGS.get


def _of_dict(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * SETTINGS["factor"]


def _of_list(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * LISTED[0]


def _of_object(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * HELD.factor


def _of_method(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * (_known("factor") or 0.0)


def _of_helper(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return _of_dict(u, state, param, hyper)


def _of_class(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * _Settings.factor


class _Inherits(_Settings):
    def update(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * self.factor

    def asked(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return self.update(u, state, param, hyper)


def _keeping(held: dict[str, float]) -> Verb:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * held["factor"]

    return update


INHERITS = _Inherits()
MUTABLE: list[Verb] = [_of_dict, _of_list, _of_object, _of_method, _of_helper, _keeping(SETTINGS)]
MUTABLE += [_of_class, INHERITS.update, INHERITS.asked]


@pytest.mark.parametrize("scope", ["element", "matrix"])
@pytest.mark.parametrize("update", MUTABLE)
def test_what_a_rule_reads_is_read_anew(
    update: Verb, scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program does not notice that a dict, a list, an object or a class has changed: none is
    made."""
    rule = Transform(update, scope=scope, scaled=True)
    for factor in (1.0, 3.0):
        monkeypatch.setitem(SETTINGS, "factor", factor)
        LISTED[0] = factor
        monkeypatch.setattr(HELD, "factor", factor)
        monkeypatch.setattr(_Settings, "factor", factor)
        param = nn.Parameter(torch.zeros(800, 700))
        opt = rs.optimizer(rule, [param])
        assert opt.param_groups[0]["mode"] == "eager"
        param.grad = torch.ones_like(param)
        opt.step()
        assert torch.equal(param, torch.full_like(param, -factor))


def test_a_group_without_a_matrix_of_its_own_is_taken_too() -> None:
    params = _named(torch.float32, [(40, 72)])
    opt = rs.optimizer("adafactor", params, mode="compiled")
    filters = nn.Parameter(torch.ones(8, 4, 3, 3))
    opt.add_param_group({"params": [filters]})
    assert opt.param_groups[1]["mode"] == "compiled"
    filters.grad = torch.ones_like(filters)
    opt.step()
    assert not torch.equal(filters.detach(), torch.ones_like(filters))
    halves = [nn.Parameter(torch.ones(40, 72, dtype=torch.bfloat16))]
    assert rs.optimizer("adafactor", halves, mode="compiled").param_groups[0]["mode"] == "compiled"


def test_short_rows_run_eagerly() -> None:
    rule = rs.component("adafactor", "optimizer").factory()
    assert program_of(rule, torch.Size((5000, 4)), torch.float32) is None
    assert program_of(rule, torch.Size((4, 5000)), torch.float32) is not None


# -- bits ------------------------------------------------------------------------------------------


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    def keep(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        state["b"].copy_(u)
        return state["b"].to(u.dtype)

    rule = Transform(keep, buffers={"b": Buffer(dtype=torch.bfloat16)}, scope="matrix", scaled=True)
    upper = torch.arange(-(2**15), 2**15) * 2**16
    lower = torch.tensor([0, 1, 2**15 - 1, 2**15, 2**15 + 1, 2**16 - 1])
    bits = (
        (upper[:, None] + lower).to(torch.int32).view(512, -1)
    )  # every bfloat16, and what lies beside it
    param = nn.Parameter(torch.zeros(bits.shape))
    param.grad = bits.view(torch.float32)
    opt = rs.optimizer(rule, [param], mode="compiled", nonfinite="propagate")
    assert program_of(opt.rule(0), param.shape, param.dtype) is not None
    opt.step()
    expected = param.grad.bfloat16()
    torch.testing.assert_close(opt.state[param]["b"], expected, rtol=0, atol=0, equal_nan=True)
    moved = -expected.float()
    torch.testing.assert_close(param.detach(), moved, rtol=0, atol=0, equal_nan=True)


def test_the_bits_do_not_depend_on_the_threads() -> None:
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            params = _named(torch.float32, [(700, 300), (300, 700)])
            found.append(
                train(rs.optimizer("adafactor", params, mode="compiled"), params, range(4))
            )
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def _by_shape(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    """Wide matrices by the one number, tall ones by the other."""
    slow, fast = hyper.betas
    return u * (slow if u.shape[0] < u.shape[1] else fast) - -hyper.lr * u.mean(1, keepdim=True)


def test_shapes_share_numbers_only_where_they_are_made_alike() -> None:
    def rule() -> Transform:
        numbers = {"lr": 0.1, "betas": (0.5, 0.25)}
        return Transform(_by_shape, hyperparameters=numbers, scope="matrix", scaled=True)

    shapes = [(8, 16), (16, 8), (9, 17)]
    found = [program_of(rule(), torch.Size(s), torch.float64) for s in shapes]
    wide, tall, other = [one.graph.meaning for one in found if one is not None]
    assert wide == other != tall
    for eager, fast in zip(*_both(rule, torch.float64, shapes=shapes), strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-12, atol=1e-13)


def test_shapes_share_a_source_and_differ_by_constants() -> None:
    rule = rs.component("adafactor", "optimizer").factory()
    one, other = (program_of(rule, torch.Size(s), torch.float32) for s in ((40, 72), (64, 512)))
    assert one is not None
    assert other is not None
    assert one.text == other.text
    assert one.constants != other.constants


def test_rules_that_differ_by_a_buffer_have_programs_of_their_own() -> None:
    made = rs.component("adafactor_bv", "optimizer").factory
    for kind in ("float32", "bfloat16", "float32"):
        program = program_of(made(momentum_dtype=kind), torch.Size((41, 73)), torch.float32)
        assert program is not None
        assert program.dtypes[-1] is getattr(torch, kind)


def test_saved_and_resumed_to_the_same_bits() -> None:
    params = _named(torch.float32)
    opt = rs.optimizer("adafactor_bv", params, mode="compiled", lr=0.01)
    train(opt, params, range(3))
    again = copy.deepcopy(params)
    other = rs.optimizer("adafactor_bv", again, lr=0.01)
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]["mode"] == "compiled"
    mine, theirs = train(opt, params, range(3, 6)), train(other, again, range(3, 6))
    assert all(map(torch.equal, mine, theirs))


def test_without_a_compiler_it_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(mode: Any) -> list[Tensor]:
        params = _named(torch.float32)
        return train(rs.optimizer("adafactor", params, mode=mode), params, range(4))

    eager = trained("eager")

    def fails(text: str) -> bool:
        return not text

    monkeypatch.setattr(matrices, "compiles", fails)
    assert all(map(torch.equal, eager, trained("compiled")))


def test_gradients_with_holes_run_eagerly() -> None:
    found = []
    for mode in ("eager", "compiled"):
        [(_, param)] = params = _named(torch.float64, [(24, 36)])
        opt = rs.optimizer("adafactor", params, mode=mode)
        param.grad = torch.arange(24.0 * 36, dtype=torch.float64).reshape(36, 24).mT / 100
        opt.step()
        found.append(param.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["adafactor", "adafactor_bv", "adam_mini"])
def test_matrices_without_elements_are_no_obstacle(name: str) -> None:
    params = [nn.Parameter(torch.ones(shape)) for shape in ((1000, 600), (0, 4), (4, 0), (0,))]
    opt = rs.optimizer(name, params)
    for param in params:
        param.grad = torch.ones_like(param)
    opt.step()
    assert not torch.equal(params[0], torch.ones(1000, 600))
