"""Averages of the weights against torch's, Lookahead against its paper, and the view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.references.problems import (
    assert_resumes,
    assert_takes_odd_parameters,
    network,
    same_bits,
    train,
    weights,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.asgd import asgd
from rheostat.optimizers.schedule_free_adamw import schedule_free_adamw
from rheostat.optimizers.schedule_free_sgd import schedule_free_sgd
from rheostat.optimizers.sgd import sgd

Make = Callable[[], rs.Transform]
AVERAGES: dict[str, Make] = {
    "ema": lambda: rs.transforms.ema_weights(0.9),
    "ema_corrected": lambda: rs.transforms.ema_weights(0.9, bias_correction=True),
    "swa": lambda: rs.transforms.swa_weights(start=4, every=3),
}
ALL: dict[str, Make] = {**AVERAGES, "lookahead": lambda: rs.transforms.lookahead(3, 0.7)}


def _iterates(steps: int) -> list[list[Tensor]]:
    """The weights after every step of AdamW, the initial ones first."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen = [weights(model)]
    for k in range(steps):
        train(model, optimizer, 1, k)
        seen.append(weights(model))
    return seen


def _mean(taken: list[list[Tensor]], shares: list[float]) -> list[Tensor]:
    """The weighted mean of lists of tensors."""
    columns = zip(*taken, strict=True)
    return [sum(s * t for s, t in zip(shares, c, strict=True)) for c in columns]


def _viewed(make: Make, steps: int) -> list[Tensor]:
    model = network()
    optimizer = rs.optimizer(rs.chain(adamw(lr=1e-2), make()), model)
    train(model, optimizer, steps)
    with optimizer.averaged():
        return weights(model)


def test_ema_equals_torchs_averaged_model() -> None:
    mine, other = network(), network()
    ours = rs.optimizer(rs.chain(adamw(lr=1e-2), rs.transforms.ema_weights(0.95)), mine)
    theirs = torch.optim.AdamW(other.parameters(), lr=1e-2)
    averaged = AveragedModel(other, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    averaged.update_parameters(other)
    for k in range(50):
        train(mine, ours, 1, k)
        train(other, theirs, 1, k)
        averaged.update_parameters(other)
    torch.testing.assert_close(weights(mine), weights(other), rtol=1e-11, atol=1e-12)
    with ours.averaged():
        found = weights(mine)
    torch.testing.assert_close(found, weights(averaged.module), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_a_corrected_ema_is_a_mean_of_what_was_stepped_to(steps: int) -> None:
    """Weights of the mean: 0.9 ** age, summing to 1; the initial weights have no part in it."""
    shares = [0.9 ** (steps - k) for k in range(1, steps + 1)]
    expected = _mean(_iterates(steps)[1:], [share / sum(shares) for share in shares])
    found = _viewed(AVERAGES["ema_corrected"], steps)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 6, 7, 30])
def test_swa_is_the_plain_mean_from_its_start_on(steps: int) -> None:
    taken = [iterate for k, iterate in enumerate(_iterates(steps)) if k in range(4, 99, 3)]
    expected = _mean(taken, [1 / len(taken)] * len(taken)) if taken else _iterates(steps)[-1]
    found = _viewed(AVERAGES["swa"], steps)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (3, 0.8), (1, 0.25), (4, 0.0), (4, 1.0)])
def test_lookahead_equals_its_paper_around_sgd(k: int, alpha: float) -> None:
    mine, other = network(), network()
    rule = rs.chain(sgd(lr=0.1, momentum=0.9), rs.transforms.lookahead(k, alpha))
    ours = rs.optimizer(rule, mine)
    theirs = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    slow = weights(other)
    for step in range(1, 41):
        train(mine, ours, 1, step)
        train(other, theirs, 1, step)
        if step % k == 0:
            slow = [s + alpha * (w - s) for s, w in zip(slow, weights(other), strict=True)]
            with torch.no_grad():
                for param, value in zip(other.parameters(), slow, strict=True):
                    param.copy_(value)
        torch.testing.assert_close(weights(mine), weights(other), rtol=1e-11, atol=1e-12)
    for param in mine.parameters():
        assert (ours.state[param]["slow_weights"] == param).all() == (40 % k == 0)


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_watch_and_the_view_puts_every_bit_back(name: str) -> None:
    watched, plain = network(torch.float32), network(torch.float32)
    one = rs.optimizer(rs.chain(adamw(lr=1e-2), AVERAGES[name]()), watched)
    other = rs.optimizer("adamw", plain, lr=1e-2)
    for k in range(15):
        train(watched, one, 1, k)
        train(plain, other, 1, k)
        before = weights(watched)
        with one.averaged():
            alike = {"ema": 0, "ema_corrected": 1, "swa": 4}[name]  # steps before they part
            assert same_bits(before, weights(watched)) == (k < alike)
            with pytest.raises(InputError, match="evaluation view"):
                train(watched, one, 1, k)
        assert same_bits(before, weights(watched))
    torch.testing.assert_close(weights(watched), weights(plain), rtol=1e-6, atol=1e-7)


def test_an_error_under_the_view_still_puts_the_weights_back() -> None:
    model = network()
    optimizer = rs.optimizer(rs.chain(adamw(), rs.transforms.ema_weights(0.5)), model)
    train(model, optimizer, 5)
    before = weights(model)
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        raise ZeroDivisionError
    assert same_bits(before, weights(model))


@pytest.mark.parametrize("name", AVERAGES)
def test_without_a_step_the_view_is_the_parameter(name: str) -> None:
    model = network()
    before = weights(model)
    optimizer = rs.optimizer(rs.chain(adamw(), AVERAGES[name]()), model)
    with optimizer.averaged():
        assert same_bits(before, weights(model))


VIEWS: dict[str, Make] = {
    **AVERAGES,
    "schedule_free_sgd": lambda: schedule_free_sgd(momentum=0.0),
    "schedule_free_adamw": schedule_free_adamw,
    "asgd": asgd,
}


@pytest.mark.parametrize("precision", ["plain", "master"])
@pytest.mark.parametrize("name", VIEWS)
def test_what_was_loaded_before_its_first_step_is_its_own_view(name: str, precision: Any) -> None:
    dtype = torch.bfloat16 if precision == "master" else torch.float32
    stepping, frozen, unused = (nn.Parameter(torch.zeros(2, dtype=dtype)) for _ in range(3))
    frozen.requires_grad_(False)
    params = [stepping, frozen, unused]
    optimizer = rs.optimizer(VIEWS[name](), params, precision=precision)
    loaded = torch.tensor([5.0, -5.0], dtype=dtype)
    for steps in range(3):
        for param in (frozen, unused, *(() if steps else (stepping,))):
            param.data.copy_(loaded + steps)
        with optimizer.averaged():
            shown = params[1:] if steps else params
            assert all(torch.equal(param, loaded + steps) for param in shown)
        assert torch.equal(unused, loaded + steps)
        stepping.grad = torch.ones_like(stepping)
        optimizer.step()


def test_what_stands_last_sees_the_weights_where_they_come_to_rest() -> None:
    def average(*pieces: rs.Transform) -> float:
        param = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = rs.optimizer(rs.chain(sgd(lr=1.0), *pieces), [param])
        for gradient in (-3.0, 5.0):  # to 3, then below 0
            param.grad = torch.tensor([gradient], dtype=torch.float64)
            optimizer.step()
        with optimizer.averaged():
            return param.item()

    mean, bound = rs.transforms.swa_weights(start=1), rs.transforms.non_negative()
    assert average(bound, mean) == pytest.approx(1.5)
    mean, bound = rs.transforms.swa_weights(start=1), rs.transforms.non_negative()
    assert average(mean, bound) == pytest.approx(0.5)


def test_two_views_are_refused_and_lookahead_goes_with_one() -> None:
    with pytest.raises(InputError, match="give the weights to evaluate with"):
        rs.chain(rs.transforms.ema_weights(), rs.transforms.swa_weights(start=1))
    rule = rs.chain(adamw(lr=1e-2), rs.transforms.lookahead(2), rs.transforms.ema_weights(0.5))
    model = network()
    optimizer = rs.optimizer(rule, model)
    train(model, optimizer, 6)
    slow = [optimizer.state[param]["slow_weights"].clone() for param in model.parameters()]
    assert same_bits(weights(model), slow)


@pytest.mark.parametrize("name", ALL)
def test_a_late_first_gradient_is_a_first_step(name: str) -> None:
    late, fresh, early = (nn.Parameter(torch.linspace(-1, 1, 6)) for _ in range(3))
    ours = rs.optimizer(rs.chain(adamw(), ALL[name]()), [early, late])
    alone = rs.optimizer(rs.chain(adamw(), ALL[name]()), [fresh])
    for _ in range(31):
        early.grad = torch.full_like(early, 0.3)
        ours.step()
    for k in range(10):
        late.grad = fresh.grad = torch.linspace(0.5, 2, 6) + k
        ours.step()
        alone.step()
        assert torch.equal(late, fresh)
        with ours.averaged(), alone.averaged():
            assert torch.equal(late, fresh)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_weights_are_averaged_in_float32(name: str) -> None:
    param = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = rs.optimizer(rs.chain(sgd(lr=1.0), ALL[name]()), [param])
    for _ in range(6):
        param.grad = torch.full_like(param, 2.0**-7)
        optimizer.step()
    kept = [v for k, v in optimizer.state[param].items() if k.endswith("_weights")]
    assert [value.dtype for value in kept] == [torch.float32]
    assert 1 - 6 * 2.0**-7 <= float(kept[0][0]) < 1


@pytest.mark.parametrize("name", ALL)
def test_resumes_and_takes_odd_parameters(name: str) -> None:
    assert_resumes(lambda: rs.chain(adamw(lr=1e-2), ALL[name]()))
    assert_resumes(lambda: rs.chain(sgd(lr=1e-2, momentum=0.9), ALL[name]()))
    assert_takes_odd_parameters(lambda: rs.chain(adamw(lr=1e-2), ALL[name]()))


def test_averaged_shows_again_what_was_shown_before() -> None:
    param = nn.Parameter(torch.zeros(1))
    rule = rs.chain(rs.transforms.ema_weights(0.5), rs.transforms.scale_by_learning_rate(1.0))
    optimizer = rs.optimizer(rule, [param])
    for _ in range(3):
        param.grad = torch.ones(1)
        optimizer.step()
    trained = param.item()
    with optimizer.averaged():
        average = param.item()
        with optimizer.averaged():
            assert param.item() == average
        assert param.item() == average
    assert param.item() == trained != average
    optimizer.eval()
    with optimizer.averaged():
        optimizer.train()
    assert param.item() == average
    optimizer.train()
    assert param.item() == trained
