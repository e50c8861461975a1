"""Other libraries' optimizers and schedulers under registry keys: found, checked, the same."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import schedulefree
import torch
from torch import nn
from torch.optim import lr_scheduler

from rheostat.core.component import broken_plugins
from rheostat.core.errors import InputError, MachineError
from rheostat.core.hyper import arguments_of
from rheostat.core.registry import component, components
from rheostat.schedules.annealing import cosine


def _net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def _train(net: nn.Module, opt: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    x = torch.linspace(-1, 1, 32).reshape(8, 4)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        opt.step(closure)
    return [p.detach().clone() for p in net.parameters()]


def _made(name: str, net: nn.Module, **arguments: Any) -> torch.optim.Optimizer:
    return component(name, "optimizer").factory(**arguments).on(net)


def test_no_library_is_imported_until_a_key_of_it_is_asked_for() -> None:
    code = (
        "import sys; from rheostat.core.registry import component, components; components();"
        "assert not {'torch', 'schedulefree', 'pytorch_optimizer'} & set(sys.modules);"
        "found = component('schedulefree/SGDScheduleFree');"
        "assert 'schedulefree' in sys.modules and 'pytorch_optimizer' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not [c for c in components() if "/" in c.name]


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [
        ("torch/AdamW", torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.99)}),
        ("torch/SGD", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        ("torch/LBFGS", torch.optim.LBFGS, {"max_iter": 4}),
        ("schedulefree/AdamWScheduleFree", schedulefree.AdamWScheduleFree, {"lr": 0.01}),
    ],
)
def test_it_is_the_librarys_own_optimizer(
    name: str, theirs: type[Any], arguments: dict[str, Any]
) -> None:
    one, other = _net(), _net()
    ours, own = _made(name, one, **arguments), theirs(other.parameters(), **arguments)
    assert type(ours) is theirs
    for opt in (ours, own):
        if hasattr(opt, "train"):
            opt.train()
    for a, b in zip(_train(one, ours, 5), _train(other, own, 5), strict=True):
        assert torch.equal(a, b)


def test_a_library_with_a_hundred_optimizers_is_there_and_trains() -> None:
    names = [c.name for c in components("optimizer", "pytorch_optimizer/*")]
    assert len(names) >= 100
    for name in ("pytorch_optimizer/Lion", "pytorch_optimizer/AdaBelief"):
        net = _net()
        before = [p.detach().clone() for p in net.parameters()]
        after = _train(net, _made(name, net), 2)
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_version_is_the_librarys_and_another_one_is_refused() -> None:
    found = component("torch/AdamW")
    number = torch.__version__.partition("+")[0]
    assert found.ref == f"torch/AdamW@{number}"
    assert component(found.ref) == found
    with pytest.raises(InputError, match=rf"there is torch/AdamW@{number}"):
        component("torch/AdamW@1.0")


def test_signatures_are_schemas() -> None:
    arguments = arguments_of(component("torch/AdamW").factory)
    assert arguments["lr"].number
    assert arguments["lr"].default == 1e-3
    assert arguments["betas"].check([0.8, 0.9]) == ((0.8, 0.9), [])
    assert arguments["amsgrad"].check(1)[1]
    with pytest.raises(InputError, match=r"torch/AdamW: unknown argument 'wd'|did you mean"):
        component("torch/AdamW").factory(weight_decya=0.1)
    with pytest.raises(InputError, match="lr='fast': should be a number"):
        component("torch/AdamW").factory(lr="fast")
    with pytest.raises(InputError, match=r"torch/AdamW@.*: ValueError: Invalid .*-1"):
        component("torch/AdamW").factory(lr=-1.0).on(_net())


def test_what_data_cannot_make_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"torch/LambdaLR is broken .* lr_lambda cannot be given"):
        component("torch/LambdaLR")
    components("optimizer", "pytorch_optimizer/*")
    reasons = {b.name: b.reason for b in broken_plugins()}
    assert "base_optimizer" in reasons["pytorch_optimizer/SAM"]
    with pytest.raises(InputError, match="cannot be given as data: its type is Tensor"):
        _closed_argument()


def _closed_argument() -> None:
    from rheostat.integrations.foreign import adopt_library

    class Weighed(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1, mask: torch.Tensor | None = None) -> None:
            super().__init__(params, lr)

    Weighed.__module__ = "numpy.weighed"
    adopt_library("numpy", {"Weighed": Weighed})
    from rheostat.core.component import known

    found = next(c for c in known() if c.name == "numpy/Weighed")
    assert found.factory(lr=0.2).on(_net()).param_groups[0]["lr"] == 0.2
    found.factory(mask=torch.ones(3))


def test_an_absent_or_unknown_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no library 'torhc' has keys here; did you mean 'torch'"):
        component("torhc/AdamW")
    with pytest.raises(InputError, match="did you mean 'torch/AdamW'"):
        component("torch/AdamWW")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "schedulefree" else find(name)
    )
    from rheostat.core.plugins import import_library

    import_library.cache_clear()
    with pytest.raises(MachineError, match="pip install schedulefree"):
        component("schedulefree/SGDScheduleFree")


def test_a_schedule_drives_it_and_a_checkpoint_keeps_the_count() -> None:
    net = _net()
    schedule = cosine(0.1, steps=6)
    opt = _made("torch/SGD", net, lr=schedule, momentum=0.9)
    seen = []
    opt.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    _train(net, opt, 3)
    assert seen == [schedule(0), schedule(1), schedule(2)]
    assert opt.param_groups[0]["lr"] == schedule(3)
    again = copy.deepcopy(net)
    resumed = _made("torch/SGD", again, lr=schedule, momentum=0.9)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    for a, b in zip(_train(net, opt, 3), _train(again, resumed, 3), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(InputError, match=r"cannot be given|should be|cannot be scheduled"):
        _made("torch/LBFGS", _net(), max_iter=schedule)


def _theirs(name: str, peak: float, steps: int, **arguments: Any) -> list[float]:
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak, momentum=0.9)
    scheduler = getattr(lr_scheduler, name)(opt, **arguments)
    rates = []
    for _ in range(steps):
        rates.append(float(opt.param_groups[0]["lr"]))
        opt.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CosineAnnealingLR", {"T_max": 20, "eta_min": 0.01}),
        ("CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2}),
        ("MultiStepLR", {"milestones": (3, 9), "gamma": 0.5}),
        ("OneCycleLR", {"max_lr": 0.3, "total_steps": 31}),
        ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 4}),
        ("PolynomialLR", {"total_iters": 12, "power": 2.0}),
    ],
)
def test_a_scheduler_is_a_pure_function_of_the_step(name: str, arguments: dict[str, Any]) -> None:
    schedule = component(f"torch/{name}", "schedule").factory(peak=0.1, **arguments)
    expected = _theirs(name, 0.1, 30, **arguments)
    assert schedule(17) == expected[17], "asked out of order"
    assert schedule.values(np.arange(30)).tolist() == expected
    assert schedule.origin is not None
    assert schedule.origin.component.startswith(f"torch/{name}@")


def test_a_scheduler_past_its_end_keeps_its_last_rate() -> None:
    schedule = component("torch/OneCycleLR").factory(peak=0.1, max_lr=0.3, total_steps=10)
    assert schedule(40) == schedule(10)
