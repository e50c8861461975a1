"""A run with a regime: what it sees, what it changes, what is recorded, saved and replayed."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.recipes.resumed import Crash
from tests.references.table import strangers_gone
from torch import Tensor, nn

import rheostat as rs
from rheostat.checkpoint.compare import differences
from rheostat.checkpoint.generations import FOLDER
from rheostat.checkpoint.load import newest
from rheostat.checkpoint.sampler import ResumableSampler
from rheostat.core.controller import (
    Anchor,
    Controller,
    Decision,
    Grow,
    Limit,
    Move,
    Now,
    Restart,
    Scale,
    Stop,
)
from rheostat.core.errors import InputError
from rheostat.core.registry import register
from rheostat.core.signal import Memory
from rheostat.recipes import horizons
from rheostat.recipes.decisions import decisions
from rheostat.recipes.run import Run
from rheostat.record.run import RunRecord

KINDS = {
    "lr": Scale(hyperparameter="lr", factor=0.5, reason="half"),
    "momentum": Scale(hyperparameter="momentum", factor=2.0, reason="forget twice as fast"),
    "share": Move(hyperparameter="blend", to=0.25, over=5, reason="move"),
    "rate": Move(hyperparameter="lr", to=0.5, over=8, reason="move"),
    "limit": Limit(norm=1e-6, reason="skip all"),
    "restart": Restart(state="reset", reason="again"),
    "grow": Grow(factor=2.0, reason="less noise"),
    "anchor": Anchor(reason="hold"),
    "stop": Stop(reason="it is enough"),
}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with strangers_gone():
        register("controller", "asks_once", version=1)(asks_once)
        yield


def asks_once(kind: str, at: int) -> Controller:
    """Asks for one decision after one step.

    kind: which, of `KINDS`.
    at: after so many steps that it saw.
    """

    def decide(now: Now, memory: Memory) -> Decision | None:
        memory["seen"] = memory.get("seen", 0) + 1
        return KINDS[kind] if memory["seen"] == at else None

    acts_on = {"lr": "lr", "rate": "lr", "momentum": "momentum", "share": "blend"}
    return Controller(
        decide,
        acts_on=(acts_on[kind],) if kind in acts_on else (),
        memory={"seen": 0},
        priority=100,  # a brake, which is not put on trial
    )


STEPS = 260
CARE = {"every": 20, "survive": 10, "hold": 30, "streak": 1, "wait": 20, "on_time": True}
EVENTFUL: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": {"schedule": "cosine", "peak": 3e-3, "warmup": 20},
    "clip": {"global_norm": 5.0},
    "regime": ["spike_guard", {"controller": "plateau", "patience": 20}, "adaptive_clipping"],
    "safeguards": CARE,
}


def once(kind: str, at: int = 5, **recipe: Any) -> dict[str, Any]:
    """A recipe whose regime asks for one thing."""
    regime = [{"controller": "asks_once", "kind": kind, "at": at}]
    return {"optimizer": "adamw", "lr": 1e-2, "regime": regime, **recipe}


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 1))


def train(
    recipe: Mapping[str, Any],
    directory: Path | None = None,
    *,
    steps: int = STEPS,
    crash: int | None = None,
    poison: range = range(150, 154),
    spike: range = range(90, 96),
    model: nn.Module | None = None,
    **options: Any,
) -> Run:
    """Train a small network to its end, or to a crash two batches after a save. The batches of
    `poison` have no finite loss, those of `spike` are very large."""
    model = model or network()
    kept: dict[str, Any] = {} if directory is None else {"resume": "auto", "save_every": 10**6}
    run = rs.attach(recipe, model, steps=STEPS, directory=directory, **kept, **options)
    with run:
        while run.batches < steps:
            number = run.batches
            generator = torch.Generator().manual_seed(number)
            x = torch.randn(32, 8, generator=generator) * (1e3 if number in spike else 1)
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss = loss * (math.nan if number in poison else 1.0)
            loss.backward()
            run.step(loss, batch=x, consumed={"samples": 32})
            run.optimizer.zero_grad()
            if crash is not None and run.batches == crash:
                run.save(wait=True)
            if crash is not None and run.batches == crash + 2:
                raise Crash
        if directory is not None:
            run.save(wait=True)
            run.finish({"loss": 0.0})
    return run


def told(directory: Path) -> list[tuple[str, str, int]]:
    """Who did what in which batch, once each."""
    found: dict[int, tuple[str, str, int]] = {}
    for event in RunRecord.read(directory).events:
        if event.kind == "decision" and event.fields["verdict"] != "refused":
            said = event.fields["done"] or event.fields["asked"] or {"kind": "note"}
            place = (event.fields["who"], said["kind"], event.fields["step"])
            found.setdefault(event.fields["number"], place)
    return [*found.values()]


def same(one: Path, other: Path) -> None:
    """Bit for bit the same run."""
    first, second = newest(one / FOLDER), newest(other / FOLDER)
    assert first is not None
    assert second is not None
    assert differences(first, second) == []
    assert RunRecord.read(one).content_hash == RunRecord.read(other).content_hash


# -- the whole -------------------------------------------------------------------------------------


def test_a_run_is_rolled_back_and_the_undone_stretch_stays_visible(tmp_path: Path) -> None:
    train(EVENTFUL, tmp_path)
    record = RunRecord.read(tmp_path)
    assert ("safeguard", "roll_back", 153) in told(tmp_path), "after four that were left out"
    assert record.steps.tolist() == list(range(STEPS))
    segment, update = record.series["segment"], record.series["update"]
    assert segment[:154].tolist() == [0.0] * 154
    assert segment[154:].tolist() == [1.0] * (STEPS - 154)
    assert update[153] > update[154], "the count of updates went back"
    pairs = [*zip(segment.tolist(), update.tolist(), strict=True)]
    stretch = [pair for pair in pairs if pair[0] == 0 and pair[1] > update[154]]
    assert stretch, "the undone updates are there, under their own segment"


def test_after_a_roll_back_the_schedule_still_ends_with_the_run(tmp_path: Path) -> None:
    quiet: Mapping[str, Any] = {**EVENTFUL, "regime": []}
    left: dict[str, int] = {}
    terms = {"on time": {}, "late": {"on_time": False}, "waited": {"wait": 20}}
    for name, of in terms.items():
        recipe = {**quiet, "safeguards": {**CARE, "backoff": 1.0, "wait": 0, **of}}
        poison = range(150, 165) if name == "waited" else range(150, 154)
        run = train(recipe, tmp_path / name, spike=range(0), poison=poison)
        assert [one[:2] for one in told(tmp_path / name)].count(("safeguard", "roll_back")) == 1
        kinds = {event.kind for event in RunRecord.read(tmp_path / name).events}
        assert "replanned" not in kinds, "the decision tells of it"
        rates = RunRecord.read(tmp_path / name).series["lr"]
        assert (rates[154:].argmax(), rates[154] < rates[100]) == (0, True), "without a jump"
        left[name] = horizons.left(run.optimizer)["lr", 0]
    skipped = 4  # losses that were not finite: no update, and the schedule waited
    assert left["on time"] == skipped
    assert left["waited"] == skipped, "what was left out after the way back was made up for"
    assert left["late"] > skipped + 10


def test_the_recorded_rate_is_what_the_update_ran_with(tmp_path: Path) -> None:
    train(once("lr", lr=1e-2), tmp_path, steps=40, poison=range(0), spike=range(0))
    rate = RunRecord.read(tmp_path).series["lr"]
    assert rate[:5].tolist() == [1e-2] * 5
    assert rate[-1] == pytest.approx(5e-3, rel=1e-12)


def test_interrupted_at_any_moment_the_regime_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    train(EVENTFUL, tmp_path / "whole")
    for stop in (3, 94, 151, 153, 200):
        stopped = tmp_path / str(stop)
        with pytest.raises(Crash):
            train(EVENTFUL, stopped, crash=stop)
        train(EVENTFUL, stopped)
        same(tmp_path / "whole", stopped)


def test_a_dry_run_changes_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    calm = range(0)
    plain = {key: value for key, value in EVENTFUL.items() if key not in ("regime", "safeguards")}
    dry = {**EVENTFUL, "regime": {"controllers": EVENTFUL["regime"], "dry_run": True}}
    train(plain, tmp_path / "plain", poison=calm)
    train(dry, tmp_path / "dry", poison=calm)
    one, other = (RunRecord.read(tmp_path / name) for name in ("plain", "dry"))
    assert one.fingerprint == other.fingerprint
    assert any(account.dry and account.done for account in decisions(other))


def test_another_run_makes_the_same_decisions_to_the_same_bits(tmp_path: Path) -> None:
    train(EVENTFUL, tmp_path / "first")
    again = {
        **{key: value for key, value in EVENTFUL.items() if key != "safeguards"},
        "regime": {"replay": str(tmp_path / "first")},
    }
    train(again, tmp_path / "again")
    one, other = (RunRecord.read(tmp_path / name) for name in ("first", "again"))
    assert len(told(tmp_path / "first")) > 2
    assert one.fingerprint == other.fingerprint
    assert one.weights == other.weights
    assert [account.done for account in decisions(other)] == [
        account.done for account in decisions(one) if account.done and account.outcome is None
    ]


def test_a_replay_of_what_had_no_regime_is_refused(tmp_path: Path) -> None:
    train({"optimizer": "sgd", "lr": 0.1}, tmp_path, steps=2)
    with pytest.raises(InputError, match=r"had no regime"):
        train({"optimizer": "sgd", "lr": 0.1, "regime": {"replay": str(tmp_path)}}, steps=2)


def test_run_replay_repeats_decisions_too(tmp_path: Path) -> None:
    model = network()
    options: dict[str, Any] = {"resume": "auto", "save_every": 100, "keep": 5}
    with rs.attach(EVENTFUL, model, steps=STEPS, directory=tmp_path, **options) as run:

        def step(number: int) -> None:
            x = torch.randn(32, 8, generator=torch.Generator().manual_seed(number))
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            (loss * (math.nan if 150 <= number < 154 else 1.0)).backward()
            run.step(loss * (math.nan if 150 <= number < 154 else 1.0), batch=x)
            run.optimizer.zero_grad()

        while run.batches < 200:
            step(run.batches)
        assert run.signals["gradient_norm"] > 0
        for number in run.replay(run.batches - 100):
            step(number)
        assert run.batches == 200


# -- each hand -------------------------------------------------------------------------------------


def verdicts(directory: Path) -> list[tuple[str, str]]:
    """What became of each decision, and why."""
    return [(one.verdict, one.reason) for one in decisions(RunRecord.read(directory))]


def quiet(recipe: Mapping[str, Any], directory: Path, steps: int = 30, **options: Any) -> Run:
    """A run without poison."""
    return train(recipe, directory, steps=steps, poison=range(0), spike=range(0), **options)


def test_momentum_stands_for_the_first_beta(tmp_path: Path) -> None:
    run = quiet(once("momentum"), tmp_path)
    (group,) = run.optimizer.param_groups
    assert group["betas"] == (0.9, 0.999), "the group shows the plan"
    assert group["factors"]["momentum"] == pytest.approx(2.0)


def _blended(kind: str, blend: Any) -> dict[str, Any]:
    both = {"transform": "blend", "first": ["scale_by_adam"], "second": ["scale_by_signum"]}
    regime = [{"controller": "asks_once", "kind": kind, "at": 5}]
    return {"chain": [{**both, "blend": blend}], "lr": 1e-3, "regime": regime}


def test_a_share_moves(tmp_path: Path) -> None:
    run = quiet(_blended("share", 0.05), tmp_path)
    assert run.optimizer.param_groups[0]["blend"] == 0.25
    assert verdicts(tmp_path)[0][0] == "accepted"


@pytest.mark.parametrize(
    ("kind", "blend", "why"),
    [
        ("share", {"schedule": "linear", "peak": 1.0}, "a schedule owns blend"),
        ("rate", 0.0, r"lr is no share: no piece of the rule gives it the range [0, 1]"),
    ],
)
def test_what_is_no_share_or_has_a_schedule_is_not_moved(
    kind: str, blend: Any, why: str, tmp_path: Path
) -> None:
    run = quiet(_blended(kind, blend), tmp_path)
    (told,) = [e for e in RunRecord.read(tmp_path).events if e.kind == "decision"]
    assert told.fields["verdict"] == "refused"
    assert why in told.fields["reason"]
    assert run.optimizer.param_groups[0]["lr"] == 1e-3


def test_a_limit_skips_and_is_lifted_again(tmp_path: Path) -> None:
    quiet(once("limit"), tmp_path, steps=60)
    events = RunRecord.read(tmp_path).events
    skipped = [event.fields["step"] for event in events if event.kind == "skipped"]
    assert skipped == list(range(5, 5 + len(skipped)))
    assert 0 < len(skipped) <= 21, "terms.skips"


def test_a_restart_begins_the_schedule_again_and_is_recorded(tmp_path: Path) -> None:
    lr = {"schedule": "cosine", "peak": 1e-2}
    quiet(once("restart", at=10, lr=lr), tmp_path)
    record = RunRecord.read(tmp_path)
    assert record.series["lr"][10] == record.series["lr"][0]
    (event,) = [event for event in record.events if event.kind == "restart"]
    assert event.fields["step"] == 10
    quiet(once("restart", at=10), tmp_path / "constant")
    assert verdicts(tmp_path / "constant")[0][0] == "refused"


def test_the_batch_grows_by_accumulation_and_a_resumed_run_goes_on_with_it(tmp_path: Path) -> None:
    recipe = once("grow", at=10, safeguards=True)
    whole = quiet(recipe, tmp_path / "whole", steps=41)
    assert whole.optimizer.options.averaged == 2
    assert whole.optimizer.param_groups[0]["updates"] == 10 + 15
    with pytest.raises(Crash):
        quiet(recipe, tmp_path / "stopped", crash=21)
    quiet(recipe, tmp_path / "stopped", steps=41)
    same(tmp_path / "whole", tmp_path / "stopped")


def test_an_anchor_is_taken_where_something_pulls(tmp_path: Path) -> None:
    chain = {"chain": ["scale_by_adam", "pull_towards"], "lr": 1e-2}
    recipe = {key: value for key, value in once("anchor").items() if key != "optimizer"}
    run = quiet({**recipe, **chain}, tmp_path / "pulled", steps=5)
    for param in run.optimizer.param_groups[0]["params"]:
        assert torch.equal(run.optimizer.state[param]["reference"], param)
    quiet(once("anchor"), tmp_path / "free")
    assert verdicts(tmp_path / "free") == [
        ("refused", "no rule here pulls towards a reference; asked: hold")
    ]


def test_a_wish_to_stop_is_said_and_the_loop_decides(tmp_path: Path) -> None:
    run = quiet(once("stop"), tmp_path, steps=8)
    assert run.stop_reason == "it is enough"
    assert run.batches == 8


# -- bad batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [True, False], ids=["data", "luck"])
def test_a_batch_that_stands_out_is_looked_at_again(tmp_path: Path, bad: bool) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 4, generator=generator)
    data[7] = math.nan if bad else data[7]
    sampler = ResumableSampler(64, 8, seed=0)

    def loss_of(number: int) -> Tensor:
        epoch, place = divmod(number, 8)
        x = data[sampler.indices(epoch)[place * 8 : place * 8 + 8]]
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    recipe = {
        "optimizer": "adamw",
        "lr": 1e-3,
        "nonfinite": "propagate",  # what is left out harms nothing, and is no reason to go back
        "safeguards": {"every": 4, "survive": 3, "streak": 1},
    }
    run = rs.attach(recipe, model, directory=tmp_path, sampler=sampler, loss_of=loss_of, extra={})
    left: list[bool] = []
    with run:
        for indices in itertools.islice(epochs(sampler), 200):
            loss = loss_of(run.batches)
            unlucky = not bad and run.batches == 60
            (loss * (math.nan if unlucky else 1)).backward()
            run.step(loss * (math.nan if unlucky else 1))
            run.optimizer.zero_grad()
            left.append(7 in indices)
    said = [reason for _, reason in verdicts(tmp_path) if "with the good weights" in reason]
    assert said, verdicts(tmp_path)
    assert all(("the data" in one) == bad for one in said)
    if bad:
        assert not any(left[-40:]), "its samples come no more"
    else:
        assert any(left[-40:])


def grads_of(model: nn.Module) -> list[Tensor]:
    """Copies of the gradients."""
    return [cast("Tensor", param.grad).clone() for param in model.parameters()]


def epochs(sampler: ResumableSampler) -> Iterator[list[int]]:
    """Batches, epoch after epoch."""
    while True:
        yield from sampler


# -- what it sees ----------------------------------------------------------------------------------


def test_signals_without_a_regime_are_measured_and_recorded(tmp_path: Path) -> None:
    names = ("gradient_norm", "update_ratio", "loss_slope")
    recipe = {"optimizer": "adamw", "lr": 1e-2}
    run = quiet(recipe, tmp_path / "seen", signals=names)
    plain = quiet(recipe, tmp_path / "plain")
    assert set(run.signals) == set(names)
    seen, alone = (RunRecord.read(tmp_path / name) for name in ("seen", "plain"))
    assert seen.series["gradient_norm"] == pytest.approx(seen.series["grad_norm"], rel=1e-6)
    assert seen.fingerprint == alone.fingerprint
    assert plain.signals == {}
    assert "segment" not in seen.series


NORMS_APART: Mapping[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "policy": [{"match": {"role": ["norm", "bias"]}, "weight_decay": 0, "lr": 1e-3}],
}
"""The first param group is the small one, without decay and with a rate of its own."""


def test_the_largest_group_that_has_it_speaks_for_a_hyperparameter(tmp_path: Path) -> None:
    balance = {"controller": "decay_balance", "updates_per_epoch": 10, "every": 20}
    recipe = {**NORMS_APART, "lr": 1e-3, "regime": [balance]}
    with quiet(recipe, tmp_path) as run:
        assert run.optimizer.param_groups[0]["weight_decay"] == 0
    (first, *_) = decisions(RunRecord.read(tmp_path))
    assert (first.verdict, first.before) == ("accepted", 0.1)  # 1 / (1e-3 · 0.1 · 10) = 1000 epochs


def test_the_plans_warm_up_is_that_of_the_largest_group(tmp_path: Path) -> None:
    rate = {"schedule": "cosine", "peak": 3e-5, "warmup": 60}
    recipe = {**NORMS_APART, "lr": rate, "regime": ["starting_rate"]}
    with quiet(recipe, tmp_path, steps=90):
        pass
    acted = [account.step for account in decisions(RunRecord.read(tmp_path)) if account.done]
    assert acted
    assert min(acted) > 60


def test_a_run_takes_signals_under_names_and_reports_that_its_own_wait_for(tmp_path: Path) -> None:
    page_hinkley = rs.component("page_hinkley").factory
    signals = {"inputs": page_hinkley(of="reported.mean", least=5), "loss": page_hinkley(least=5)}
    recipe = {"optimizer": "adamw", "lr": 0.01, "regime": ["shift_responder"]}
    model = network()
    with rs.attach(recipe, model, directory=tmp_path, signals=signals) as run:
        for step in range(12):
            for param in model.parameters():
                param.grad = torch.ones_like(param)
            run.report(mean=float(step))
            run.step(torch.tensor(1.0))
        assert run.signals["inputs"] > 0
        assert run.signals["loss"] == 0
        assert "page_hinkley" in run.signals  # which the regime needs
        with pytest.raises(InputError, match="no signal waits for 'means'"):
            run.report(means=1.0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_says_how_often_it_clips_by_the_global_norm(tmp_path: Path, accumulate: int) -> None:
    model = network()
    clip = {"global_norm": 1.0}
    recipe = {"optimizer": "adamw", "lr": 0.01, "clip": clip, "accumulate": accumulate}
    clip_rate = rs.component("clip_rate").factory(span=20.0)
    told: list[float] = []
    with rs.attach(recipe, model, directory=tmp_path, signals=[clip_rate]) as run:
        for update in range(12):
            length = 10.0 if update % 3 == 0 else 0.1
            for _ in range(accumulate):
                for param in model.parameters():
                    param.grad = torch.full_like(param, length / math.sqrt(_size(model)))
                run.step(torch.tensor(0.0))
            told.append(run.signals["clip_rate"])
        shares = [float(update % 3 == 0) for update in range(12)]
        weights = [math.exp(-(11 - update) / 20.0) for update in range(12)]
        expected = sum(map(math.prod, zip(shares, weights, strict=True))) / sum(weights)
        assert told[-1] == pytest.approx(expected)


def test_of_another_clip_only_the_loop_can_say_how_often(tmp_path: Path) -> None:
    model = network()
    recipe = {"optimizer": "adamw", "lr": 0.01, "clip": {"value": 0.1}}
    with rs.attach(recipe, model, directory=tmp_path, signals=["clip_rate"]) as run:
        for share in (None, 0.25):
            for param in model.parameters():
                param.grad = torch.ones_like(param)
            if share is not None:
                run.report(clipped=share)
            run.step(torch.tensor(1.0))
            found = run.signals["clip_rate"]
            assert math.isnan(found) if share is None else found == share


def _size(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


def test_with_a_closure_the_gradients_of_its_first_evaluation_are_seen(tmp_path: Path) -> None:
    model = network()
    run = rs.attach({"optimizer": "adamw", "lr": 0.01}, model, signals=["gradient_norm"])
    x = torch.randn(16, 8)

    def closure() -> Tensor:
        run.optimizer.zero_grad()
        loss = (model.eval()(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    closure()
    expected = torch.nn.utils.get_total_norm(grads_of(model))
    run.step(closure=closure)
    assert run.signals["gradient_norm"] == pytest.approx(expected.item(), rel=1e-6)


def test_of_an_accumulation_the_average_is_seen_and_its_noise(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    recipe = {"optimizer": "adamw", "lr": 0.0, "accumulate": 4}
    signals = ["gradient_norm", "gradient_sample_variance"]
    run = rs.attach(recipe, model, directory=tmp_path, signals=signals)
    grads: list[Tensor] = []
    for number in range(4):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(number)).double().float()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        run.optimizer.zero_grad()
        loss.backward()
        grads.append(torch.cat([grad.reshape(-1) for grad in grads_of(model)]).double())
        held = [p.grad for p in model.parameters()]
        run.step(loss, consumed={"samples": 5})
        assert all(p.grad is grad for p, grad in zip(model.parameters(), held, strict=True))
    run.close()
    mean = torch.stack(grads).mean(0)
    small = torch.stack([grad.square().sum() for grad in grads]).mean()
    variance = (small - mean.square().sum()) / (1 / 5 - 1 / 20)
    norm = float(mean.square().sum().sqrt())
    assert run.signals["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert run.signals["gradient_sample_variance"] == pytest.approx(float(variance), rel=1e-4)
    seen = RunRecord.read(tmp_path).series["gradient_norm"]
    assert [math.isnan(value) for value in seen] == [True, True, True, False]


def test_within_an_accumulation_a_skip_is_heard_and_losses_are_averaged(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    recipe = {"optimizer": "adamw", "lr": 0.01, "accumulate": 3}
    with rs.attach(recipe, model, directory=tmp_path, signals=["loss_fast", "skip_rate"]) as run:
        seen: list[float] = []
        for loss, poison in ((1.0, 1.0), (9.0, math.nan), (2.0, 1.0), (3.0, 1.0)):
            (model(torch.ones(2, 4)).square().mean() * poison).backward()
            run.step(loss)
            run.optimizer.zero_grad()
            seen.append(run.signals["skip_rate"])
    assert [math.isnan(value) for value in seen] == [True, False, False, False]
    assert seen[1] > seen[3] > 0
    assert seen[1] == seen[2], "the third only added to the average"


def test_signals_are_recorded_for_each_parameter_where_asked(tmp_path: Path) -> None:
    model, x = nn.Linear(4, 1), torch.randn(8, 4)
    recipe = {"optimizer": "adamw", "lr": 0.01}
    names = ["gradient_norm", "gradient_norm[weight]", "gradient_norm[bias]"]
    norms: list[list[float]] = []
    with rs.attach(
        recipe, model, directory=tmp_path, signals=["gradient_norm"], per="parameter"
    ) as run:
        for _ in range(3):
            loss = model(x).square().mean()
            run.optimizer.zero_grad()
            loss.backward()
            grads = [param.grad for param in model.parameters() if param.grad is not None]
            norms.append([torch.nn.utils.get_total_norm(g).item() for g in (grads, *grads)])
            run.step(loss)
            assert [run.signals[name] for name in names] == pytest.approx(norms[-1], rel=1e-5)
    series = RunRecord.read(tmp_path).series
    assert pytest.approx(np.array(norms), rel=1e-5) == np.array([series[name] for name in names]).T
    with pytest.raises(rs.InputError, match=r"per='group': there are no signals; name them"):
        rs.attach(recipe, nn.Linear(4, 1), per="group")


def test_a_scaler_shows_unscaled_gradients(tmp_path: Path) -> None:
    model = network().eval()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run = rs.attach({"optimizer": "adamw", "lr": 0.01}, model, signals=["gradient_norm"])
    x = torch.randn(16, 8)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    cast("Tensor", scaler.scale(loss)).backward()
    run.step(loss, scaler=scaler)
    expected = torch.nn.utils.get_total_norm(grads).item()
    assert run.signals["gradient_norm"] == pytest.approx(expected, rel=1e-5)


def test_what_the_loop_reports_counts_for_the_coming_step_even_after_a_save(tmp_path: Path) -> None:
    def begin() -> tuple[nn.Module, Run]:
        model = network()
        options: dict[str, Any] = {"resume": "auto", "save_every": 100}
        recipe = {"optimizer": "adamw", "lr": 0.01}
        signals = ["validation_improvement", "loss_fast", "validation_plateau"]
        return model, rs.attach(recipe, model, directory=tmp_path, signals=signals, **options)

    def step(model: nn.Module, run: Run) -> None:
        loss = model(torch.ones(2, 8)).square().mean()
        loss.backward()
        run.step(loss)
        run.optimizer.zero_grad()

    model, run = begin()
    for value in (1.0, 0.8, 0.9):
        run.report(validation=value)
        step(model, run)
    run.report(validation=0.5)
    run.save(wait=True)
    run.close()
    model, run = begin()
    step(model, run)
    run.close()
    assert run.signals["validation_plateau"] == 0


def test_another_library_follows_factors_and_says_what_it_cannot(tmp_path: Path) -> None:
    recipe = {**once("lr"), "optimizer": "torch/AdamW"}
    run = quiet(recipe, tmp_path / "scaled")
    assert run.optimizer.param_groups[0]["lr"] == 1e-2
    lr = RunRecord.read(tmp_path / "scaled").series["lr"]
    assert lr[-1] == pytest.approx(5e-3, rel=1e-12)
    for kind in ("limit", "grow"):
        quiet({**once(kind), "optimizer": "torch/AdamW"}, tmp_path / kind)
        assert verdicts(tmp_path / kind)[0][0] == "refused"


def test_names_of_the_runs_own_are_refused_for_extra() -> None:
    model = network()
    with pytest.raises(InputError, match=r"extra: the name 'regime' is the run's own"):
        rs.attach({"optimizer": "sgd"}, model, extra={"regime": ResumableSampler(4, 2)})


def test_accounts_are_strict_json(tmp_path: Path) -> None:
    train(EVENTFUL, tmp_path)
    for event in RunRecord.read(tmp_path).events:
        json.dumps(event.fields, allow_nan=False)
    assert decisions(RunRecord.read(tmp_path))


# -- what is handed to it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"loss": torch.ones(3)},
            r"loss: a tensor of shape \(3,\) and torch.float32; should be one",
        ),
        ({"loss": "a"}, r"loss: a str; should be one real number"),
        ({"loss": 1j}, r"loss: a complex; should be one real number"),
        ({"loss": lambda: 1.0}, r"the loss is a function; give it as closure"),
        ({"closure": 3}, r"closure: an int; should be a function"),
        ({"consumed": 5}, r"consumed: an int; should say of what"),
    ],
)
def test_what_a_step_cannot_take_is_refused_before_the_update(
    given: dict[str, Any], told: str
) -> None:
    model = network()
    run = rs.attach({"optimizer": "sgd", "lr": 0.1}, model, signals=["loss_fast"])
    model(torch.ones(2, 8)).sum().backward()
    before = {name: param.clone() for name, param in model.named_parameters()}
    with pytest.raises(InputError, match=told):
        run.step(**given)
    assert all(torch.equal(before[name], param) for name, param in model.named_parameters())
    run.step(1.0)
    assert run.batches == 1


def test_what_no_signal_waits_for_cannot_be_reported() -> None:
    run = rs.attach({"optimizer": "sgd", "lr": 0.1}, network(), signals=["loss_fast"])
    with pytest.raises(InputError, match=r"no signal waits for 'validaton'; did you mean 'valida"):
        run.report(validaton=0.3)
    with pytest.raises(InputError, match=r"validation: a str; should be one real number"):
        run.report(validation="0.3")  # pyright: ignore[reportArgumentType]  # what is refused


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"signals": "loss_fast"}, r"signals='loss_fast': should be a list"),
        ({"signals": [3]}, r"signals: an int; should be a signal or its name"),
        ({"recipe": 3}, r"recipe: 3: should be a file's name or a mapping"),
        ({"directory": 3}, r"directory: an int; should be a folder's name"),
        ({"directory": "x", "resume": "auto", "keep": "2"}, r"keep='2': should be a number"),
        ({"loss_of": 3}, r"loss_of: an int; should be a function"),
        ({"extra": [1]}, r"extra: a list; should be objects by their names"),
        ({"save_every": "5"}, r"save_every='5': should be a number"),
        ({"model": None}, r"model: a NoneType; should be a torch module"),
    ],
)
def test_what_attach_cannot_take_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        rs.attach(**{"recipe": {"optimizer": "sgd"}, "model": network(), **given})


def test_a_step_without_a_loss_is_refused_where_a_regime_judges_by_it() -> None:
    net = network()
    run = rs.attach({"optimizer": "sgd", "lr": 0.1, "safeguards": True}, net)
    net(torch.ones(1, 8)).sum().backward()
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(InputError, match=r"the regime judges by the loss: run\.step\(loss\)"):
        run.step()
    assert all(map(torch.equal, before, net.parameters()))
    assert run.step(1.0).applied, "nothing was lost"
    rs.attach({"optimizer": "sgd", "lr": 0.1}, net, signals=["gradient_norm"]).step()


@pytest.mark.parametrize(
    ("given", "said"),
    [(1.0, "1.0"), (torch.ones(4, 1, requires_grad=True), r"a tensor of shape \(4, 1\)")],
)
def test_a_second_look_that_gives_no_loss_is_said_and_training_goes_on(
    tmp_path: Path, given: Any, said: str
) -> None:
    recipe = {"optimizer": "adamw", "lr": 1e-2, "safeguards": {**CARE, "on_time": False}}
    with pytest.warns(UserWarning, match=rf"loss_of\(\d+\) gave {said}; should give one number"):
        run = train(recipe, tmp_path, steps=170, loss_of=lambda _: given)
    assert run.batches == 170


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_bad_batch_that_no_sampler_can_leave_out_is_told_and_training_goes_on(
    tmp_path: Path, accumulate: int
) -> None:
    model = nn.Linear(8, 1)
    # Of the batches that make an update it is the one in the middle, of twelve updates.
    bad = {450 + accumulate * k + accumulate // 2 for k in range(12)}

    def loss_of(number: int) -> Tensor:
        draw = torch.Generator().manual_seed(number)
        x, noise = torch.randn(16, 8, generator=draw), torch.randn(16, 1, generator=draw)
        y = (x.sum(1, keepdim=True) + noise) * (100 if number in bad else 1)
        return (model(x) - y).square().mean()

    care = {"every": 50, "survive": 20}
    recipe = {"optimizer": "sgd", "lr": 0.05, "accumulate": accumulate, "safeguards": care}
    with rs.attach(recipe, model, directory=tmp_path, loss_of=loss_of) as run:
        for number in range(520):
            loss = loss_of(number)
            loss.backward()
            run.step(loss)
            run.optimizer.zero_grad()
    events = [e.fields for e in RunRecord.read(tmp_path).events if e.kind == "decision"]
    looks = [e for e in events if "position" in e["evidence"]]
    blamed = {e["evidence"]["position"] for e in looks if "the data" in e["reason"]}
    assert blamed
    assert blamed <= bad
    assert {e["evidence"]["position"] for e in looks} - bad if accumulate == 3 else True
    told = [e for e in looks if e["evidence"]["position"] in blamed]
    assert {e["verdict"] for e in told} == {"refused"}
    assert all("this loop cannot leave a batch out" in e["reason"] for e in told)
    assert all(("together" in e["reason"]) == (accumulate == 3) for e in looks)


def test_what_was_refused_until_the_end_is_counted(tmp_path: Path) -> None:
    """The first refusal is told at once, the others with how many they were."""

    @register("controller", "nags", version=1)
    def nags() -> Controller:
        """Asks for too much, always."""
        more = Scale(hyperparameter="lr", factor=1.5, reason="more")
        return Controller(lambda now, memory: more, acts_on=("lr",))

    assert nags is not None
    regime = {"controllers": ["nags"], "terms": {"bounds": {"ceiling": 1.0}}}
    quiet({"optimizer": "adamw", "lr": 1e-2, "regime": regime}, tmp_path, steps=90)
    (account,) = {one.number: one for one in decisions(RunRecord.read(tmp_path))}.values()
    assert (account.verdict, account.times) == ("refused", 90)


def test_gradients_of_a_group_that_came_later_are_seen(tmp_path: Path) -> None:
    first, second = nn.Linear(4, 1), nn.Linear(4, 1)
    recipe = {"optimizer": "adamw", "lr": 0.01}
    run = rs.attach(recipe, first, directory=tmp_path, signals=["gradient_norm"])
    for k in range(3):
        if k == 1:
            run.optimizer.add_param_group({"params": [*second.named_parameters("second")]})
        run.optimizer.zero_grad()
        loss = (first(torch.ones(2, 4)) + 10 * second(torch.ones(2, 4))).square().mean()
        loss.backward()
        seen = [*first.parameters(), *(second.parameters() if k else ())]
        expected = torch.nn.utils.get_total_norm([cast("Tensor", p.grad) for p in seen])
        run.step(loss)
        assert run.signals["gradient_norm"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_dry_run_has_not_gone_back(tmp_path: Path) -> None:
    recipe = {
        "optimizer": "adamw",
        "lr": 1e-2,
        "regime": {"controllers": [], "dry_run": True},
        "safeguards": {**CARE, "on_time": False},
    }
    train(recipe, tmp_path, steps=170, poison=range(150, 156), spike=range(0))
    record = RunRecord.read(tmp_path)
    told = decisions(record)
    assert any(one.done and one.done["kind"] == "roll_back" for one in told)
    assert {one.segment for one in told} == {0}
    assert {*record.series["segment"]} == {0.0}


def test_a_run_that_has_nothing_to_go_back_to_says_that_it_should_end(tmp_path: Path) -> None:
    run = train({**once("lr", at=999), "safeguards": True}, tmp_path, steps=30, poison=range(99))
    assert run.stop_reason is not None
    assert "there is no good state to go back to" in run.stop_reason


def test_the_noise_scale_asks_for_the_size_of_a_batch() -> None:
    model = nn.Linear(4, 1)
    recipe = {"optimizer": "sgd", "lr": 0.01, "accumulate": 2}
    run = rs.attach(recipe, model, signals=["gradient_noise_scale"])

    def step() -> None:
        loss = model(torch.randn(3, 4)).square().mean()
        loss.backward()
        run.step(loss)

    step()
    with pytest.warns(UserWarning, match=r"needs the number of samples in a batch"):
        step()
    step()
    step()  # it is said once


def test_accumulating_is_no_skip(tmp_path: Path) -> None:
    quiet({"optimizer": "adamw", "lr": 0.01, "accumulate": 2}, tmp_path, steps=6)
    assert [event for event in RunRecord.read(tmp_path).events if event.kind == "skipped"] == []
