"""Many small parameters run eagerly as one give what each gives by itself."""

from __future__ import annotations

import pytest
import torch
from tests.optimizers.ways import NAMES, rules_of
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers import gathered
from rheostat.optimizers.gathered import GatheredKernel

pytestmark = pytest.mark.filterwarnings("ignore:.*without the model an embedding")

GATHERED = [name for name in NAMES if any(GatheredKernel.can_run(r) for r in rules_of(name))]
SHAPES = [(3,), (), (2, 5), (1,), (200, 200), (7,)]
"""One of them is too large to be gathered."""


def _trained(name: str) -> list[Tensor]:
    """Weights and state after five steps: one of them skipped, and one parameter late at times."""
    draw = torch.Generator().manual_seed(0)
    params = [
        (f"p{i}", nn.Parameter(torch.randn(SHAPES[i % 6], generator=draw))) for i in range(18)
    ]
    opt = rs.optimizer(name, params, mode="eager")
    for k in range(5):
        for i, (_, p) in enumerate(params):
            gradient = torch.randn(p.shape, generator=draw)
            if k == 2 and i == 0:
                gradient.fill_(float("nan"))
            p.grad = None if i == 2 and k in (0, 3) else gradient
        opt.step()
    assert opt.last_step is not None
    assert opt.last_step.step == 4
    return [
        *(p.detach() for _, p in params),
        *(value for _, p in params for value in opt.state[p].values()),
    ]


@pytest.mark.usefixtures("whoever_counts")
@pytest.mark.parametrize("name", GATHERED)
def test_together_they_are_what_they_are_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "MANY", 1000)
    alone = _trained(name)
    monkeypatch.setattr(gathered, "MANY", 2)
    assert all(map(torch.equal, alone, _trained(name)))


def test_pairs_of_reals_are_gathered_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of a complex parameter is seen as reals, through views that must stay views."""
    ways: list[list[Tensor]] = []
    for many in (1000, 2):
        monkeypatch.setattr(gathered, "MANY", many)
        draw = torch.Generator().manual_seed(0)

        def complex_numbers(draw: torch.Generator = draw) -> Tensor:
            return torch.randn(5, dtype=torch.complex64, generator=draw)

        params = [nn.Parameter(complex_numbers()) for _ in range(4)]
        opt = rs.optimizer("lion", params, mode="eager")
        for _ in range(3):
            for p in params:
                p.grad = complex_numbers()
            opt.step()
        ways.append([p.detach() for p in params] + [opt.state[p]["exp_avg"] for p in params])
    assert all(map(torch.equal, *ways))


def test_few_parameters_stay_where_they_are() -> None:
    def storages(count: int) -> int:
        params = [nn.Parameter(torch.ones(5)) for _ in range(count)]
        opt = rs.optimizer("lion", params, mode="eager")
        for p in params:
            p.grad = torch.ones(5)
        opt.step()
        return len({opt.state[p]["exp_avg"].untyped_storage().data_ptr() for p in params})

    assert storages(gathered.MANY - 1) == gathered.MANY - 1
    assert storages(gathered.MANY) == 1


def test_noise_is_each_parameters_own() -> None:
    def shaken(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.noise(u)

    assert not GatheredKernel.can_run(Transform(shaken, scope="element", host_step=True))
    assert GatheredKernel.can_run(Transform(shaken, scope="element"))
