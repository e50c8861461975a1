"""What attach does with checkpoints: when it saves, what it refuses, what it says."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.generations import FOLDER, Keep, generations
from rheostat.checkpoint.load import newest
from rheostat.checkpoint.rng import rng_state
from rheostat.checkpoint.sampler import ResumableSampler
from rheostat.conformance.subject import bits, state_bits
from rheostat.core.errors import InputError, MachineError
from rheostat.recipes.attach import ResumeWarning
from rheostat.record.run import RunRecord

RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": {"schedule": "cosine", "peak": 0.1},
    "silence": ["RH019"],
}


def _model(width: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 4), nn.Dropout(0.5), nn.Linear(4, 1))


def _attach(directory: Path, model: nn.Module | None = None, **given: Any) -> Any:
    options: dict[str, Any] = {"steps": 20, "resume": "auto", **given}
    recipe = options.pop("recipe", RECIPE)
    return rs.attach(recipe, model or _model(), directory=directory, **options)


def _step(run: Any) -> Any:
    model = run._bundle.model
    run.optimizer.zero_grad()
    loss = model(torch.randn(8, 3)).square().mean()
    loss.backward()
    return run.step(loss)


def _trained(directory: Path, steps: int = 5, **given: Any) -> None:
    with _attach(directory, **given) as run:
        for _ in range(steps):
            _step(run)
        run.save(wait=True)


def _steps(directory: Path) -> list[int]:
    return [found.step for found in generations(directory / FOLDER)]


def _flip(directory: Path) -> Path:
    """Damage the newest checkpoint of a run."""
    path = generations(directory / FOLDER)[-1].path
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    return path


def test_it_saves_at_every_so_many_updates_and_keeps_the_newest(tmp_path: Path) -> None:
    with _attach(tmp_path, save_every=2, keep=Keep(last=2, every=4)) as run:
        for _ in range(11):
            _step(run)
            assert run.batches == run.optimizer.param_groups[0]["updates"]
    assert _steps(tmp_path) == [4, 8, 10]
    with _attach(tmp_path, save_minutes=1e-9) as run:
        assert run.batches == 10
        _step(run)
        assert run.batches == 11
    assert _steps(tmp_path) == [10, 11]


def test_without_being_asked_it_keeps_no_checkpoint(tmp_path: Path) -> None:
    with _attach(tmp_path / "run", resume="never") as run:
        _step(run)
        with pytest.raises(InputError, match="keeps no checkpoints; attach it with"):
            run.save()
    assert not (tmp_path / "run" / FOLDER).exists()
    with pytest.raises(InputError, match="checkpoints need a directory"):
        rs.attach(RECIPE, _model(), steps=5, resume="auto")


def test_never_must_and_what_is_misspelt(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no checkpoint to go on from"):
        _attach(tmp_path, resume="must")
    _trained(tmp_path)
    with pytest.raises(InputError, match="resume='auto' goes on from them"):
        _attach(tmp_path, resume="never", save_every=1)
    with pytest.raises(InputError, match="did you mean 'must'"):
        _attach(tmp_path, resume="mustt")
    with pytest.raises(InputError, match="save_every=0"):
        _attach(tmp_path, save_every=0)
    with pytest.raises(InputError, match="'it' is a int"):
        _attach(tmp_path, extra={"it": 3})
    with _attach(tmp_path, resume="must") as run:
        assert run.batches == 5


def test_a_finished_run_is_not_gone_on_with(tmp_path: Path) -> None:
    with _attach(tmp_path) as run:
        _step(run)
        run.save()
        run.finish({"loss": 1.0})
    with pytest.raises(InputError, match="is finished: it cannot go on"):
        _attach(tmp_path)


class _Refusing:
    """Has a state, and takes only its own back."""

    def __init__(self, state: Any, refuse: bool = False) -> None:
        self.state = state
        self.refuse = refuse

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.refuse and state["state"] != self.state:
            raise InputError("not mine")
        self.state = state["state"]


LAYERS = {**RECIPE, "lr": {"schedule": "cosine", "peak": 0.2}, "weight_decay": 0.5}


def test_a_load_that_does_not_fit_changes_nothing_and_names_it_all(tmp_path: Path) -> None:
    first, second = _Refusing((1, {2: 3.5})), _Refusing([4])
    _trained(tmp_path, extra={"first": first, "second": second}, sampler=ResumableSampler(9, 3))

    other = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 1, bias=False))
    cases: list[tuple[nn.Module, dict[str, Any], list[str]]] = [
        (_model(), {"recipe": LAYERS}, ["another recipe", "peak: 0.1", "weight_decay: 0.01"]),
        (_model(), {"steps": 30}, ["another recipe", "steps"]),
        (other, {}, ["2.bias: it is not attached to one with it"]),
        (nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 1)), {}, ["0.weight was"]),
        (_model().double(), {}, ["0.bias was saved as float32[4], here it is float64[4]"]),
        (_model(), {"extra": {"first": first}}, ["second"]),
        (_model(), {"extra": {"first": first, "secund": second}}, ["(nearest: secund)"]),
    ]
    for model, given, said in cases:
        own = {"first": _Refusing("x"), "second": _Refusing("y")}
        options = {"extra": own, "sampler": ResumableSampler(9, 3), **given}
        before, random = bits(list(model.state_dict().values())), rng_state()
        with pytest.raises(InputError) as caught:
            _attach(tmp_path, model, **options)
        assert all(part in str(caught.value) for part in said), caught.value
        assert "\n" not in str(caught.value)
        assert bits(list(model.state_dict().values())) == before
        assert bits(list(rng_state()[0].values())) == bits(list(random[0].values()))
        assert (own["first"].state, own["second"].state) == ("x", "y")


def test_an_object_that_refuses_leaves_those_before_it_as_they_were(tmp_path: Path) -> None:
    kept = {"first": _Refusing((1, {2: 3.5, "tuple": (4,)})), "second": _Refusing([4])}
    _trained(tmp_path, extra=kept)
    model, own = _model(), {"first": _Refusing("x"), "second": _Refusing("y", refuse=True)}
    before = bits(list(model.state_dict().values()))
    with pytest.raises(InputError, match="not mine"):
        _attach(tmp_path, model, extra=own)
    assert (own["first"].state, own["second"].state) == ("x", "y")
    assert bits(list(model.state_dict().values())) == before
    own["second"].refuse = False
    _attach(tmp_path, model, extra=own).close()
    assert (own["first"].state, own["second"].state) == (kept["first"].state, [4])


def test_a_damaged_checkpoint_is_passed_over_and_told(tmp_path: Path) -> None:
    with _attach(tmp_path) as run:
        for _ in range(2):
            for _ in range(3):
                _step(run)
            run.save(wait=True)
    damaged = _flip(tmp_path)
    with pytest.warns(ResumeWarning, match=rf"{damaged.name}/model\.safetensors is not as"):
        run = _attach(tmp_path)
    with run:
        assert run.batches == 3
        _step(run)
    record = RunRecord.read(tmp_path)
    (event,) = [event for event in record.events if event.kind == "resume"]
    assert event.fields["step"] == 3
    assert damaged.name in event.fields["passed_over"][0]
    assert record.steps.tolist() == [0, 1, 2, 3]
    (generations(tmp_path / FOLDER)[0].path / "rng.json").unlink()
    model = _model()
    before = bits(list(model.state_dict().values()))
    with pytest.raises(DamageError, match=r"no checkpoint in .* is whole"):
        _attach(tmp_path, model)
    assert bits(list(model.state_dict().values())) == before


def test_a_run_that_died_before_its_first_save_begins_again(tmp_path: Path) -> None:
    with _attach(tmp_path) as run:
        _step(run)
    with _attach(tmp_path) as run:
        assert run.batches == 0
        _step(run)
    assert RunRecord.read(tmp_path).steps.tolist() == [0]
    with pytest.raises(InputError, match="recorded with another recipe_hash"):
        _attach(tmp_path, recipe=LAYERS)


def test_changes_of_plan_and_restarts_are_made_again(tmp_path: Path) -> None:
    def train(run: Any, until: int) -> None:
        while run.batches < until:
            if run.batches == 3:
                run.restart("reset_first_moment")
            if run.batches == 5:
                run.extend(30)
            if run.batches == 7:
                run.change_peak(0.05, group=[0])
            if run.batches == 11:
                run.cool_down(18)
            torch.manual_seed(run.batches)
            _step(run)

    with _attach(tmp_path / "whole") as run:
        train(run, 18)
        run.save(wait=True)
    for until in (4, 6, 9, 13, 18):
        with _attach(tmp_path / "parts") as run:
            train(run, until)
            run.save(wait=True)
    whole, parts = RunRecord.read(tmp_path / "whole"), RunRecord.read(tmp_path / "parts")
    assert parts.series["lr"].tolist() == whole.series["lr"].tolist()
    assert parts.content_hash == whole.content_hash
    assert len([event for event in parts.events if event.kind == "resume"]) == 4


def test_a_run_saved_in_its_evaluation_view_goes_on_in_it(tmp_path: Path) -> None:
    recipe = {"optimizer": "schedule_free_adamw", "lr": 0.1, "silence": ["RH019"]}
    model = _model()
    with _attach(tmp_path, model, recipe=recipe) as run:
        for _ in range(3):
            _step(run)
        run.optimizer.eval()
        model.eval()
        shown = bits(list(model.parameters()))
        run.save(wait=True)
        run.optimizer.train()
        trained, state = bits(list(model.parameters())), state_bits(run.optimizer)
    again = _model()
    with _attach(tmp_path, again, recipe=recipe) as run:
        assert bits(list(again.parameters())) == shown != trained
        assert not any(module.training for module in again.modules())
        run.optimizer.train()
        assert bits(list(again.parameters())) == trained
        assert state_bits(run.optimizer) == state


def test_the_scaler_is_saved_where_it_was_given_and_asked_for_where_not(tmp_path: Path) -> None:
    def step(run: Any, scaler: torch.amp.GradScaler) -> None:
        run.optimizer.zero_grad()
        scaler.scale(run._bundle.model(torch.ones(8, 3)).square().mean()).backward()
        run.step(scaler=scaler)

    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    with _attach(tmp_path, extra={"scaler": scaler}) as run:
        for _ in range(3):
            step(run, scaler)
        run.save(wait=True)
    assert scaler.get_scale() == 16.0
    fresh = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    with _attach(tmp_path, extra={"scaler": fresh}) as run:
        assert fresh.state_dict() == scaler.state_dict()
        with pytest.raises(InputError, match=r"extra=\{'scaler': scaler\}"):
            step(run, torch.amp.GradScaler("cpu"))


def test_a_save_that_failed_is_told_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _attach(tmp_path, save_every=2) as run:
        _step(run)
        with monkeypatch.context() as patch:

            def full(*_: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr("rheostat.checkpoint.commit.os.fsync", full)
            patch.setattr(run._writer, "flush", lambda: None)
            _step(run)
            run._saver._writer._thread.shutdown(wait=True)
        weights = bits(list(run._bundle.model.parameters()))
        with pytest.raises(MachineError, match="No space left"):
            _step(run)
        assert bits(list(run._bundle.model.parameters())) == weights


def test_a_second_run_is_kept_out_and_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with _attach(tmp_path) as run:
        assert signal.getsignal(signal.SIGTERM) != before[0]
        with pytest.raises(MachineError, match=f"held by process {os.getpid()} on"):
            _attach(tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(InputError, match="the run is closed"):
        _step(run)


def test_a_crash_loop_is_noticed(tmp_path: Path) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), _attach(tmp_path):
            raise ZeroDivisionError
    with pytest.raises(MachineError, match="5 starts in a row ended before the first save"):
        _attach(tmp_path)


@pytest.fixture
def _interruptible() -> Generator[None]:
    """A shell lets what it runs in the background ignore the interrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_finish_saves_and_leaves(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = _attach(tmp_path)
    _step(run)

    def closure() -> Tensor:
        os.kill(os.getpid(), number)
        run.optimizer.zero_grad()
        loss = run._bundle.model(torch.ones(8, 3)).square().mean()
        loss.backward()
        return loss

    with pytest.raises(SystemExit) as left:
        run.step(closure=closure)
    assert left.value.code == code
    assert _steps(tmp_path) == [2]
    with _attach(tmp_path, resume="must") as run:
        assert run.batches == 2
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):  # the second acts at once, as it did before
            os.kill(os.getpid(), signal.SIGINT)
        run._saver._signals.received = None


def test_a_process_ends_with_the_code_of_its_signal(tmp_path: Path) -> None:
    program = f"""
import torch
import rheostat as rs
model = torch.nn.Linear(3, 1)
run = rs.attach({RECIPE!r}, model, steps=10**6, directory={str(tmp_path)!r}, resume="auto")
while True:
    run.optimizer.zero_grad()
    model(torch.ones(2, 3)).sum().backward()
    run.step()
    print(run.batches, flush=True)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while int(child.stdout.readline()) < 3:
            pass
        child.send_signal(signal.SIGTERM)
        said = child.stdout.read().split()
    assert child.returncode == 143
    found = newest(tmp_path / FOLDER)
    assert found is not None
    # The step in which the signal came is the one saved; it left before it could be printed.
    batches = found.documents["run"]["progress"]["batches"]
    assert batches == (int(said[-1]) + 1 if said else 4)
