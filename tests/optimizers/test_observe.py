"""Samples of the Hessian's diagonal: what `observe` takes, refuses and leaves out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError, RheostatError
from rheostat.optimizers.changes import load_changed
from rheostat.optimizers.loop import Optimizer

pytestmark = pytest.mark.usefixtures("whoever_counts")


def _param(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def _coupled(size: int = 6) -> Tensor:
    """A symmetric matrix: under it a sample differs from the diagonal with the signs drawn."""
    square = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    return square @ square.T


def _quadratic(param: Tensor, hessian: Tensor) -> Callable[[], Tensor]:
    return lambda: 0.5 * param.flatten() @ hessian @ param.flatten()


def _hessian(optimizer: Any, param: Tensor) -> Tensor:
    return optimizer.state[param]["hessian"].clone()


def _forgetful(param: Tensor, **options: Any) -> Optimizer:
    """Sophia whose diagonal is the last sample."""
    return rs.optimizer("sophia", [("w", param)], betas=(0.9, 0.0), **options)


# -- samples that are not finite ------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["hutchinson", "gnb"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_is_dropped_for_every_parameter(
    estimator: Any, bad: float
) -> None:
    a, b, empty = _param(1.0, 2.0), _param(3.0), _param()
    optimizer = rs.optimizer("sophia", [("a", a), ("b", b), ("empty", empty)], lr=0.1)

    def good() -> Tensor:
        return a.square().sum() + b.square().sum() + empty.square().sum()

    optimizer.observe(good, estimator)
    before = [_hessian(optimizer, p) for p in (a, b)]
    optimizer.observe(lambda: good() + bad * b.square().sum(), estimator)
    assert all(torch.equal(_hessian(optimizer, p), h) for p, h in zip((a, b), before, strict=True))
    optimizer.observe(good, estimator)
    assert not torch.equal(_hessian(optimizer, a), before[0])


def test_a_sample_whose_square_overflows_is_dropped() -> None:
    param = _param(1e25)
    optimizer = _forgetful(param)
    optimizer.observe(lambda: param.square().sum(), "gnb")
    assert _hessian(optimizer, param).item() == 0


def test_a_sample_that_is_not_finite_is_refused_by_name_under_raise() -> None:
    a, b = _param(1.0), _param(1.0)
    optimizer = rs.optimizer("sophia", [("a", a), ("b", b)], nonfinite="raise")
    with pytest.raises(RheostatError, match=r"^the Hessian's sample of b is not finite; nothing"):
        optimizer.observe(lambda: a.square().sum() + float("nan") * b.square().sum())
    assert _hessian(optimizer, a).item() == 0


def test_nobody_looks_at_a_sample_under_propagate() -> None:
    param = _param(1.0)
    optimizer = _forgetful(param, nonfinite="propagate")
    optimizer.observe(lambda: float("nan") * param.square().sum())
    assert _hessian(optimizer, param).isnan().all()


# -- what a sample is of --------------------------------------------------------------------------


def test_maximising_the_negative_loss_trains_as_minimising_the_loss() -> None:
    hessian = _coupled()
    weights: list[Tensor] = []
    for sign in (1, -1):
        param = nn.Parameter(torch.ones(6))
        optimizer = rs.optimizer("sophia", [("w", param)], lr=0.1, gamma=10.0, maximize=sign < 0)
        for estimator in ("hutchinson", "gnb", "hutchinson"):
            optimizer.zero_grad()
            loss = _quadratic(param, sign * hessian)
            loss().backward()
            optimizer.observe(loss, estimator)
            optimizer.step()
        weights.append(param.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize("estimator", ["hutchinson", "gnb"])
def test_a_complex_parameter_is_trained_as_the_pair_of_reals(estimator: Any) -> None:
    hessian = _coupled()
    found: list[list[Tensor]] = []
    start = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]])
    for values in (start, torch.view_as_complex(start)):
        param = nn.Parameter(values.clone())
        optimizer = rs.optimizer("sophia", [("w", param)], lr=0.1, gamma=1.0)

        def loss(param: nn.Parameter = param) -> Tensor:
            pairs = torch.view_as_real(param) if param.is_complex() else param
            return _quadratic(pairs, hessian)() + pairs.pow(4).sum()

        for _ in range(3):
            optimizer.zero_grad()
            loss().backward()
            optimizer.observe(loss, estimator, batch_size=3)
            optimizer.step()
        seen = [param.detach(), _hessian(optimizer, param)]
        found.append([torch.view_as_real(t) if t.is_complex() else t for t in seen])
    for real, pair in zip(*found, strict=True):
        torch.testing.assert_close(real, pair)


def test_the_sample_of_a_parameter_in_which_the_loss_is_linear_is_zero() -> None:
    straight, curved, idle = _param(1.0), _param(2.0), _param(3.0)
    params = [("straight", straight), ("curved", curved), ("idle", idle)]
    optimizer = rs.optimizer("sophia", params, betas=(0.9, 0.5))
    for param in (straight, idle):
        optimizer.state[param]["hessian"].fill_(4.0)
    optimizer.observe(straight.sum)
    optimizer.observe(lambda: straight.sum() + curved.square().sum())
    assert _hessian(optimizer, straight).item() == 1.0
    assert _hessian(optimizer, curved).item() == 1.0
    assert _hessian(optimizer, idle).item() == 4.0  # the loss does not depend on it: no sample


def test_a_parameter_that_was_frozen_until_now_is_left_out() -> None:
    a, b = _param(1.0), nn.Parameter(torch.ones(1), requires_grad=False)
    optimizer = rs.optimizer("sophia", [("a", a), ("b", b)], betas=(0.9, 0.0))
    b.requires_grad_()
    optimizer.observe(lambda: (a * b).square().sum())
    assert _hessian(optimizer, a).item() == 2.0


# -- mistakes -------------------------------------------------------------------------------------


NO_LOSSES: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda _: None, "the closure returned None; it should return the loss"),
    (lambda _: 1.0, "the closure returned a float; it should return the loss"),
    (lambda p: 2 * p, r"the closure returned float32 of shape \(2,\); it should"),
    (lambda p: p.sum() * 1j, r"the closure returned complex64 of shape \(\); it should"),
    (lambda p: p.detach().sum(), "the closure should return the loss with its graph"),
]


@pytest.mark.parametrize(("returned", "said"), NO_LOSSES)
def test_what_is_no_loss_is_refused_in_a_line(returned: Any, said: str) -> None:
    param = _param(1.0, 2.0)
    with pytest.raises(InputError, match=f"^observe: {said}") as caught:
        rs.optimizer("sophia", [param]).observe(lambda: returned(param))
    assert "\n" not in str(caught.value)


def test_a_closure_that_goes_backward_is_refused_in_a_line() -> None:
    param = _param(1.0, 2.0)

    def closure() -> Tensor:
        loss = param.square().sum()
        loss.backward()
        return loss

    with pytest.raises(InputError, match=r"^observe: the closure went backward already; it should"):
        rs.optimizer("sophia", [param]).observe(closure)


@pytest.mark.parametrize("size", [0, -3, 2.5, float("nan"), float("inf"), "4", None, True])
def test_a_batch_size_that_is_no_count_is_refused(size: Any) -> None:
    param = _param(1.0)
    with pytest.raises(InputError, match=r"^observe: batch_size=.*should be a whole number from 1"):
        rs.optimizer("sophia", [param]).observe(lambda: param.square().sum(), "gnb", size)


@pytest.mark.parametrize("size", [4, 4.0, torch.tensor(4)])
def test_a_batch_size_is_any_number_that_is_a_count(size: Any) -> None:
    param = _param(1.0)
    optimizer = _forgetful(param)
    optimizer.observe(lambda: param.square().sum(), "gnb", size)
    assert _hessian(optimizer, param).item() == 16.0


def test_a_sparse_gradient_is_refused_by_name() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = rs.optimizer("sophia", embedding.named_parameters())
    with pytest.raises(InputError, match="weight has a sparse gradient"):
        optimizer.observe(lambda: embedding(torch.tensor([1])).square().sum())


# -- the signs ------------------------------------------------------------------------------------


def _samples(optimizer: Any, param: Tensor, count: int) -> list[Tensor]:
    found: list[Tensor] = []
    for _ in range(count):
        optimizer.observe(_quadratic(param, _coupled()))
        found.append(_hessian(optimizer, param))
    return found


def test_samples_between_two_steps_are_independent_and_average_to_the_diagonal() -> None:
    param = nn.Parameter(torch.zeros(6))
    found = torch.stack(_samples(_forgetful(param), param, 300))
    patterns = cast("Tensor", found.unique(dim=0))
    assert len(patterns) > 16  # of the 2⁵ that signs can make
    error = (found.mean(0) - _coupled().diagonal()).abs()
    assert (error < 5 * found.std(0) / 300**0.5).all()


def test_samples_are_reproducible_and_go_on_after_save_and_resume() -> None:
    first, second, resumed = (nn.Parameter(torch.zeros(6)) for _ in range(3))
    optimizer, again = _forgetful(first), _forgetful(second)
    expected = _samples(optimizer, first, 8)
    found = _samples(again, second, 3)
    other = _forgetful(resumed)
    other.load_state_dict(copy.deepcopy(again.state_dict()))
    found += _samples(other, resumed, 5)
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_a_state_that_was_saved_before_samples_were_counted_loads() -> None:
    param = nn.Parameter(torch.zeros(6))
    optimizer = _forgetful(param)
    _samples(optimizer, param, 2)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0].pop("observed") == 2
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["observed"] == 0
    with pytest.raises(InputError, match="was saved with observed=-1"):
        optimizer.load_state_dict(
            {**saved, "param_groups": [{**saved["param_groups"][0], "observed": -1}]}
        )


def test_groups_that_come_together_go_on_from_the_most_samples() -> None:
    a, b = _param(1.0), _param(2.0)
    apart = rs.optimizer("sophia", [("a", a)])
    apart.observe(lambda: a.square().sum())
    apart.add_param_group({"params": [("b", b)]})
    apart.observe(lambda: a.square().sum() + b.square().sum())
    assert [group["observed"] for group in apart.param_groups] == [2, 1]
    together = rs.optimizer("sophia", [("b", b), ("a", a)])
    load_changed(together, apart.state_dict(), [])
    assert together.param_groups[0]["observed"] == 2
