"""`rheostat checkpoint migrate` and `convert`: what is changed, and what comes from elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoint.conftest import save
from tests.checkpoint.test_foreign import Evil
from torch import nn

import rheostat as rs
from rheostat.checkpoint.generations import FOLDER, generations
from rheostat.checkpoint.load import newest
from rheostat.cli.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:.*RH019")  # a large lr, on purpose

Run = Callable[..., tuple[int, str, str]]

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))

def build_longer():
    net = build()
    net.append(nn.Linear(1, 1))
    return net
"""
RECIPE = "optimizer: adamw\nlr: {schedule: cosine, peak: 0.1}\n"


@pytest.fixture
def rheostat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Runs `rheostat checkpoint`; returns exit code, output and errors."""
    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "own_net", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rheostat", "checkpoint", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err

    return run


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def train(net: nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()


def kept(net: nn.Module, steps: int = 4) -> None:
    """A run in the directory "run"."""
    with rs.attach("recipe.yaml", net, steps=20, directory="run", resume="auto") as run:
        for step in range(steps):
            train(net, run.optimizer, range(step, step + 1))
        run.save(wait=True)


def test_migrate_names_writes_another_generation(rheostat: Run) -> None:
    kept(model())
    code, said, _ = rheostat("migrate", "run", "--rename", "2.=exit.")
    folder = Path("run").resolve() / FOLDER
    assert (code, said) == (0, f"wrote {folder / '00000002-step-4'}\n")
    assert [found.number for found in generations(folder)] == [1, 2]
    found = newest(folder)
    assert found is not None
    assert {"exit.weight", "exit.bias"} <= found.tensors["model"].keys()
    again = rheostat("migrate", "run", "--rename", "2.=exit.")
    assert again[0] == 0
    assert "made by these changes" in again[1]
    code, said, _ = rheostat("migrate", "run", "elsewhere", "--rename", "exit.=2.", "--json")
    assert code == 0
    assert [found.step for found in generations(Path("elsewhere"))] == [4]
    assert "nothing" not in said
    assert rheostat("migrate", "run")[:2] == (
        0,
        f"{folder / '00000002-step-4'} is of the newest format, and no change was asked for\n",
    )


def test_migrate_to_another_model_and_go_on(rheostat: Run) -> None:
    kept(model())
    options = ("--add", "3.*", "--model", "own_net:build_longer")
    assert rheostat("migrate", "run", *options)[0] == 0
    longer = model()
    longer.append(nn.Linear(1, 1))
    with rs.attach("recipe.yaml", longer, steps=20, directory="run", resume="must") as run:
        steps = [int(state["step"]) for state in run.optimizer.state.values()]
    assert steps == [4, 4, 4, 4, 4, 4, 0, 0]


def test_trainers_files_become_a_run_and_come_back(rheostat: Run, tmp_path: Path) -> None:
    net = model()
    named = dict(net.named_parameters())
    decayed, plain = ["0.weight", "2.weight"], ["0.bias", "1.weight", "1.bias", "2.bias"]
    groups = [{"params": [named[n] for n in names]} for names in (decayed, plain)]
    other = torch.optim.AdamW(groups, lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(other, 20)
    for step in range(4):
        train(net, other, range(step, step + 1))
        cosine.step()
    torch.save(other.state_dict(), "optimizer.pt")
    save_file(net.state_dict(), "model.safetensors")
    code, said, errors = rheostat(
        *("convert", "optimizer.pt", f"run/{FOLDER}", "--from", "torch/AdamW", "--trainer"),
        *("--recipe", "recipe.yaml", "--steps", 20, "--model", "own_net:build"),
        *("--weights", "model.safetensors"),
    )
    assert (code, errors) == (0, "")
    assert "00000001-step-4" in said
    mine = model()
    with rs.attach("recipe.yaml", mine, steps=20, directory="run", resume="must") as run:
        assert run.batches == 4
        for step in range(4, 8):
            train(net, other, range(step, step + 1))
            cosine.step()
            train(mine, run.optimizer, range(step, step + 1))
        for a, b in zip(mine.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    code, *_ = rheostat(
        *("convert", "run", "back.pt", "--to", "torch/AdamW", "--model", "own_net:build")
    )
    assert code == 0
    back = torch.load("back.pt", weights_only=True)
    saved = torch.load("optimizer.pt", weights_only=True)
    order = [*decayed, *plain]
    names = back["param_groups"][0]["param_names"]
    for index, entry in saved["state"].items():
        for key, value in entry.items():
            assert torch.equal(back["state"][names.index(order[index])][key], value)


def test_bad_input_is_one_line_and_exit_2(rheostat: Run) -> None:
    kept(model())
    save(Path("other"), 1)
    torch.save({"a": Evil()}, "evil.pt")
    torch.save({"a": 1}, "other.pt")
    torch.save(model().state_dict(), "weights.pt")
    torch.save({"x": torch.ones(2)}, "wrong.pt")
    made = ("--recipe", "recipe.yaml", "--steps", 20, "--model", "own_net:build", "--weights")
    adamw = ("run/x", "--from", "torch/AdamW")
    for arguments, says in (
        (("migrate", "run", "--rename", "a"), "--rename a: should be OLD=NEW"),
        (("migrate", "run", "--rename", "3.=4."), "no parameter is named 3."),
        (("migrate", "run", "--add", "3.*"), "needs the model"),
        (("migrate", "run", "--drop", "0.*", "--recipe", "recipe.yaml"), "needs the model: --mod"),
        (("migrate", "other", "--drop", "weight"), "is no checkpoint of a run"),
        (("convert", "evil.pt", *adamw, *made, "weights.pt"), "cannot be read as plain data"),
        (("convert", "other.pt", *adamw, *made, "weights.pt"), "holds no optimizer's state dict"),
        (("convert", "other.pt", *adamw, *made, "wrong.pt"), "wrong.pt does not fit the model"),
        (("convert", "other.pt", *adamw), "needs --recipe, --model and --weights"),
        (("convert", "run", "x.pt", "--to", "torch/AdamW"), "should be 'torch', or a key"),
        (("convert", "run", "x.pt", "--to", "torch/SGD", *made[4:6]), "does not compute adamw"),
    ):
        code, said, errors = rheostat(*arguments)
        assert (code, said) == (2, ""), arguments
        assert len(errors.splitlines()) == 1
        assert says in errors
    assert len(generations(Path("run") / FOLDER)) == 1
