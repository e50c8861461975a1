"""A study of components that a person names with --plugin: its workers know them too."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from rheostat.cli.__main__ import main
from rheostat.lab import execute
from rheostat.lab.worker import work

PLUGIN = '''
import rheostat as rs


@rs.register("optimizer", "plain_descent", deprecated="use sgd; goes in 9.0")
def plain_descent(lr: float = 0.1) -> rs.Transform:
    """Descent without anything."""
    return rs.chain(rs.transforms.scale_by_learning_rate(lr))
'''
STUDY = """\
study: Named
question: Do the workers know it?
hypothesis: They do.
why: To test that they are told.
workload: {workload: digits_mlp, batch: 64, hidden: 8}
recipe: {optimizer: plain_descent}
arms:
  slow: {lr: 0.01}
  fast: {lr: 0.1}
baseline: slow
seeds: 2
steps: 3
metric: {name: test_accuracy, margin: 0.005}
"""


class StoppedError(Exception):
    """What ends the command below before anything is trained."""


def test_the_workers_of_a_study_are_told_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_descent.py").write_text(PLUGIN)
    (tmp_path / "named.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    told: list[tuple[Any, ...]] = []

    def spawn(target: Any, args: tuple[Any, ...], daemon: bool) -> None:
        assert target is work
        told.append(args)
        raise StoppedError

    context = types.SimpleNamespace(Pipe=lambda: (None, None), Process=spawn)
    monkeypatch.setattr(execute.multiprocessing, "get_context", lambda _: context)
    arguments = ["study", "run", "named.yaml", "--plugin", "my_descent"]
    monkeypatch.setattr(sys, "argv", ["rheostat", *arguments])
    with pytest.raises(StoppedError), pytest.warns(FutureWarning, match="use sgd; goes in"):
        main()
    [(_, plan, _, _, plugins)] = told
    assert plan["arms"]["slow"]["optimizer"] == "plain_descent@1"
    assert "my_descent" in plugins


@pytest.mark.slow
def test_the_workers_of_a_study_import_what_was_typed(tmp_path: Path) -> None:
    (tmp_path / "my_descent.py").write_text(PLUGIN)
    (tmp_path / "named.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "rheostat.cli", "study", "run", "named.yaml"]
    options = {"capture_output": True, "text": True, "check": False, "cwd": tmp_path}
    done = subprocess.run(  # noqa: PLW1510  (check is among the options)
        [*command, "--workers", "1", "--plugin", "my_descent"], **options
    )
    assert done.returncode == 0, done.stderr
    assert "4/4" in done.stderr
    # A deprecation is one line, and shows nobody a line of ours.
    warned = [line for line in done.stderr.splitlines() if "is deprecated" in line]
    assert warned
    assert all("warnings.warn" not in line for line in done.stderr.splitlines())
    unknown = subprocess.run(command, **options)  # noqa: PLW1510  (check is among the options)
    assert unknown.returncode == 2
    assert "no optimizer is named 'plain_descent'" in unknown.stderr
