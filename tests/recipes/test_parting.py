"""rheostat diff RUN RUN: where two runs part is found, and why, for each cause by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import rheostat as rs
from rheostat.checkpoint.generations import Keep
from rheostat.cli import files  # noqa: F401 - importing it makes the command known
from rheostat.cli.app import app
from rheostat.core.errors import InputError
from rheostat.recipes import attach
from rheostat.recipes.apart import Apart, compare
from rheostat.record.find import run_directory
from rheostat.record.run import RunRecord
from rheostat.record.store import Store, StoredRun

pytestmark = pytest.mark.filterwarnings("ignore:.*RH019")  # a large lr, on purpose

RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": {"schedule": "cosine", "peak": 0.1}}
DATA = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
STEPS = 8

Act = Callable[[Any, nn.Module], object]


def train(
    directory: Path,
    *,
    recipe: Mapping[str, Any] = RECIPE,
    seed: int = 0,
    init: int = 0,
    steps: int = STEPS,
    batches: bool = True,
    shift: Mapping[int, int] | None = None,
    acts: Mapping[int, Act] | None = None,
    dropout: float = 0.5,
    width: int = 4,
    **given: Any,
) -> Path:
    """A run; `acts` happen ahead of a step, `shift` moves the batch of one."""
    torch.manual_seed(init)
    model = nn.Sequential(nn.Linear(3, width), nn.Dropout(dropout), nn.Linear(width, 1))
    torch.manual_seed(seed)
    with rs.attach(recipe, model, steps=STEPS, directory=directory, **given) as run:
        for step in range(steps):
            if acts and step in acts:
                acts[step](run, model)
            begin = 8 * (step + (shift or {}).get(step, 0)) % 64
            batch = DATA[begin : begin + 8]
            run.optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            run.step(loss, batch=batch if batches else None)
    return directory


def nudge(_: Any, model: nn.Module) -> None:
    """What a kernel does that sums in another order: a last bit of a gradient's consequence."""
    weight = model.get_parameter("2.weight")

    def tilted(grad: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return grad * (1 + 2**-12)

    handle = weight.register_hook(tilted)


@pytest.fixture
def apart(tmp_path: Path) -> Callable[..., Apart]:
    """Compares a plain run with one that has something else."""

    def compared(first: Mapping[str, Any] | None = None, **second: Any) -> Apart:
        one = train(tmp_path / "one", **(first or {}))
        return compare(one, train(tmp_path / "other", **second))

    return compared


def cause(found: Apart) -> tuple[int | None, str, str | None, str]:
    assert found.parting is not None
    parting = found.parting
    return parting.step, parting.what, parting.tensor, parting.cause


def test_the_same_run_twice(apart: Callable[..., Apart]) -> None:
    found = apart()
    assert found.parting is None
    assert found.given == []


def test_another_batch(apart: Callable[..., Apart]) -> None:
    assert cause(apart(shift={3: 1})) == (3, "batch", "0.weight", "batch")


def test_another_seed_of_the_weights(apart: Callable[..., Apart]) -> None:
    found = apart(init=1)
    assert cause(found) == (None, "initial weights", "0.weight", "seed")


def test_another_seed_of_the_draws(apart: Callable[..., Apart]) -> None:
    found = apart(seed=1)
    assert cause(found) == (0, "loss", "0.weight", "seed")
    assert found.parting is not None
    assert "seed of torch: 0 in the first, 1 in the second" in found.parting.why


def test_a_seed_that_nothing_is_drawn_from_is_no_cause(apart: Callable[..., Apart]) -> None:
    found = apart({"dropout": 0.0}, dropout=0.0, seed=1, acts={4: nudge})
    assert cause(found) == (4, "grad_norm", "2.weight", "kernel")


def test_random_numbers_drawn_on_the_way(apart: Callable[..., Apart]) -> None:
    found = apart(acts={5: lambda *_: torch.rand(1)})
    assert cause(found) == (5, "loss", "0.weight", "seed")
    assert found.parting is not None
    assert found.parting.why == "other random numbers were drawn from step 5 on"


def test_another_recipe(apart: Callable[..., Apart]) -> None:
    found = apart(recipe={**RECIPE, "betas": [0.9, 0.99]})
    step, what, _, why = cause(found)
    assert (step, what, why) == (0, "weights", "recipe")
    assert found.parting is not None
    assert "betas[1]: 0.999 in the first, 0.99 in the second" in found.parting.why
    found = apart_of(found, recipe={**RECIPE, "lr": {"schedule": "linear", "peak": 0.1}})
    assert cause(found)[1::2] == ("lr", "recipe")


def apart_of(found: Apart, **second: Any) -> Apart:
    """The first run of a comparison, with another second one."""
    parent = found.one.directory.parent
    return compare(found.one.directory, train(parent / f"{len(list(parent.iterdir()))}", **second))


def test_changes_by_hand(apart: Callable[..., Apart]) -> None:
    found = apart(acts={4: lambda run, _: run.change_peak(0.2)})
    assert cause(found) == (4, "lr", "0.weight", "plan")
    assert found.parting is not None
    assert "only in the second: replan at step 4" in found.parting.why

    def write(run: Any, _: nn.Module) -> None:
        run.optimizer.param_groups[0]["lr"] = 0.3

    constant = {"recipe": {"optimizer": "adamw", "lr": 0.1}}
    one = train(found.one.directory.parent / "constant", **constant)
    other = train(found.one.directory.parent / "written", **constant, acts={2: write})
    assert cause(compare(one, other)) == (2, "lr", "0.weight", "hyperparameters")


@pytest.mark.filterwarnings("ignore:run.step. 1 updates were made")
def test_updates_that_the_run_did_not_make(apart: Callable[..., Apart]) -> None:
    found = apart(
        dropout=0.0, first={"dropout": 0.0}, acts={4: lambda run, _: run.optimizer.step()}
    )
    assert cause(found)[1::2] in {("lr", "updates"), ("loss", "updates")}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"torch": "0.0.1"}, "version"),
        ({"rheostat": "99"}, "version"),
        ({"code": "0"}, "version"),
        ({"threads": 99}, "threads"),
        ({"deterministic": True}, "settings"),
        ({"cpu_capability": "NONE"}, "machine"),
    ],
)
def test_another_environment(
    apart: Callable[..., Apart],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, Any],
    wanted: str,
) -> None:
    same = apart()
    real = attach.run_environment()
    monkeypatch.setattr(attach, "run_environment", lambda: {**real, **environment})
    found = apart_of(same)
    assert found.parting is None, "another environment is none that parts them by itself"
    assert next(iter(environment)) in found.given[0]
    found = apart_of(same, acts={4: nudge})
    assert cause(found) == (4, "grad_norm", "2.weight", wanted)
    assert found.parting is not None
    assert next(iter(environment)) in found.parting.why


def test_another_variable_of_the_process(
    apart: Callable[..., Apart], monkeypatch: pytest.MonkeyPatch
) -> None:
    same = apart()
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert cause(apart_of(same, acts={4: nudge}))[3] == "settings"


def test_a_kernel_that_is_not_deterministic(apart: Callable[..., Apart]) -> None:
    found = apart(acts={6: nudge})
    assert cause(found) == (6, "grad_norm", "2.weight", "kernel")
    unknown = apart_of(found, acts={6: nudge}, batches=False)
    assert cause(unknown) == (6, "grad_norm", "2.weight", "unknown")


def test_another_model_and_another_length(apart: Callable[..., Apart]) -> None:
    found = apart(width=5)
    assert cause(found)[0::3] == (None, "seed"), "of other shapes, but not of other names"
    longer = apart_of(found, steps=5)
    assert cause(longer) == (5, "length", None, "length")
    model = nn.Linear(3, 1)
    rs.attach(RECIPE, model, steps=5, directory=found.one.directory.parent / "line").close()
    other = compare(found.one.directory, found.one.directory.parent / "line")
    assert cause(other) == (None, "model", None, "model")


def test_checkpoints_say_more_than_the_record(apart: Callable[..., Apart]) -> None:
    saving: dict[str, Any] = {"resume": "auto", "save_every": 4, "keep": Keep(last=9)}
    found = apart(saving, acts={2: nudge}, **saving)
    assert cause(found)[0::2] == (2, "2.weight")
    assert found.batches == 4, "the first after it"
    assert any(line.startswith("model/0.weight: ") for line in found.checkpoints)

    same = apart_of(found, **saving)
    assert same.parting is None
    assert (same.batches, same.checkpoints) == (8, []), "the newest"
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    with rs.attach(RECIPE, model, steps=STEPS, directory=same.other.directory, **saving) as run:
        # Of the optimizer's state, after the last step that is recorded.
        second = next(iter(run.optimizer.state.values()))["exp_avg_sq"]
        second[0, 0] = torch.nextafter(second[0, 0], torch.tensor(1.0))
        run.save()
    last = compare(found.one.directory, same.other.directory)
    assert cause(last) == (8, "checkpoint", "optimizer/0.weight/exp_avg_sq", "kernel")


def test_the_command(apart: Callable[..., Apart], tmp_path: Path) -> None:
    found = apart(shift={3: 1})
    one, other = str(found.one.directory), str(found.other.directory)

    def diff(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["diff", *arguments])
        return done.exit_code, done.stdout

    code, said = diff(one, other)
    assert code == 1
    assert "they part at step 3: batch: " in said
    assert "first tensor: 0.weight\ncause: other batch: " in said
    code, said = diff(one, other, "--json")
    data = json.loads(said)
    assert (code, data["same"], data["parting"]["cause"]) == (1, False, "batch")
    code, said = diff(one, one)
    assert code == 0
    assert "the same to the bit" in said
    assert json.loads(diff(one, one, "--json")[1])["same"] is True
    (tmp_path / "recipe.yaml").write_text("optimizer: sgd\nlr: 0.1\n")
    for arguments, what in (
        ((one, "nowhere"), "'nowhere' is no directory of a run, and there is no store at"),
        ((one, str(tmp_path)), "holds no run"),
        ((one, str(tmp_path / "recipe.yaml")), "two recipes or two runs"),
    ):
        done = CliRunner().invoke(app, ["diff", *arguments])
        assert isinstance(done.exception, InputError)
        assert what in str(done.exception)


def test_a_run_is_known_by_its_id(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Store.open(store) as opened:
        for study, runs in {"first": ("cosine-0", "wsd-0"), "second": ("cosine-0",)}.items():
            opened.add_study(study, study, {"plan": study})
            for name in runs:
                digest = RunRecord.read(train(opened.run_directory(study, name))).content_hash
                described = (1.0, {}, {}, digest, {}, "2026-01-01T00:00:00Z", 1.0)
                opened.add_run(study, StoredRun(name, "arm", 0, "done", *described))
    runs = store / "studies/first/runs"
    assert run_directory("first/cosine-0", str(store)) == runs / "cosine-0"
    assert run_directory("wsd-0", str(store)) == runs / "wsd-0"
    with pytest.raises(InputError, match="id of several runs: first/cosine-0, second/cosine-0"):
        run_directory("cosine-0", str(store))
    with pytest.raises(InputError, match="did you mean 'wsd-0'"):
        run_directory("wsd-00", str(store))


def test_records_are_compared_without_torch(apart: Callable[..., Apart]) -> None:
    found = apart(shift={3: 1})
    program = (
        "import sys, pathlib\n"
        "from rheostat.recipes.apart import compare\n"
        f"found = compare(pathlib.Path({str(found.one.directory)!r}), "
        f"pathlib.Path({str(found.other.directory)!r}))\n"
        "assert found.parting.cause == 'batch'\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
