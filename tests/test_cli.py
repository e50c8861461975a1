"""The command line: what it prints, its exit codes, and what it says to bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rheostat.cli.__main__ import main

RECIPE = "optimizer: sgd\nlr: 0.1\nmomentum: 0.9\n"


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def rheostat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Runs the console script's function in this process: a new one costs a second each."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["rheostat", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Done(left.value.code, said.out, said.err)

    return run


Rheostat = Callable[..., Done]


def test_help_names_every_command_and_each_has_an_example(rheostat: Rheostat) -> None:
    top = rheostat("--help")
    assert top.returncode == 0
    assert rheostat().stdout == top.stdout
    for words in (
        ["list"],
        ["show"],
        ["validate"],
        ["schema"],
        ["study", "run"],
        ["study", "report"],
        ["study", "list"],
    ):
        assert words[0] in top.stdout
        helped = rheostat(*words, "--help")
        assert helped.returncode == 0
        assert "Example: rheostat " + " ".join(words) in helped.stdout


def test_list_and_show(rheostat: Rheostat) -> None:
    listed = rheostat("list", "optimizer", "ada*")
    assert listed.returncode == 0
    assert "adamw@1" in listed.stdout
    rows = json.loads(rheostat("list", "schedule", "--json").stdout)
    assert {"cosine", "step", "constant", "cosine_restarts"} <= {row["name"] for row in rows}
    card = rheostat("show", "adamw")
    assert "arXiv:1711.05101" in card.stdout
    assert json.loads(rheostat("show", "adamw", "--json").stdout)["arguments"]["lr"] == 0.001


def test_validate_and_schema(rheostat: Rheostat, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    done = rheostat("validate", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "a valid recipe" in done.stdout
    canonical = json.loads(rheostat("validate", str(path), "--json").stdout)["canonical"]
    assert canonical["optimizer"] == "sgd@1"
    for kind in ("recipe", "study"):
        schema = json.loads(rheostat("schema", kind).stdout)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


STUDY = """\
study: Bad
question: q
hypothesis: h
why: w
workload: digits_mlp
recipe: {optimizer: sgd}
arms:
  a: {lr: 0.1}
  b: {lr: 0.2}
baseline: a
seeds: 3
steps: 10
metric: {name: test_accuracy, margin: 0.01}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("seeds: 3", "sedes: 3", 11, "did you mean 'seeds'"),
        ("seeds: 3", "seeds: 1", 11, "seeds"),
        ("seeds: 3", "seeds: [1, 1]", 11, "seeds"),
        ("steps: 10", "steps: -10", 12, "-10"),
        ("steps: 10", "steps: ten", 12, "ten"),
        ("lr: 0.2", "lr: -0.2", 9, "-0.2"),
        ("lr: 0.2", "lrr: 0.2", 9, "did you mean 'lr'"),
        ("lr: 0.2", "lr: {schedule: cosin, peak: 1}", 9, "did you mean 'cosine'"),
        ("optimizer: sgd", "optimizer: sdg", 6, "did you mean 'sgd'"),
        ("workload: digits_mlp", "workload: digits", 5, "did you mean 'digits_mlp'"),
        ("baseline: a", "baseline: c", 10, "baseline"),
        ("name: test_accuracy", "name: test_acuracy", 13, "did you mean 'test_accuracy'"),
        ("margin: 0.01", "margin: 0", 13, "margin"),
        ("why: w", "why: w\nwhy: x", 5, "why"),
        ("workload: digits_mlp", "workload: {workload: digits_mlp, batch: 1440}", 5, "1433"),
        ("  b: {lr: 0.2}", "  -b: {lr: 0.2}", 9, "letters, digits"),
    ],
)
def test_bad_studies_get_one_line_that_says_what_and_where(
    rheostat: Rheostat, tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    path = tmp_path / "bad.yaml"
    assert old in STUDY
    path.write_text(STUDY.replace(old, new, 1))
    for command in (["validate", str(path)], ["study", "run", str(path)]):
        done = rheostat(*command)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        (text,) = done.stderr.strip().splitlines()
        assert f"bad.yaml:{line}" in text
        assert said in text
    assert list(tmp_path.iterdir()) == [path], "something was written"


def test_other_bad_input(rheostat: Rheostat, tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.yaml").write_text("")
    for arguments, said in [
        (["study", "run", "missing.yaml"], "missing.yaml"),
        (["validate", "binary.yaml"], "binary.yaml"),
        (["validate", "empty.yaml"], "empty.yaml"),
        (["validate", "."], "."),
        (["show", "adamww"], "did you mean 'adamw'"),
        (["show", "adamw@7"], "adamw@1"),
        (["list", "optimizr"], "did you mean 'optimizer'"),
        (["list", "optimizer", "zzz*"], "zzz*"),
        (["schema", "stduy"], "should be 'recipe' or 'study'"),
        (["shw"], "Did you mean 'show'"),
        (["list", "--jsn"], "--jsn"),
        (["study", "report", "nothing"], "nothing"),
    ]:
        done = rheostat(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_the_environment_at_fault_is_exit_3(rheostat: Rheostat, tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(STUDY)
    (tmp_path / "file").write_text("not a folder")
    corrupt = tmp_path / "corrupt"
    corrupt.mkdir()
    (corrupt / "store.sqlite").write_bytes(b"this is no database" * 100)
    for place in (tmp_path / "file", tmp_path / "file" / "below", corrupt, Path("/proc/nowhere")):
        done = rheostat("study", "run", str(good), "--store", str(place))
        assert done.returncode == 3, done.stderr
        (text,) = done.stderr.strip().splitlines()
        assert str(place) in text
    assert (corrupt / "store.sqlite").read_bytes() == b"this is no database" * 100


def test_an_output_that_is_no_regular_file_is_left_alone(
    rheostat: Rheostat, tmp_path: Path
) -> None:
    study = tmp_path / "good.yaml"
    study.write_text(STUDY.replace("seeds: 3", "seeds: 2"))
    assert rheostat("study", "run", str(study), "--workers", "1").returncode == 0
    for output in ("/dev/null", str(tmp_path)):
        done = rheostat("study", "report", "bad", "--output", output)
        assert done.returncode == 3
        assert "no regular file" in done.stderr
        assert "equivalent" in done.stdout or "inconclusive" in done.stdout
    assert Path("/dev/null").is_char_device()
    target, link = tmp_path / "real.html", tmp_path / "link.html"
    target.write_text("old")
    link.symlink_to(target)
    assert rheostat("study", "report", "bad", "--output", str(link)).returncode == 0
    assert link.is_symlink()
    assert target.read_text().startswith("<!DOCTYPE html>")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m rheostat.cli list | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_studies_are_listed_and_reported_without_torch(rheostat: Rheostat, tmp_path: Path) -> None:
    study = tmp_path / "good.yaml"
    study.write_text(STUDY.replace("seeds: 3", "seeds: 2"))
    ran = rheostat("study", "run", str(study), "--workers", "1")
    assert ran.returncode == 0, ran.stderr
    assert "4/4" in ran.stderr
    assert "\x1b[" not in ran.stdout + ran.stderr, "colour codes in a pipe"
    (listed,) = json.loads(rheostat("study", "list", "--json").stdout)
    assert listed["runs"] == 4
    report = next((tmp_path / ".rheostat").rglob("report.html"))
    first = report.read_bytes()
    report.unlink()
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[1:] = "
        f"['study', 'report', {listed['id']!r}]; from rheostat.cli.__main__ import main; main()"
    )
    again = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    assert report.read_bytes() == first
