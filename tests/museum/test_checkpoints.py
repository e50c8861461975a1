"""Every checkpoint in the museum is sound, and a run goes on from it to where it ended."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import rheostat as rs
from rheostat.checkpoint.generations import FOLDER
from rheostat.checkpoint.load import newest
from rheostat.recipes.attach import ResumeWarning
from rheostat.recipes.recipe import Recipe

HALL = Path(__file__).parent / "checkpoints"


def _museum() -> Any:
    spec = importlib.util.spec_from_file_location("museum_checkpoints", HALL.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MUSEUM = _museum()


def test_there_is_one_of_each() -> None:
    lacking = set(MUSEUM.RECIPES) - {path.name for path in HALL.iterdir()}
    assert not lacking, "run .venv/bin/python tests/museum/checkpoints.py"


@pytest.mark.parametrize("exhibit", sorted(HALL.iterdir()), ids=lambda path: path.name)
def test_a_run_goes_on_from_it(exhibit: Path, tmp_path: Path) -> None:
    kept = json.loads((exhibit / "run.json").read_text("utf-8"))
    shutil.copytree(exhibit / FOLDER, tmp_path / FOLDER)
    saved = newest(tmp_path / FOLDER)
    assert saved is not None
    assert not saved.passed_over
    assert saved.documents["recipe"]["hash"] == Recipe.load(kept["recipe"]).hash == kept["hash"]
    net = MUSEUM.model()
    with warnings.catch_warnings():
        # The environment is another one, and the bits may be.
        warnings.simplefilter("ignore", ResumeWarning)
        run = rs.attach(kept["recipe"], net, directory=tmp_path, resume="must")
    assert run.batches == MUSEUM.HALF
    with run:
        MUSEUM.train(run, net, MUSEUM.WHOLE - MUSEUM.HALF)
    for name, param in net.named_parameters():
        expected = torch.tensor(kept["ends"][name]).reshape(param.shape)
        torch.testing.assert_close(param.detach(), expected, rtol=1e-5, atol=1e-6)
