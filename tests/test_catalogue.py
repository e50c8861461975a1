"""`list`, `show`, the cards as pages, and the recipes on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from tests.references.table import strangers_gone

import rheostat as rs
from rheostat.cli.__main__ import main
from rheostat.conformance.subject import model
from rheostat.core.component import Component

OPTIMIZERS = [c for c in rs.components("optimizer") if c.ours]
PAGES = Path(__file__).parent.parent / "docs" / "catalogue"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rheostat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rheostat", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err

    return run


def _names(rheostat: Command, *options: str) -> set[str]:
    code, out, _ = rheostat("list", *options, "--json")
    assert code == 0
    return {row["name"] for row in json.loads(out)}


def test_search_by_kind_pattern_tag_and_capability(rheostat: Command) -> None:
    assert {"restart_sgdr", "restart_once"} <= _names(rheostat, "restart-*")
    assert _names(rheostat, "optimizer", "schedule-free-*") == {
        f"schedule_free_{rule}" for rule in ("adamw", "radam", "sgd")
    }
    assert _names(rheostat, "--sparse") == {"sgd", "adagrad", "sparse_adam"}
    second = {"lbfgs", "psgd_kron", "shampoo", "soap", "sophia"}
    assert _names(rheostat, "--second-order") == second
    assert _names(rheostat, "--second-order", "--matrix") == second - {"lbfgs", "sophia"}
    small = _names(rheostat, "--state-bytes", "4")
    assert {"sgd", "lion", "adafactor", "galore", "muon"} <= small
    assert not {"adamw", "adam_mini", "novograd"} & small, "a byte more is too many"
    assert _names(rheostat, "--tag", "sign", "--tag", "full-batch") == {"rprop"}
    assert _names(rheostat, "optimizer", "torch/Ada*") >= {"torch/AdamW", "torch/Adagrad"}


def test_what_is_not_there_is_said(rheostat: Command) -> None:
    code, _, err = rheostat("check", "torch/AdamW")
    assert code == 2
    assert "its library's own" in err
    for words, said in (
        (["optimizer", "nothing*"], "no optimizer matches 'nothing*'"),
        (["optimisers"], "did you mean 'optimizer'"),
        (["--tag", "nothing"], "no component matches '*' and the options"),
    ):
        code, _, err = rheostat("list", *words)
        assert code == 2
        assert said in err
        assert len(err.strip().splitlines()) == 1


def test_a_list_ends_with_the_other_libraries(rheostat: Command) -> None:
    _, out, _ = rheostat("list", "optimizer")
    assert "rheostat list 'torch/*'" in out
    assert "torch/AdamW" not in out
    _, out, _ = rheostat("list", "torch/*")
    assert "torch/AdamW" in out
    refused = next(line for line in out.splitlines() if "torch/LambdaLR" in line)
    assert refused.startswith("refused")
    assert "lr_lambda cannot be given as data" in refused


def test_a_card_says_everything(rheostat: Command) -> None:
    _, text, _ = rheostat("show", "muon")
    for part in (
        "b ← momentum · b",
        "usual: [1e-3, 0.1] (spectral norm); more learns faster",
        "4*m*n bytes for m × n",
        "4 bytes of state an element of a hidden float32 matrix of 1024 × 1024; at least 5 reads",
        "with the same number of threads",
        "sparse gradients; complex parameters; shards of a parameter without the whole",
        "Converges, in theory",
        "{optimizer: muon",
        "kellerjordan.github.io",
    ):
        assert part in text
    card = json.loads(rheostat("show", "adamw", "--json")[1])
    assert card["traits"]["state_bytes"] == 8
    assert card["hyperparameters"]["betas"]["usual"] == [[0.8, 0.95], [0.95, 0.9999]]
    assert card["notes"]["Use"].startswith("first")
    assert "any number of threads" in rheostat("show", "adamw")[1]
    assert "a closure" in rheostat("show", "lbfgs")[1]
    assert "peak" in rheostat("show", "cosine")[1]
    assert "Cost\n  One read of the gradients." in rheostat("show", "gradient_norm")[1]
    assert json.loads(rheostat("show", "gradient_norm", "--json")[1])["cost"]
    assert "fused = None" in rheostat("show", "torch/AdamW")[1]


def test_a_module_of_ones_own_takes_part(rheostat: Command, tmp_path: Path) -> None:
    (tmp_path / "typed_by_hand.py").write_text(
        "import rheostat as rs\n\n\n"
        '@rs.register("transform", "typed_by_hand", deprecated="use trace; goes in 1.0")\n'
        "def typed_by_hand() -> rs.Transform:\n"
        '    """A piece of mine."""\n'
        "    return rs.Transform(lambda u, s, p, h: u)\n"
    )
    with strangers_gone():
        _, out, _ = rheostat("list", "transform", "typed*", "--plugin", "typed_by_hand")
        assert "A piece of mine. (deprecated: use trace; goes in 1.0)" in out
        assert "Deprecated: use trace" in rheostat("show", "typed_by_hand")[1]
    code, _, err = rheostat("list", "--plugin", "no_such_module")
    assert code == 2
    assert "the plug-in 'no_such_module': ModuleNotFoundError" in err


def _recipe(component: Component) -> dict[str, Any]:
    return YAML(typ="safe").load(component.card.notes["Recipe"])


@pytest.mark.parametrize("component", OPTIMIZERS, ids=lambda c: c.ref)
def test_the_recipe_on_the_card_trains(component: Component) -> None:
    recipe = _recipe(component)
    assert recipe["optimizer"] == component.name
    for name, value in recipe.items():
        number = value["peak"] if isinstance(value, dict) else value
        for low, high in component.card.usual(name)[:1]:
            # Small networks take small blocks, ranks and warm-ups; a rate is as usual.
            assert low <= number <= high or isinstance(number, int), f"{name} is not usual"
    net = model()
    tokens = torch.randint(0, 7, (64,), generator=torch.Generator().manual_seed(1))
    target = torch.sin(tokens[:, None] * torch.tensor([1.0, 2.0, 3.0]))

    def loss() -> torch.Tensor:
        return (net(tokens) - target).square().mean()

    before = loss().item()
    opt = rs.Recipe.load(recipe).bind(200).build(net)
    for _ in range(200):

        def closure() -> torch.Tensor:
            opt.zero_grad()
            value = loss()
            value.backward()
            return value

        opt.step(closure)
    with torch.no_grad(), opt.averaged():
        assert loss().item() < before / 4


def test_the_pages_are_the_cards(rheostat: Command, tmp_path: Path) -> None:
    rheostat("list", "optimizer", "--no-plugins", "--markdown", str(tmp_path / "pages"))
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "pages").iterdir()}
    # Other tests of this process may have registered optimizers of their own.
    written = {name: written[name] for name in [f"{c.ref}.md" for c in OPTIMIZERS]}
    kept = {path.name: path.read_text("utf-8") for path in PAGES.glob("*@*.md")}
    assert kept == written, "run: rheostat list optimizer --no-plugins --markdown docs/catalogue"
