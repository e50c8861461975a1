"""The command line: what it prints, its exit codes, and what it says to bad input."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
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
    assert rheostat().stdout == rheostat("-h").stdout == top.stdout
    group = rheostat("study")
    assert group.returncode == 0
    assert group.stdout == rheostat("study", "--help").stdout == rheostat("study", "-h").stdout
    assert rheostat("--version").stdout == f"rheostat {version('rheostat')}\n"
    for words in (
        ["list"],
        ["show"],
        ["doctor"],
        ["validate"],
        ["schema"],
        ["study", "run"],
        ["study", "report"],
        ["study", "list"],
    ):
        assert words[0] in top.stdout
        helped = rheostat(*words, "--help")
        assert helped.returncode == 0
        assert rheostat(*words, "-h") == helped
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
    (tmp_path / "bad.yaml").write_text(STUDY)
    before = sorted(tmp_path.iterdir())
    for arguments, said in [
        (["study", "run", "missing.yaml"], "missing.yaml"),
        (["validate", "binary.yaml"], "binary.yaml"),
        (["validate", "empty.yaml"], "empty.yaml"),
        (["validate", "."], "."),
        (["show", "adamww"], "did you mean 'adamw'"),
        (["show", "adamw@7"], "adamw@1"),
        (["list", "optimizr"], "did you mean 'optimizer'"),
        (["list", "optimizer", "zzz*"], "no optimizer matches"),
        (["schema", "stduy"], "should be 'recipe' or 'study'"),
        (["shw"], "Did you mean 'show'"),
        (["list", "--jsn"], "--jsn"),
        (["study", "report", "nothing"], "there is no store at"),
        (["study", "list", "--store", "nowhere"], "nowhere/store.sqlite: `rheostat study run FILE"),
        (["study", "list", "--store", "postgresql:/me:hunter2@host/db"], "is not a database URL"),
        (["study", "run", "bad.yaml", "--store", "postgresql://me:hun@ter2@host/db"], "as %40"),
    ]:
        done = rheostat(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert said in done.stderr
        assert "hun" not in done.stderr, "a password"
        assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before, "something was written"


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


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A folder with a study file and its store, run once; and what the command said."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "good.yaml").write_text(STUDY.replace("seeds: 3", "seeds: 2"))
    command = [sys.executable, "-m", "rheostat.cli", "study", "run", "good.yaml", "--workers", "1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def good(ran: tuple[Path, Done], tmp_path: Path) -> Path:
    """The study file, in this test's directory, beside a copy of its store."""
    shutil.copytree(ran[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "good.yaml"


@pytest.mark.usefixtures("good")
def test_an_output_that_is_no_regular_file_is_left_alone(
    rheostat: Rheostat, tmp_path: Path
) -> None:
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


def shell(command: str, **environment: str) -> Done:
    """A command line of a shell, in which `rheostat` is ours."""
    script = f'set -o pipefail; rheostat() {{ {sys.executable} -m rheostat.cli "$@"; }}; {command}'
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env={**os.environ, **environment},
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("command", ["list | head -n 1", "list | true", "schema | head -n 1"])
def test_a_reader_that_leaves_early_is_no_error(command: str) -> None:
    done = shell(f"rheostat {command}")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_that_is_full_is_one_line() -> None:
    done = shell("rheostat list > /dev/full")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "cannot write the output: No space left on device" in done.stderr
    assert shell("rheostat show adamww 2> /dev/full").returncode == 2


def test_an_output_with_a_poor_encoding_gets_escapes() -> None:
    whole = shell("rheostat list", PYTHONIOENCODING="utf-8").stdout
    plain = shell("rheostat list", PYTHONIOENCODING="latin-1")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "\\u" in plain.stdout
    assert plain.stdout == whole.encode("latin-1", "backslashreplace").decode("utf-8", "replace")
    told = [
        json.loads(shell("rheostat list --json", PYTHONIOENCODING=encoding).stdout)
        for encoding in ("ascii", "latin-1:strict", "utf-8")
    ]
    assert told[0] == told[1] == told[2]
    for command in ("list", "show '\u2013é'"):
        failed = shell(f"rheostat {command}", PYTHONIOENCODING="ascii:strict", LC_ALL="C")
        assert (failed.returncode, failed.stderr.count("\n")) in {(0, 0), (2, 1)}


def test_the_console_lets_its_reader_leave() -> None:
    """Where rich meets a broken pipe it would end the process with 1; ours lets `main` decide."""
    code = (
        "from rheostat.cli.app import console\n"
        "try:\n    for _ in range(9999): console().print('x' * 60)\n"
        "except BrokenPipeError:\n    import os; os._exit(7)"
    )
    done = shell(f'{sys.executable} -c "{code}" | true')
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.usefixtures("good")
def test_studies_are_listed_and_reported_without_torch(
    rheostat: Rheostat, ran: tuple[Path, Done], tmp_path: Path
) -> None:
    assert "4/4" in ran[1].stderr
    assert "\x1b[" not in ran[1].stdout + ran[1].stderr, "colour codes in a pipe"
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


def logs() -> dict[Path, int]:
    """When each run was written."""
    return {path: path.stat().st_mtime_ns for path in Path(".rheostat").rglob("events.jsonl")}


def test_prose_is_mended_and_nothing_is_trained_again(rheostat: Rheostat, good: Path) -> None:
    before = logs()
    (first,) = json.loads(rheostat("study", "list", "--json").stdout)
    text = good.read_text().replace("why: w", "why: said better")
    good.write_text(text.replace("study: Bad", "study: Renamed"))
    assert rheostat("study", "run", str(good), "--json").returncode == 0
    (listed,) = json.loads(rheostat("study", "list", "--json").stdout)
    assert listed == {**first, "title": "Renamed", "revision": 2}
    page = Path(".rheostat/studies", listed["id"], "report.html").read_text()
    assert "said better" in page
    assert logs() == before


def test_a_changed_row_is_mended_as_the_message_says(rheostat: Rheostat, good: Path) -> None:
    index = Path(".rheostat/store.sqlite")
    before = logs()
    connection = sqlite3.connect(index)
    with connection:
        connection.execute("UPDATE runs SET metric = 99, content_hash = 'x' WHERE seed = 1")
    connection.close()
    for command in (["report", "bad"], ["report", "bad", "--json"], ["run", str(good)]):
        done = rheostat("study", *command)
        assert done.returncode == 3, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert "its row in the index was changed" in line
        assert "move it away and index what the runs' folders hold by another `rheostat" in line
    index.unlink()
    assert rheostat("study", "run", str(good)).returncode == 0
    assert rheostat("study", "report", "bad").returncode == 0
    assert logs() == before, "something was trained again"


def test_a_store_that_cannot_be_written_is_listed_and_reported(
    rheostat: Rheostat, ran: tuple[Path, Done]
) -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path's parents are closed to others
        folder = Path(name)
        shutil.copytree(ran[0] / ".rheostat", folder / "store")
        place = ["--store", str(folder / "store")]
        report = next(folder.rglob("report.html"))
        whole = report.read_bytes()
        report.unlink()
        with read_only(folder / "store"):
            (listed,) = json.loads(rheostat("study", "list", "--json", *place).stdout)
            refused = rheostat("study", "report", listed["id"], *place)
            assert refused.returncode == 3
            assert "inconclusive" in refused.stdout
            assert "--output FILE writes the report to another place" in refused.stderr
            output = ["--output", str(folder / "report.html")]
            assert rheostat("study", "report", listed["id"], *place, *output).returncode == 0
        assert (folder / "report.html").read_bytes() == whole


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Forbid writing below `folder`, also to root, who lays down that right meanwhile."""
    root = os.geteuid() == 0
    paths = [folder, *folder.rglob("*")]
    folder.parent.chmod(0o777)
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in paths:
            path.chmod(0o755)
