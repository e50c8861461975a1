"""`rheostat checkpoint`: what it prints, its exit codes, what it says to bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.checkpoint.conftest import content, same_tensors, save

from rheostat.checkpoint.save import write
from rheostat.cli.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:.*RH019")  # a large lr, on purpose

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rheostat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the console script's function; returns exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rheostat", "checkpoint", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err

    return run


def test_every_command_has_an_example(rheostat: Run) -> None:
    for name in ("list", "verify", "show", "diff", "migrate", "convert"):
        code, said, _ = rheostat(name, "--help")
        assert code == 0
        assert f"Example: rheostat checkpoint {name} " in said


def test_list_takes_a_run_its_checkpoints_or_one(rheostat: Run, directory: Path) -> None:
    paths = [save(directory, 10), save(directory, 20, score=0.5)]
    for given in (directory.parent, directory):
        code, said, _ = rheostat("list", given)
        assert code == 0
        assert [line.split()[0] for line in said.splitlines()] == [str(path) for path in paths]
    assert "score 0.5" in said
    _, one, _ = rheostat("list", paths[0], "--json")
    (row,) = json.loads(one)
    assert (row["step"], row["score"], Path(row["path"])) == (10, None, paths[0])
    (paths[0] / "manifest.json").write_text("{}")
    code, said, _ = rheostat("list", directory)
    assert code == 0
    assert "DAMAGED" in said.splitlines()[0]


def test_verify_finds_a_flipped_bit(rheostat: Run, directory: Path) -> None:
    paths = [save(directory, 10), save(directory, 20)]
    code, said, _ = rheostat("verify", directory)
    assert code == 0
    assert said == f"ok       {paths[0]}\nok       {paths[1]}\n"
    file = paths[0] / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    code, said, _ = rheostat("verify", directory)
    assert code == 1
    assert f"DAMAGED  {file} is not as it was written" in said
    code, said, _ = rheostat("verify", directory, "--json")
    assert code == 1
    assert [row["whole"] for row in json.loads(said)] == [False, True]
    assert rheostat("verify", paths[1])[0] == 0


def test_show_names_what_is_there_and_what_was_passed_over(rheostat: Run, directory: Path) -> None:
    save(directory, 10)
    code, said, errors = rheostat("show", directory)
    assert (code, errors) == (0, "")
    assert "transposed  float32[3, 2]" in said
    assert '"seed": 10' in said
    (save(directory, 20) / "run.json").unlink()
    code, said, errors = rheostat("show", directory, "--json")
    assert code == 0
    assert "passed over" in errors
    shown = json.loads(said, parse_constant=pytest.fail)
    assert shown["step"] == 10
    assert shown["tensors"]["model"]["half"] == {"dtype": "bfloat16", "shape": [5]}
    assert shown["documents"]["run"] == {**content(10)[1]["run"], "best": "Infinity"}


def test_diff_names_the_differences(rheostat: Run, directory: Path, tmp_path: Path) -> None:
    save(directory, 10)
    tensors, documents = content(10)
    other = tmp_path / "other"
    write(other, 11, tensors, documents)
    code, said, _ = rheostat("diff", directory, other)
    assert code == 0
    assert "the same to the bit" in said
    tensors["optimizer"]["step"][1] += 1
    write(other, 12, tensors, documents)
    code, said, _ = rheostat("diff", directory, other)
    assert code == 1
    assert "optimizer/step: 1 of 2 elements differ, the first at [1]" in said
    code, said, _ = rheostat("diff", directory, other, "--json")
    assert code == 1
    assert len(json.loads(said)["differences"]) == 1


def test_convert_there_and_back(rheostat: Run, directory: Path, tmp_path: Path) -> None:
    weights = {"w": torch.arange(3.0), "n": {"b": torch.ones(2)}}
    torch.save(weights, tmp_path / "old.pt")
    code, said, _ = rheostat("convert", tmp_path / "old.pt", directory, "--step", 7)
    assert (code, said) == (0, f"wrote {directory / '00000001-step-7'}\n")
    code, said, _ = rheostat("convert", directory, tmp_path / "new.pt", "--to", "torch", "--json")
    assert code == 0
    assert json.loads(said) == {"path": str(tmp_path / "new.pt")}
    back = torch.load(tmp_path / "new.pt", weights_only=True)
    same_tensors({"w": back["w"], "b": back["n"]["b"]}, {"w": weights["w"], "b": torch.ones(2)})


def test_bad_input_is_one_line_and_exit_2(rheostat: Run, directory: Path, tmp_path: Path) -> None:
    path = save(directory, 1)
    (path / "run.json").unlink()
    for arguments in (
        ("list", tmp_path / "none"),
        ("show", directory),
        ("show", path),
        ("diff", directory, directory),
        ("convert", tmp_path / "none.pt", directory),
        ("convert", directory, tmp_path / "x", "--to", "jax"),
    ):
        code, said, errors = rheostat(*arguments)
        assert (code, said) == (2, ""), arguments
        assert len(errors.splitlines()) == 1
        assert errors.startswith("rheostat: ")
