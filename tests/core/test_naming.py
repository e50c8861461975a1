"""Names of parameters with and without the wrappers of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

import rheostat as rs
from rheostat.core.naming import bare, named_parameters, unwrapped
from rheostat.core.roles import roles
from rheostat.optimizers.layerwise import layerwise_groups


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("group") / "store"
    init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    destroy_process_group()


class Net(nn.Module):
    """Its own children bear the wrappers' names, which are no wrappers."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(4, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.module(x)))


compiled: Any = torch.compile
"""torch's own, whose annotation says a function where a module is what it gives for one."""


def _inside(net: Net) -> Any:
    net.body[1] = compiled(net.body[1])
    net.head = compiled(net.head)
    return net


WRAPS: dict[str, Callable[[Net], Any]] = {
    "ddp": DistributedDataParallel,
    "data_parallel": nn.DataParallel,
    "compiled": torch.compile,
    "compiled_ddp": lambda net: torch.compile(DistributedDataParallel(net)),
    "ddp_of_compiled": lambda net: DistributedDataParallel(compiled(net)),
    "inside": _inside,
}


def _train(model: nn.Module, **given: Any) -> Any:
    opt = rs.optimizer("muon", model, **given)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    opt.step()
    return opt


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_names_and_all_that_goes_by_them_are_those_of_the_model(wrap: Callable[[Net], Any]) -> None:
    plain, wrapped = Net(), wrap(Net())
    names = [name for name, _ in plain.named_parameters()]
    assert "module.weight" in names
    assert [name for name, _ in wrapped.named_parameters()] != names
    assert [name for name, _ in named_parameters(wrapped)] == names
    assert named_parameters(plain) == list(plain.named_parameters())
    assert roles(wrapped) == roles(plain)
    assert roles(plain)["head.parametrizations.weight.original1"] == "head"
    for layers in ((), ("module.*", "body.*", "head.*")):
        depths = [
            [(group["lr_factor"], *(name for name, _ in group["params"])) for group in groups]
            for groups in (layerwise_groups(m, 0.5, layers=layers) for m in (plain, wrapped))
        ]
        assert depths[0] == depths[1]


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_a_state_goes_from_one_to_the_other(wrap: Callable[[Net], Any]) -> None:
    plain, wrapped = Net(), wrap(Net())
    for source, target in ((plain, wrapped), (wrapped, plain)):
        saved = _train(source).state_dict()
        opt = rs.optimizer("muon", target)
        opt.load_state_dict(saved)
        mine = opt.state_dict()
        assert mine["param_groups"] == saved["param_groups"]
        assert mine["state"].keys() == saved["state"].keys()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_of_a_wrapped_model_is_one_of_the_model(first: bool, tmp_path: Path) -> None:
    recipe = {"optimizer": "adamw", "lr": 0.01, "steps": 4}
    plain, wrapped = Net(), DistributedDataParallel(Net())
    source, target = (plain, wrapped) if first else (wrapped, plain)
    for model in (source, target):
        run = rs.attach(recipe, model, directory=tmp_path, resume="auto")
        loss = model(torch.ones(1, 4)).sum()
        loss.backward()
        run.step(loss)
        run.save()
        assert run.optimizer.param_groups[0]["updates"] == (1 if model is source else 2)
        run.close()
    assert unwrapped(wrapped) is wrapped.module


def test_only_wrappers_are_left_out() -> None:
    net = nn.ModuleDict({"module": nn.Linear(1, 1), "other": nn.DataParallel(nn.Linear(1, 1))})
    given = ["module.weight", "other.module.weight", "other.module", "elsewhere.module.x"]
    assert bare(net, given) == ["module.weight", "other.weight", "other.module", given[3]]
