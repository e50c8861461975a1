"""rheostat audit: one run as a timeline, many as a table, errors on one line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.references import audited

from rheostat.cli.__main__ import main
from rheostat.record.log import EventLog
from rheostat.record.run import LOG_NAME, RunRecord
from rheostat.record.store import Store, StoredRun
from rheostat.regimes.account import Account

GUIDE = (Path(__file__).parents[1] / "docs" / "guide" / "regimes.md").read_text("utf-8")

Done = tuple[int, str, str]
Rheostat = Callable[..., Done]


@pytest.fixture
def rheostat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rheostat:
    """Runs the console script's function in this process: exit code, output and errors."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["rheostat", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with a regime, of two sizes, and one without."""
    folder = tmp_path_factory.mktemp("runs")
    for name, size in (("a", 1000), ("b", 1000), ("c", 20000)):
        audited.write_run(folder / name, {"model": {"parameters": size}, "arm": name})
    audited.write_run(folder / "plain", {"arm": "plain"}, regime=False)
    return folder


@pytest.fixture
def store(runs: Path, tmp_path: Path) -> str:
    """The runs a and c, in a store; returns its place."""
    with Store.open(tmp_path / "store") as opened:
        opened.add_study("sizes", "Sizes", {"arms": {}})
        for name in ("a", "c"):
            directory = opened.run_directory("sizes", f"{name}.0")
            shutil.copytree(runs / name, directory)
            record = RunRecord.read(directory)
            row = {"id": f"{name}.0", "arm": name, "seed": 0, "status": "done", "metric": 1.0}
            about: dict[str, Any] = {
                "environment": {},
                "started": "2026-11-22T00:00:00Z",
                "seconds": 1.0,
            }
            made: dict[str, Any] = {**row, **about, "metrics": {}, "fingerprints": {}}
            opened.add_run("sizes", StoredRun(content_hash=record.content_hash, **made))
    return str(tmp_path / "store")


def test_it_has_an_example(rheostat: Rheostat) -> None:
    code, told, _ = rheostat("audit", "--help")
    assert code == 0
    assert "Example: rheostat audit runs/a --controller plateau" in " ".join(told.split())


def test_a_timeline_and_its_filters(rheostat: Rheostat, runs: Path) -> None:
    code, told, errors = rheostat("audit", str(runs / "b"))
    assert (code, errors) == (0, "")
    assert told.startswith(f"{runs / 'b'}: 400 batches, done\n")
    assert "safeguard" in told
    for options, batches in (
        (["--controller", "plateau", "--verdict", "refused"], [70]),
        (["--who", "user", "--who", "arbiter"], [300, 330]),
        (["--hyperparameter", "lr", "--from", "120", "--to", "281"], [120, 150, 281]),
        (["--controller", "early_stop"], []),
    ):
        code, told, _ = rheostat("audit", str(runs / "b"), *options, "--json")
        assert code == 0
        assert [entry["batch"] for entry in json.loads(told)["entries"]] == batches


def test_the_guide_shows_what_is_printed(rheostat: Rheostat) -> None:
    audited.write_run(Path("runs/a"))
    (shown,) = re.findall(r"```\n\$ rheostat (audit .*?)\n(.*?)```", GUIDE, re.DOTALL)
    assert rheostat(*shown[0].split()) == (0, shown[1], "")


def test_accounts_come_back_from_the_json(rheostat: Rheostat, runs: Path) -> None:
    found = json.loads(rheostat("audit", str(runs / "b"), "--json")[1])
    first = Account.read(found["entries"][0]["account"])
    assert first == audited.accounts()[84][0]


def test_patterns_across_runs(rheostat: Rheostat, runs: Path) -> None:
    directories = [str(runs / name) for name in ("b", "c", "plain")]
    code, told, _ = rheostat("audit", *directories, "--by", "model.parameters", "--who", "plateau")
    assert code == 0
    assert told == (
        "30 decisions in 3 runs\n\n"
        "model.parameters  controller  verdict  hyperparameter  decisions  runs  loss after  of\n"
        "1000              plateau     refused  lr                     14     1       −12 %   1\n"
        "1000              plateau     bounded  lr                      1     1       −20 %   1\n"
        "20000             plateau     refused  lr                     14     1       −12 %   1\n"
        "20000             plateau     bounded  lr                      1     1       −20 %   1\n"
    )
    code, told, _ = rheostat("audit", *directories, "--json", "--where", "arm=[bp]*")
    found = json.loads(told)
    assert (found["runs"], sum(row["decisions"] for row in found["patterns"])) == (2, 21)


def test_all_runs_of_a_store(rheostat: Rheostat, store: str) -> None:
    found = json.loads(rheostat("audit", "--all", "--store", store, "--by", "arm", "--json")[1])
    assert found["runs"] == 2
    assert {row["group"] for row in found["patterns"]} == {"a", "c"}
    code, told, _ = rheostat("audit", "a.0", "--store", store)
    assert (code, told.splitlines()[-1]) == (0, "once")
    # A damaged run is told of, and the others are counted.
    log = Path(store) / "studies" / "sizes" / "runs" / "a.0" / LOG_NAME
    log.write_bytes(log.read_bytes().replace(b"plateau", b"platoon"))
    code, told, errors = rheostat("audit", "--all", "--store", store)
    assert (code, told.splitlines()[0]) == (1, "21 decisions in 1 run")
    assert len(errors.splitlines()) == 1
    assert "checksum" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "'nowhere' is no directory of a run, and there is no store at"),
        (["{runs}/plain"], "there is nothing to audit: the run had no regime"),
        (["{runs}/b", "--controller", "platau"], "did you mean 'plateau'?"),
        (["{runs}/b", "--hyperparameter", "lrr"], "did you mean 'lr'?"),
        (["{runs}/b", "--verdict", "acepted"], "did you mean 'accepted'?"),
        (["{runs}/b", "--by", "model.parametres"], "did you mean 'model.parameters'?"),
        (["{runs}/b", "--where", "arm"], "should be KEY=PATTERN"),
        (["{runs}/b", "{runs}/plain", "--html", "x.html"], "--html draws one run"),
        ([], "name the runs, or give --all"),
        (["{runs}/b", "--all"], "name the runs, or give --all"),
    ],
)
def test_errors_take_one_line(
    rheostat: Rheostat, runs: Path, arguments: list[str], words: str
) -> None:
    code, told, errors = rheostat("audit", *(text.format(runs=runs) for text in arguments))
    assert (code, told) == (2, "")
    assert words in errors
    assert errors.startswith("rheostat: ")
    assert errors.count("\n") == 1


def test_a_regime_that_decided_nothing_is_told_from_none(rheostat: Rheostat, runs: Path) -> None:
    quiet = Path("quiet")
    with audited.RunWriter(quiet, {"recipe": {"regime": ["plateau@1"]}}) as run:
        run.step(0, {"loss": 1.0})
        run.event("skipped", {"step": 0, "reason": "a NaN"})
    code, told, _ = rheostat("audit", str(quiet))
    assert (code, told.splitlines()[-1]) == (0, "no decisions: its regime decided nothing")


def test_a_damaged_record_is_named(rheostat: Rheostat) -> None:
    audited.write_run(Path("run"))
    log = Path("run") / LOG_NAME
    log.write_bytes(log.read_bytes().replace(b"plateau", b"platoon"))
    code, told, errors = rheostat("audit", "run")
    assert (code, told) == (2, "")
    assert f"{log}:" in errors
    log.unlink()
    EventLog.create(log).close()
    assert "holds no run" in rheostat("audit", "run")[2]
