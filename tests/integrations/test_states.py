"""State goes from other libraries to ours and back to the bit, and either goes on as the other."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import torch
from tests.checkpoint.test_foreign import same
from torch import nn

import rheostat as rs
from rheostat.conformance.subject import bits, state_bits
from rheostat.core.errors import InputError
from rheostat.integrations.peers import PEERS
from rheostat.integrations.states import export_state, import_state
from rheostat.integrations.trainer_file import trainer_names

DECAY = {"weight_decay": 0.1}
ADAM = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}
SGD = {"lr": 0.05, "momentum": 0.8}
RMS = {"lr": 0.01, "alpha": 0.9, "eps": 1e-6}
KOZISTR = {**ADAM, **DECAY}

CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("torch/Adam", "adam", {**ADAM, **DECAY}, {}),
    ("torch/Adam", "amsgrad", {**ADAM, **DECAY}, {"amsgrad": True}),
    ("torch/Adam", "adamw", {**ADAM, **DECAY}, {"decoupled_weight_decay": True}),
    ("torch/AdamW", "adamw", {**ADAM, **DECAY}, {}),
    ("torch/Adamax", "adamax", {**ADAM, **DECAY}, {}),
    ("torch/NAdam", "nadam", {**ADAM, **DECAY, "momentum_decay": 0.01}, {}),
    ("torch/NAdam", "nadamw", {**ADAM, **DECAY}, {"decoupled_weight_decay": True}),
    ("torch/RAdam", "radam", {**ADAM, **DECAY}, {}),
    ("torch/RAdam", "radam", {**ADAM, "decoupled_weight_decay": True}, {}),
    ("torch/SGD", "sgd", {"lr": 0.05, **DECAY}, {}),
    ("torch/SGD", "sgd", {**SGD, **DECAY, "dampening": 0.3}, {}),
    ("torch/SGD", "sgd", {**SGD, "nesterov": True}, {}),
    ("torch/Adagrad", "adagrad", {"lr": 0.05, "lr_decay": 0.1, **DECAY}, {}),
    ("torch/Adadelta", "adadelta", {"lr": 0.5, "rho": 0.8, **DECAY}, {}),
    ("torch/RMSprop", "rmsprop", {**RMS, **DECAY}, {}),
    ("torch/RMSprop", "rmsprop", {**RMS, "momentum": 0.8, "centered": True}, {}),
    ("torch/Rprop", "rprop", {"lr": 0.01}, {}),
    ("torch/Adafactor", "adafactor", {"lr": 0.05, "eps": (1e-7, 1e-3)}, {}),
    ("pytorch_optimizer/Lion", "lion", {"lr": 0.01, "betas": (0.8, 0.95), **DECAY}, {}),
    ("pytorch_optimizer/SignSGD", "signum", {"lr": 0.01, "momentum": 0.8, **DECAY}, {}),
    ("pytorch_optimizer/AdaBelief", "adabelief", KOZISTR, {}),
    ("pytorch_optimizer/Adan", "adan", {**KOZISTR, "betas": (0.9, 0.8, 0.95)}, {}),
    (
        *("pytorch_optimizer/AdEMAMix", "ademamix"),
        {**KOZISTR, "betas": (0.8, 0.95, 0.99)},
        {"weight_decouple": True},
    ),
    ("pytorch_optimizer/NovoGrad", "novograd", KOZISTR, {}),
]
"""Theirs, ours, the arguments of both, and what only theirs needs to be told."""

UNCOUNTED = ("torch/SGD", "torch/Muon")


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        opt.zero_grad()
        (model(x) - x[:, :3].sin()).square().mean().backward()
        opt.step()


def theirs(key: str, model: nn.Module, **arguments: Any) -> torch.optim.Optimizer:
    library, _, name = key.partition("/")
    home: Any = torch.optim if library == "torch" else pytorch_optimizer
    foreach = {} if library == "torch" else {"foreach": False}
    return getattr(home, name)(model.parameters(), **arguments, **foreach)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def close(one: nn.Module, other: nn.Module, tolerance: float = 1e-9) -> None:
    """As the cards say that the two agree: to rounding, here of float64."""
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=tolerance, atol=tolerance)


def test_every_peer_has_a_case() -> None:
    assert {key for key, *_ in CASES} | {"torch/Muon"} == set(PEERS)


@pytest.mark.parametrize(("key", "name", "arguments", "more"), CASES)
def test_there_and_back(
    key: str, name: str, arguments: dict[str, Any], more: dict[str, Any]
) -> None:
    step = {"step": 5} if key in UNCOUNTED else {}
    whole, model, back = net(), net(), net()
    other = theirs(key, whole, **arguments, **more)
    train(whole, other, range(5))
    model.load_state_dict(whole.state_dict())
    saved = copy.deepcopy(other.state_dict())
    # Other numbers than theirs, which come with the state.
    opt = rs.optimizer(name, model, **{**arguments, "lr": 0.123})
    import_state(opt, through_a_file(saved), key, names=model, **step)
    # The state that came is the one that goes out again.
    given = export_state(opt, key)
    for group in given["param_groups"]:
        assert group.pop("param_names") == [n for n, _ in model.named_parameters()]
    same(_sorted(given), _sorted(saved))
    # Ten steps there are five there and five here, and three here are three there again.
    train(whole, other, range(5, 10))
    train(model, opt, range(5, 10))
    close(model, whole)
    back.load_state_dict(model.state_dict())
    third = theirs(key, back, **arguments, **more)
    third.load_state_dict(through_a_file(export_state(opt, key)))
    train(back, third, range(10, 13))
    train(model, opt, range(10, 13))
    # torch casts NAdam's product of momenta to the type of the parameter when it is loaded.
    close(back, model, 1e-6 if key == "torch/NAdam" else 1e-9)


def _sorted(state: dict[str, Any]) -> dict[str, Any]:
    """With keys in order, whole numbers as floats, and without what is None or mute."""
    plain = {
        index: {key: value for key, value in sorted(entry.items()) if value is not None}
        for index, entry in state["state"].items()
    }
    groups = [
        {
            key: _plain(value)
            for key, value in sorted(group.items())
            if key not in ("foreach", "fused")
        }
        for group in state["param_groups"]
    ]
    return {"state": {k: v for k, v in plain.items() if v}, "param_groups": groups}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    return float(value) if type(value) is int else value


def test_muon_and_the_rest_come_from_two_optimizers() -> None:
    def halves(model: nn.Module) -> list[torch.optim.Optimizer]:
        matrices = [(n, p) for n, p in model.named_parameters() if p.ndim == 2]
        vectors = [(n, p) for n, p in model.named_parameters() if p.ndim == 1]
        first = torch.optim.Muon(matrices, lr=0.02, adjust_lr_fn="match_rms_adamw")
        return [first, torch.optim.AdamW(vectors, lr=0.01)]

    class Both(torch.optim.Optimizer):
        def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
            self.parts = parts

        def step(self, closure: Callable[[], Any] | None = None) -> None:
            for part in self.parts:
                part.step()

        def zero_grad(self, set_to_none: bool = True) -> None:
            for part in self.parts:
                part.zero_grad()

    whole, model = net(torch.float32), net(torch.float32)
    parts = halves(whole)
    train(whole, Both(parts), range(5))
    model.load_state_dict(whole.state_dict())
    muon = rs.component("muon").factory(scale="match_rms").lines[-2].rule
    adamw = rs.component("adamw").factory(lr=0.01)
    split = rs.policy(rs.match(muon, name="*weight"), rs.match(adamw))
    opt = rs.optimizer(split, model)
    with pytest.raises(InputError, match="say step="):
        import_state(opt, parts[0].state_dict(), "torch/Muon", groups=[0])
    import_state(opt, parts[0].state_dict(), "torch/Muon", step=5, groups=[0])
    import_state(opt, parts[1].state_dict(), "torch/AdamW", groups=[1])
    for group, part in enumerate(parts):
        key = ("torch/Muon", "torch/AdamW")[group]
        same(_sorted(export_state(opt, key, groups=[group])), _sorted(part.state_dict()))
    fresh = net(torch.float32)
    fresh.load_state_dict(whole.state_dict())
    before = _vector(whole)
    train(whole, Both(parts), range(5, 10))
    train(model, opt, range(5, 10))
    train(fresh, rs.optimizer(split, fresh), range(5, 10))
    mine, forgot = (
        float((_vector(m) - _vector(whole)).norm() / (_vector(whole) - before).norm())
        for m in (model, fresh)
    )
    # Products in bfloat16, rounded to 2^-9 some fifteen times an update, each in its own order.
    assert mine < 0.04 < 0.1 < forgot


def _vector(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


class Block(nn.Module):
    """Names and types of each kind that Trainer sorts by."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.first = nn.Linear(4, 4)
        self.post_norm = nn.RMSNorm(4)
        self.shape = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.shape(self.post_norm(self.first(self.embed(x)))))


def test_trainers_optimizer_file() -> None:
    # Its groups: what is decayed, then what is not (transformers 5.23, Trainer.create_optimizer).
    model = Block()
    decayed = ["embed.weight", "first.weight", "head.weight"]
    others = ["first.bias", "post_norm.weight", "shape.weight", "shape.bias", "head.bias"]
    assert trainer_names(model) == decayed + others
    named = dict(model.named_parameters())
    groups = [
        {"params": [named[n] for n in decayed], "weight_decay": 0.1},
        {"params": [named[n] for n in others], "weight_decay": 0.0},
    ]
    other = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    for _ in range(3):
        model(torch.arange(5)).square().mean().backward()
        other.step()
    saved = through_a_file(other.state_dict())
    decay = rs.component("adamw").factory(weight_decay=0.1)
    plain = rs.component("adamw").factory(weight_decay=0.0)
    split = rs.policy(rs.match(decay, name=tuple(decayed)), rs.match(plain))
    opt = rs.optimizer(split, model)
    import_state(opt, saved, "torch/AdamW", names=trainer_names(model))
    for name, param in named.items():
        for key, value in other.state[param].items():
            assert torch.equal(opt.state[param][key], value), name
    assert [group["weight_decay"] for group in opt.param_groups] == [0.1, 0.0]
    # One group here cannot have two decays; the state alone it can have.
    single = rs.optimizer("adamw", model, weight_decay=0.3)
    with pytest.raises(InputError, match=r"weight_decay is 0\.1 for some there, 0\.0 for others"):
        import_state(single, saved, "torch/AdamW", names=trainer_names(model))
    import_state(single, saved, "torch/AdamW", names=trainer_names(model), hyperparameters="ours")
    assert single.param_groups[0]["weight_decay"] == 0.3
    assert single.param_groups[0]["updates"] == 3


def test_a_schedule_goes_on_where_theirs_was() -> None:
    whole, model = net(), net()
    other = torch.optim.AdamW(whole.parameters(), lr=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(other, 20)
    for step in range(5):
        train(whole, other, range(step, step + 1))
        cosine.step()
    model.load_state_dict(whole.state_dict())
    opt = rs.optimizer("adamw", model, lr=rs.schedules.cosine(0.01, steps=20))
    import_state(opt, other.state_dict(), "torch/AdamW", names=whole)
    assert opt.param_groups[0]["updates"] == 5
    for step in range(5, 10):
        train(whole, other, range(step, step + 1))
        cosine.step()
    train(model, opt, range(5, 10))
    close(model, whole)
    wrong = rs.optimizer("adamw", net(), lr=rs.schedules.cosine(0.02, steps=20))
    with pytest.raises(InputError, match=r"lr is 0\.0\d+ there, this schedule gives 0\.0"):
        import_state(wrong, other.state_dict(), "torch/AdamW", names=whole)


def refused(opt: Any, state: dict[str, Any], key: str, says: str, **given: Any) -> None:
    """It says so in one line, and nothing has changed."""
    before = state_bits(opt), repr(opt.param_groups[0]["lr"])
    with pytest.raises(InputError, match=says) as caught:
        import_state(opt, state, key, **given)
    assert "\n" not in str(caught.value)
    assert (state_bits(opt), repr(opt.param_groups[0]["lr"])) == before


def test_what_does_not_map_is_listed_and_changes_nothing() -> None:
    model = net()
    other = torch.optim.AdamW(model.parameters(), lr=0.5, amsgrad=True)
    train(model, other, range(2))
    state = other.state_dict()
    opt = rs.optimizer("adamw", net())
    names = [n for n, _ in model.named_parameters()]
    says = "amsgrad is True there, False here.*max_exp_avg_sq, which"
    refused(opt, state, "torch/AdamW", says, names=names)
    refused(opt, state, "torch/AdamW", "4 parameters and no names", names=None)
    refused(opt, state, "torch/Lion", "no state is exchanged with 'torch/Lion'", names=names)
    refused(opt, state, "torch/SGD", r"torch/SGD does not compute adamw", names=names)
    renamed = ["0.weights", *names[1:]]
    says = r"0\.weights: it is not here \(nearest: 0\.weight\); 0\.weight: not there"
    refused(opt, state, "torch/AdamW", says, names=renamed)
    swapped = [names[2], *names[1:2], names[0], names[3]]
    refused(opt, state, "torch/AdamW", r"exp_avg is \[8, 6\] there, \[3, 8\] here", names=swapped)


def test_a_part_that_is_taken_over_leaves_the_others_where_they_are() -> None:
    halves = [nn.Linear(3, 2), nn.Linear(2, 1)]
    named = [[(f"{i}.{n}", p) for n, p in half.named_parameters()] for i, half in enumerate(halves)]

    def made(**settings: Any) -> Any:
        groups = [{"params": pairs} for pairs in named]
        return rs.optimizer("adamw", groups, lr=rs.schedules.cosine(0.1, steps=20), **settings)

    others = [torch.optim.AdamW([p for _, p in pairs]) for pairs in named]
    for other, count in zip(others, (8, 3), strict=True):
        for _ in range(count):
            for group in other.param_groups:
                for param in group["params"]:
                    param.grad = torch.ones_like(param)
            other.step()
    opt = made()
    for index, other in enumerate(others):
        names = [name for name, _ in named[index]]
        taken: Any = {"groups": [index], "names": names, "hyperparameters": "ours"}
        import_state(opt, other.state_dict(), "torch/AdamW", **taken)
        assert [group["updates"] for group in opt.param_groups] == [8, 8]
    assert [group["lr"] for group in opt.param_groups] == [
        rs.schedules.cosine(0.1, steps=20)(8)
    ] * 2
    counts = [opt.state[param]["step"].item() for pairs in named for _, param in pairs]
    assert counts == [8, 8, 3, 3]

    half = made(accumulate=2)
    half.step()
    refused(half, others[1].state_dict(), "torch/AdamW", "half accumulated", **taken)
    half.step()
    import_state(half, others[1].state_dict(), "torch/AdamW", **taken)


def test_what_theirs_cannot_hold_is_listed() -> None:
    model = net()
    for rule, key, says in (
        (rs.optimizer("lion", model), "torch/AdamW", "does not compute lion"),
        (
            rs.optimizer("lion", model, maximize=True),
            "pytorch_optimizer/Lion",
            "maximize, which it does not",
        ),
        (rs.optimizer("muon", model), "torch/Muon", "does not compute adamw"),
        (
            rs.optimizer("ademamix", model, alpha_warmup=3),
            "pytorch_optimizer/AdEMAMix",
            "warm-ups",
        ),
    ):
        with pytest.raises(InputError, match=says):
            export_state(rule, key)
    opt = rs.optimizer("adamw", model, accumulate=2)
    train(model, opt, range(1))
    with pytest.raises(InputError, match="half accumulated"):
        export_state(opt, "torch/AdamW")


def test_halves_keep_their_bits() -> None:
    model = net(torch.bfloat16)
    other = torch.optim.AdamW(model.named_parameters(), lr=0.01)
    train(model, other, range(3))
    opt = rs.optimizer("adamw", model)
    import_state(opt, other.state_dict(), "torch/AdamW")
    again = torch.optim.AdamW(model.named_parameters(), lr=0.5)
    again.load_state_dict(export_state(opt, "torch/AdamW"))
    same(_sorted(again.state_dict()), _sorted(other.state_dict()))
    assert bits(list(model.parameters()))
