"""The monitor: what is due, in which order, by parts, resumed, and its mistakes in one line."""

from __future__ import annotations

import copy
import io
import json
import math
from typing import Any

import pytest
import torch
from tests.references.signals import DEFINITIONS
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.signal import Memory, Product, Reading, Signal
from rheostat.signals.monitor import Monitor

pytestmark = pytest.mark.usefixtures("either_way")

LOSSES = ["loss_fast", "loss_slow", "loss_slope", "loss_significance", "skip_rate"]
EVERYTHING = [*DEFINITIONS, "page_hinkley", "kolmogorov_smirnov", "validation_plateau"]


def _net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1))


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, monitor: Monitor, k: int, *others: Monitor
) -> Any:
    """One step; the values of the monitor, while others look on."""
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(k))
    optimizer.zero_grad()
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    for each in (monitor, *others):
        each.before_step()
    optimizer.step()
    for other in others:
        other.after_step(loss)
    reported = {"validation": loss / 2} if k % 5 == 0 else None
    return monitor.after_step(loss, reported=reported)


def _signal(name: str, **about: Any) -> Signal:
    def measure(reading: Reading, memory: Memory) -> float:
        return sum(reading.signals[need] for need in about.get("needs", ())) + 1.0

    return Signal(measure, unit="1", cost="", name=name, **about)


# -- which signals, in which order -----------------------------------------------------------------


def test_none_looks_at_another_more_often_than_that_is_measured() -> None:
    def pair(every: int, of: int) -> list[Signal]:
        return [_signal("a", every=every, needs=("b",)), _signal("b", every=of)]

    Monitor(pair(16, 16))
    Monitor(pair(16, 8))
    said = "a is measured every update and looks at b, measured every 16 updates; give both"
    with pytest.raises(InputError, match=said):
        Monitor(pair(1, 16))


def test_each_is_measured_after_those_that_it_needs() -> None:
    given = [
        _signal("c", needs=("b", "a")),
        _signal("b", needs=("a",)),
        _signal("a"),
    ]
    monitor = Monitor(given)
    monitor.before_step()
    assert monitor.after_step(0.0) == {"a": 1.0, "b": 2.0, "c": 4.0}
    assert list(monitor.signals) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Monitor(["gradient_nrom"]), "no signal is named 'gradient_nrom'; did you mean"),
        (lambda: Monitor(["adamw"]), "adamw@1 is of kind optimizer, not signal"),
        (lambda: Monitor([_signal("a", needs=("b",)), _signal("b", needs=("a",))]), "a → b → a"),
        (lambda: Monitor(["skip_rate", "skip_rate"]), "two signals are named 'skip_rate'"),
        (lambda: Monitor("skip_rate"), "takes a list of signals"),
        (lambda: Monitor(["gradient_norm"]), "gradient_norm is made of inner products; give"),
        (lambda: Monitor(["dead_units"]), "dead_units looks at activations; give model="),
        (lambda: Monitor(["dead_units"], nn.Linear(2, 2)), "no activation to look at"),
        (lambda: Monitor(["skip_rate"], per="layer"), "per='layer': should be 'all', 'group'"),
        (lambda: Monitor(["skip_rate"]).due("skiprate"), "'skiprate'; did you mean 'skip_rate'"),
    ],
)
def test_mistakes_are_one_line(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_mapping_gives_names_of_ones_own() -> None:
    shift = rs.component("page_hinkley").factory
    given = {
        "gradient_norm": "gradient_norm",
        "norm_shift": shift(of="gradient_norm"),
        "loss_shift": shift(),
    }
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = Monitor(given, model, optimizer)
    assert set(_step(model, optimizer, monitor, 0)) == set(given)


# -- when ------------------------------------------------------------------------------------------


def _every(name: str, every: int) -> Signal:
    return rs.component(name, "signal").factory(every=every)


def test_each_is_due_at_its_multiples_and_has_what_it_needs_of_the_update_before() -> None:
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters())
    signals = [_every("curvature", 4), _every("gradient_norm", 3), _every("gradient_cosine", 6)]
    watched, always = (
        Monitor(signals, model, optimizer),
        Monitor(["curvature", "gradient_norm", "gradient_cosine"], model, optimizer),
    )
    for k in range(1, 26):
        assert watched.due("curvature") is (k % 4 == 0)
        values = _step(model, optimizer, watched, k, always)
        exact = always.values
        due = {
            s
            for s, n in (("curvature", 4), ("gradient_norm", 3), ("gradient_cosine", 6))
            if k % n == 0
        }
        assert watched.fresh == due
        for name in due:
            assert values[name] == exact[name]
    assert watched.step == 25


def test_nothing_is_looked_at_between(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters())
    monitor = Monitor([_every("update_ratio", 16), _every("loss_fast", 16)], model, optimizer)
    looks: list[int] = []
    part = monitor._parts[""]
    before = part.before
    monkeypatch.setattr(
        part, "before", lambda wanted: (looks.append(monitor.coming), before(wanted))[1]
    )
    for k in range(1, 34):
        _step(model, optimizer, monitor, k)
    assert looks == [16, 32]


def test_a_monitor_put_back_to_an_earlier_update_measures_what_is_due_there() -> None:
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters())
    signals = [_every("gradient_norm", 10), _every("curvature", 1000)]
    monitor = Monitor(signals, model, optimizer)
    for k in range(1, 6):
        _step(model, optimizer, monitor, k)
    saved = monitor.state_dict()
    measured: list[int] = []
    for k in range(6, 30):
        if k == 16:
            monitor.load_state_dict(saved)
        _step(model, optimizer, monitor, k)
        if "gradient_norm" in monitor.fresh:
            measured.append(k)
    assert measured == [10, 20]  # the second ten updates later: at 5, which is 15 here, it was idle
    assert monitor.step == 19


def test_what_is_due_is_found_once_for_each_pattern_of_periods() -> None:
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters())
    periods = {"gradient_norm": 7, "loss_fast": 9, "update_ratio": 50_000}
    monitor = Monitor([_every(*one) for one in periods.items()], model, optimizer)
    fresh = {}
    for k in range(1, 140):
        _step(model, optimizer, monitor, k)
        fresh[k] = monitor.fresh
    assert fresh == {
        k: {name for name, every in periods.items() if k % every == 0} for k in range(1, 140)
    }
    assert len(monitor._dues._found) <= 2 ** (2 * len(periods))


@pytest.mark.parametrize("per", ["all", "group", "parameter"])
def test_what_is_frozen_is_not_looked_at_until_it_is_trained(per: Any) -> None:
    model = _net()
    optimizer = torch.optim.AdamW([{"params": one.parameters()} for one in (model[0], model[2])])
    model[0].weight.requires_grad_(False)
    monitor = Monitor(["update_ratio", "weight_norm", "gradient_norm"], model, optimizer, per=per)

    def step(k: int, *, trained: list[nn.Parameter]) -> None:
        before = torch.cat([param.detach().double().flatten() for param in trained])
        _step(model, optimizer, monitor, k)
        moved = torch.cat([param.detach().double().flatten() for param in trained]) - before
        gradients = [param.grad for param in trained if param.grad is not None]
        gradient = torch.cat([one.double().flatten() for one in gradients])
        assert monitor.values["weight_norm"] == pytest.approx(before.norm().item(), rel=1e-5)
        assert monitor.values["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
        ratio = (moved.norm() / before.norm()).item()
        assert monitor.values["update_ratio"] == pytest.approx(ratio, rel=1e-5)

    for k in range(1, 4):
        step(k, trained=[model[0].bias, *model[2].parameters()])
    model[0].weight.requires_grad_(True)
    for k in range(4, 7):
        step(k, trained=[*model.parameters()])
    model[0].requires_grad_(False)  # a whole group
    model[0].zero_grad()
    for k in range(7, 10):
        step(k, trained=[*model[2].parameters()])
    saved = monitor.state_dict()
    Monitor([*monitor.signals], model, optimizer, per=per).load_state_dict(saved)


def test_skipped_steps_count_for_the_rate_alone() -> None:
    model = _net()
    optimizer = rs.optimizer("adamw", model, lr=0.01)
    monitor = Monitor(["skip_rate", "update_norm", "gradient_norm", "loss_slope"], model, optimizer)
    for k in range(20):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).square().mean() * (math.nan if k % 4 == 3 else 1.0)
        loss.backward()
        monitor.before_step()
        optimizer.step()
        values = monitor.after_step(loss)
        if k % 4 == 3:
            assert values["update_norm"] == 0.0
            assert math.isnan(values["gradient_norm"])
            assert not monitor.reading.applied
        else:
            assert values["update_norm"] > 0
    assert monitor.step == 15
    weights = [math.exp(-(19 - k) / 100) for k in range(20)]
    assert values["skip_rate"] == pytest.approx(sum(weights[3::4]) / sum(weights))


def test_the_loop_may_say_that_a_step_was_skipped() -> None:
    monitor = Monitor(["skip_rate"])
    for applied in (True, False):
        monitor.before_step()
        monitor.after_step(1.0, applied=applied)
    assert (monitor.step, round(monitor.values["skip_rate"], 3)) == (1, 0.502)


def test_a_memory_that_a_signal_kept_otherwise_is_refused() -> None:
    state = Monitor(["loss_significance"]).state_dict()
    accounts = state["memory"]["accounts"]
    accounts[""]["memories"]["loss_significance"] = {"averages": [0.0] * 6, "step": 0}
    with pytest.raises(InputError, match="memory of loss_significance lacks count, means, sum, t"):
        Monitor(["loss_significance"]).load_state_dict(state)


def test_what_is_reported_is_measured_when_it_comes() -> None:
    monitor = Monitor(["loss_slow", "train_validation_gap"])
    fresh: list[bool] = []
    for k in range(4):
        monitor.before_step()
        monitor.after_step(1.0, reported={"validation": 3.0} if k == 2 else None)
        fresh.append("train_validation_gap" in monitor.fresh)
    assert fresh == [False, False, True, False]
    assert monitor.values["train_validation_gap"] == 2.0


def test_a_step_left_in_the_middle_is_no_last_update() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(["curvature"], model, optimizer)
    for k in range(3):
        _step(model, optimizer, monitor, k)
    monitor.before_step()  # the loop goes on without a step
    assert math.isnan(_step(model, optimizer, monitor, 4)["curvature"])
    assert math.isfinite(_step(model, optimizer, monitor, 5)["curvature"])


def test_sparse_gradients_with_a_sparse_momentum_are_measured_as_dense_ones() -> None:
    def run(sparse: bool) -> list[dict[str, float]]:
        torch.manual_seed(0)
        table = nn.Embedding(6, 3, sparse=sparse)
        optimizer = torch.optim.SGD(table.parameters(), lr=0.1, momentum=0.9)
        monitor = Monitor(["momentum_cosine", "gradient_norm", "update_ratio"], table, optimizer)
        found: list[dict[str, float]] = []
        for k in range(4):
            optimizer.zero_grad()
            loss = table(torch.tensor([k % 3, 1, 4])).square().sum()
            loss.backward()
            monitor.before_step()
            optimizer.step()
            found.append(dict(monitor.after_step(loss.item())))
        return found

    for sparse, dense in zip(run(True), run(False), strict=True):
        assert sparse == pytest.approx(dense, rel=1e-5, nan_ok=True)


def test_after_skipped_steps_a_resumed_monitor_knows_as_much_as_one_that_went_on() -> None:
    # Curvature is due in every second update and needs the one before; in between come skips.
    def run(cut: bool) -> list[float]:
        model, found = _net(), list[float]()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        signals = {"curvature": rs.component("curvature", "signal").factory(every=2)}
        monitor = Monitor(signals, model, optimizer)
        for k in range(9):
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(k))
            optimizer.zero_grad()
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            monitor.before_step()
            if k not in (3, 4):
                optimizer.step()
            monitor.after_step(loss, applied=k not in (3, 4))
            found.append(monitor.values["curvature"] if "curvature" in monitor.fresh else math.inf)
            if cut:
                state = monitor.state_dict()
                monitor = Monitor(signals, model, optimizer)
                monitor.load_state_dict(state)
        return found

    whole = run(cut=False)
    assert run(cut=True) == pytest.approx(whole, rel=0, abs=0, nan_ok=True)
    assert math.isfinite(whole[-2]), "it is known again after the skips"


# -- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["group", "parameter"])
def test_parts_add_up_to_the_whole(per: Any) -> None:
    model = _net()
    groups = [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    names = ["gradient_norm", "update_ratio", "momentum_cosine", "loss_fast", "curvature"]
    whole = Monitor(names, model, optimizer)
    parts = Monitor(names, model, optimizer, per=per)
    for k in range(3):
        values = _step(model, optimizer, parts, k, whole)
        exact = whole.values
        keys = ["0", "1"] if per == "group" else [name for name, _ in model.named_parameters()]
        squares = sum(values[f"gradient_norm[{key}]"] ** 2 for key in keys)
        assert squares == pytest.approx(values["gradient_norm"] ** 2, rel=1e-6)
        for name in names[:3] + names[4:]:
            assert values[name] == pytest.approx(exact[name], rel=1e-5, nan_ok=True)
        assert f"loss_fast[{keys[0]}]" not in values
    own = (
        model[0].weight.grad.norm()
        if per == "parameter"
        else torch.cat([p.grad.flatten() for p in model[0].parameters()]).norm()
    )
    assert values[f"gradient_norm[{keys[0]}]"] == pytest.approx(own.item(), rel=1e-6)


def test_a_part_without_a_moment_has_none() -> None:
    model = _net()
    optimizer = rs.optimizer("muon", model, lr=0.01)
    monitor = Monitor(["second_moment_mean", "momentum_cosine"], model, optimizer, per="parameter")
    for k in range(2):
        values = _step(model, optimizer, monitor, k)
    found = {name: math.isfinite(value) for name, value in values.items()}
    assert not found["second_moment_mean"], "not every parameter has one"
    assert any(found.values())


# -- saving ----------------------------------------------------------------------------------------


def _through_files(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state["tensors"], file)
    file.seek(0)
    tensors = torch.load(file, weights_only=True)
    return {"memory": json.loads(json.dumps(state["memory"])), "tensors": tensors}


@pytest.mark.parametrize(
    ("per", "every", "lag"), [("all", 1, 0), ("parameter", 1, 0), ("all", 4, 0), ("all", 3, 2)]
)
def test_a_resumed_monitor_goes_on_to_the_same_bits(per: Any, every: int, lag: int) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer, Monitor]:
        model = _net()
        optimizer = rs.optimizer("adamw", model, lr=0.01)
        signals = {
            n: rs.component(n, "signal").factory(**({} if "valid" in n else {"every": every}))
            for n in EVERYTHING
        }
        return model, optimizer, Monitor(signals, model, optimizer, per=per, lag=lag)

    for stop in (0, 1, 7, 8, 30):
        model, optimizer, monitor = make()
        for k in range(stop):
            _step(model, optimizer, monitor, k)
        saved = _through_files(monitor.state_dict())
        weights, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        straight = [_step(model, optimizer, monitor, k) for k in range(stop, stop + 6)]
        model, optimizer, monitor = make()
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        monitor.load_state_dict(saved)
        again = [_step(model, optimizer, monitor, k) for k in range(stop, stop + 6)]
        assert str([dict(v) for v in again]) == str([dict(v) for v in straight])
    assert math.isfinite(straight[-1]["curvature"])


def test_what_is_kept_is_only_what_the_next_update_needs() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor([_every("curvature", 3)], model, optimizer)
    kept = []
    for k in range(1, 7):
        _step(model, optimizer, monitor, k)
        kept.append(sorted(monitor.state_dict()["tensors"]))
    names = [f"last_update.{name}" for name, _ in model.named_parameters()]
    assert kept == [[], sorted(names), [], [], sorted(names), []]


def test_a_state_of_other_signals_or_parts_is_refused() -> None:
    state = Monitor(LOSSES).state_dict()
    with pytest.raises(InputError, match=r"the saved monitor measures loss_fast, .* this one skip"):
        Monitor(["skip_rate"]).load_state_dict(state)
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    by_group = Monitor(["gradient_norm"], model, optimizer, per="group")
    with pytest.raises(InputError, match="measured other parts; give it the same per="):
        by_group.load_state_dict(Monitor(["gradient_norm"], model, optimizer).state_dict())


# -- what changes under it -------------------------------------------------------------------------


def test_tensors_that_move_are_found_again() -> None:
    """Weights in other memory, state loaded, gradients freed: values are of what is there now."""
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = Monitor(["weight_norm", "momentum_cosine", "second_moment_mean"], model, optimizer)
    for k in range(3):
        _step(model, optimizer, monitor, k)
    for param in model.parameters():
        param.data = 2 * param.data
    saved = optimizer.state_dict()
    for entry in saved["state"].values():
        entry["exp_avg"] = -entry["exp_avg"]
        entry["exp_avg_sq"] = torch.full_like(entry["exp_avg_sq"], 3.0)
    optimizer.load_state_dict(saved)
    norm = math.sqrt(sum(p.double().square().sum().item() for p in model.parameters()))
    before = monitor.values["momentum_cosine"]
    values = _step(model, optimizer, monitor, 3)
    assert values["weight_norm"] == pytest.approx(norm, rel=1e-6)
    assert values["second_moment_mean"] == pytest.approx(3.0)
    assert values["momentum_cosine"] < 0 < before


def test_gradients_are_let_go() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(["gradient_norm", "curvature", "update_ratio"], model, optimizer)
    _step(model, optimizer, monitor, 0)
    held = monitor._parts[""]._gradient
    assert (held.large, held.small) == ([], [])


def test_products_are_taken_once_for_all_signals() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(["gradient_norm", "gradient_spike", "gradient_variance"], model, optimizer)
    _step(model, optimizer, monitor, 0)
    pairs: set[Product] = set(monitor.reading.products)
    assert pairs == {("gradient", "gradient")}


def test_what_a_signal_needs_is_measured_too() -> None:
    monitor = Monitor(["train_validation_gap"])
    assert [*monitor.signals] == ["loss_slow", "train_validation_gap"]


@pytest.mark.parametrize("per", ["all", "group", "parameter"])
def test_a_group_that_came_later_is_measured(per: Any) -> None:
    first, second = _net(), nn.Linear(6, 1)
    optimizer = torch.optim.AdamW(first.parameters(), lr=0.01)
    monitor = Monitor(["gradient_norm", "loss_fast"], None, optimizer, per=per)
    values: Any = {}
    for k in range(4):
        if k == 2:
            optimizer.add_param_group({"params": [*second.parameters()]})
        optimizer.zero_grad()
        loss = (first(torch.ones(2, 6)) + second(torch.ones(2, 6))).square().mean()
        loss.backward()
        monitor.before_step()
        optimizer.step()
        values = monitor.after_step(loss)
    own, other = (_gradient_norm(net) for net in (second, first))
    assert values["gradient_norm"] == pytest.approx(math.hypot(own, other), rel=1e-5)
    if per == "group":
        assert values["gradient_norm[1]"] == pytest.approx(own, rel=1e-5)


def _gradient_norm(net: nn.Module) -> float:
    return torch.nn.utils.get_total_norm(
        [p.grad for p in net.parameters() if p.grad is not None]
    ).item()


def test_gradients_that_are_negated_or_conjugated_in_name_only() -> None:
    """As autograd gives them for complex numbers."""
    param = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    optimizer = torch.optim.SGD([param], lr=0.1)
    monitor = Monitor(["gradient_norm"], None, optimizer)
    (param.conj() * torch.full((4,), 3 + 4j)).real.sum().backward()
    assert param.grad is not None
    assert param.grad.is_conj()
    monitor.before_step()
    optimizer.step()
    assert monitor.after_step(1.0)["gradient_norm"] == pytest.approx(10.0)

    real = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([real], lr=0.1)
    monitor = Monitor(["gradient_cosine"], None, optimizer)
    for gradient in (
        torch.full((1,), 2.0),
        torch.complex(*torch.tensor([[0.0], [-2.0]])).conj().imag,
    ):
        real.grad = gradient
        monitor.before_step()
        optimizer.step()
        values = monitor.after_step(1.0)
    assert real.grad is not None
    assert real.grad.is_neg()
    assert values["gradient_cosine"] == pytest.approx(1.0)
