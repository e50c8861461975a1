"""The store keeps what it is told, and notices what was changed."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rheostat.core.errors import InputError, MachineError
from rheostat.record.run import LOG_NAME, SERIES_NAME, RunRecord, compact_run
from rheostat.record.store import Store, StoredRun
from rheostat.record.writer import RunWriter

PLAN = {"seeds": [1, 2], "margin": 0.01, "worst": math.inf}


def stored(record: RunRecord, run_id: str, **changes: Any) -> StoredRun:
    run = StoredRun(
        id=run_id,
        arm="cosine",
        seed=1,
        status=record.status,
        metric=record.metrics["accuracy"],
        metrics=record.metrics,
        fingerprints={"final": record.fingerprint, "initial": "a"},
        content_hash=record.content_hash,
        environment={"python": "3.11", "threads": 1},
        started="2024-01-01T00:00:00+00:00",
        seconds=1.25,
    )
    return dataclasses.replace(run, **changes)


def perform(store: Store, run_id: str, *, metric: float = 0.5, **changes: Any) -> StoredRun:
    """Write a finished run into the store's folder and index it."""
    directory = store.run_directory("digits", run_id)
    with RunWriter(directory, {"seed": 1}) as writer:
        writer.step(0, {"loss": 1.0}, "b0")
        writer.finish("done", {"accuracy": metric}, "f")
    compact_run(directory)
    run = stored(RunRecord.read(directory), run_id, **changes)
    store.add_run("digits", run)
    return run


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder with a store of one study and two runs."""
    with Store.open(tmp_path / "store") as store:
        store.add_study("digits", "Restarts", PLAN)
        perform(store, "cosine-1")
        perform(store, "cosine-2", seed=2)
        assert store.verify("digits") == []
    return tmp_path / "store"


def tamper(folder: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(folder / "store.sqlite")
    assert connection.execute(statement, values).rowcount == 1
    connection.commit()
    connection.close()


def problems(folder: Path) -> list[str]:
    with Store.open(folder) as store:
        return store.verify("digits")


def test_the_default_is_a_folder_in_the_working_directory() -> None:
    with Store.open() as store:
        assert store.root == Path.cwd() / ".rheostat"
        assert store.studies() == []
    assert Path(".rheostat/store.sqlite").is_file()


def test_what_is_added_is_read_back_also_by_another_process(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        study = store.add_study("digits", "Restarts — “warm”", PLAN)
        run = perform(store, "r")
    script = f"""
from rheostat.record.store import Store
with Store.open({str(tmp_path)!r}) as store:
    print([store.study("digits"), store.runs("digits")])
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert said.stdout.decode().strip() == repr([study, [run]])
    assert study.plan == {"seeds": [1, 2], "margin": 0.01, "worst": "inf"}


@pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf, -0.0, 3.0, 5e-324, 0.1])
def test_any_metric_is_kept_and_its_row_holds(tmp_path: Path, metric: float) -> None:
    with Store.open(tmp_path) as store:
        store.add_study("digits", "t", PLAN)
        perform(store, "r", metric=metric)
        assert store.verify("digits") == []
        run = store.runs("digits")[0]
        assert repr(run.metric) == repr(metric + 0.0)
        assert repr(run.metrics["accuracy"]) == repr(metric)


def test_runs_come_in_one_order_whatever_order_they_were_added_in(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_study("digits", "t", PLAN)
        for arm, seed in [("step", 2), ("cosine", 10), ("step", 1), ("cosine", 9)]:
            perform(store, f"{arm}-{seed}", arm=arm, seed=seed)
        assert [run.id for run in store.runs("digits")] == [
            "cosine-9",
            "cosine-10",
            "step-1",
            "step-2",
        ]
        assert store.runs("none") == []


def test_prose_is_revised_and_the_plan_stays(filled: Path) -> None:
    with Store.open(filled) as store:
        first = store.study("digits")
        assert (first.title, first.words, first.revision) == ("Restarts", {}, 1)
        for number, words in enumerate(({"why": "a"}, {"why": "b"}, {"why": "a"}), 2):
            for _ in range(2):  # the second time changes nothing
                revised = store.add_study("renamed", "Warm restarts", PLAN, words)
            assert revised == dataclasses.replace(
                first, title="Warm restarts", words=words, revision=number
            )
            assert store.study("digits") == revised
        assert [study.id for study in store.studies()] == ["digits"]
    assert problems(filled) == []
    tamper(filled, "UPDATE revisions SET words = '{}' WHERE number = 3")
    assert problems(filled) == [
        "study digits: revision 3 of its words in the index was changed",
    ]


def test_a_lost_index_is_made_again_under_the_same_ids(filled: Path) -> None:
    (filled / "store.sqlite").unlink()
    with Store.open(filled) as store:
        assert store.add_study("renamed", "A new title", PLAN).id == "digits"
        assert [p.split(":")[0] for p in store.verify("digits")] == ["run cosine-1", "run cosine-2"]


def test_a_changed_row_is_not_built_on(filled: Path) -> None:
    tamper(filled, "UPDATE studies SET plan = '{}'")
    with (
        Store.open(filled) as store,
        pytest.raises(MachineError, match=r"row .* was changed; restore .* another `rheostat"),
    ):
        store.add_study("digits", "t", PLAN)


def test_adding_again_changes_nothing_and_other_content_is_refused(filled: Path) -> None:
    with Store.open(filled) as store:
        before = store.study("digits"), store.runs("digits")
        store.add_study("digits", "Restarts", PLAN)
        first = before[1][0]
        store.add_run("digits", dataclasses.replace(first, started="later", seconds=9.0))
        assert (store.study("digits"), store.runs("digits")) == before
        with pytest.raises(InputError, match="'digits' with another plan"):
            store.add_study("digits", "t", {**PLAN, "margin": 0.02})
        with pytest.raises(InputError, match=r"'cosine-1' .*other numbers"):
            store.add_run("digits", dataclasses.replace(first, content_hash="0" * 64))
        with pytest.raises(InputError, match="no study 'digit'; did you mean 'digits'"):
            store.add_run("digit", first)
        assert (store.study("digits"), store.runs("digits")) == before
    assert problems(filled) == []


def test_a_study_is_found_by_a_beginning_that_only_it_has(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        for name in ("digits", "digits-2", "moons"):
            store.add_study(name, name, {**PLAN, "arms": name})
        assert [study.id for study in store.studies()] == ["digits", "digits-2", "moons"]
        assert store.study("m").id == "moons"
        assert store.study("digits").id == "digits"
        assert store.study("digits-").id == "digits-2"
        assert store.study(store.study("moons").plan_hash).id == "moons"
        with pytest.raises(InputError, match="several studies: digits, digits-2"):
            store.study("dig")
        with pytest.raises(InputError, match="did you mean 'moons'"):
            store.study("moonz")
        with pytest.raises(InputError, match="no study ''"):
            store.study("")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "x" * 201, "é", "a\n"])
def test_an_id_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path) as store:
        with pytest.raises(InputError, match="is not an id"):
            store.add_study(name, "t", PLAN)
        assert store.studies() == []
        store.add_study("digits", "t", PLAN)
        with pytest.raises(InputError, match="is not an id"):
            store.run_directory("digits", name)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "diverged"),
        ("metric", 0.5000000000000001),
        ("metric", None),
        ("metrics", '{"accuracy":0.6}'),
        ("metrics", "{"),
        ("metrics", b"\xff\x00"),
        ("seed", 7),
        ("arm", "step"),
        ("fingerprints", "{}"),
        ("environment", "{}"),
        ("seconds", 0.1),
        ("content_hash", "0" * 64),
        ("path", "elsewhere"),
        ("row_hash", "0" * 64),
    ],
)
def test_a_changed_run_row_is_noticed_and_named(filled: Path, column: str, value: object) -> None:
    tamper(filled, f"UPDATE runs SET {column} = ? WHERE id = 'cosine-2'", value)
    assert problems(filled) == ["run cosine-2: its row in the index was changed"]


@pytest.mark.parametrize("column", ["title", "plan", "created"])
def test_a_changed_study_row_is_noticed(filled: Path, column: str) -> None:
    tamper(filled, f"UPDATE studies SET {column} = '{{}}'")
    assert problems(filled) == ["study digits: its row in the index was changed"]


def test_a_row_that_cannot_be_read_is_said_in_one_line(filled: Path) -> None:
    tamper(filled, "UPDATE runs SET metrics = '{' WHERE id = 'cosine-2'")
    with (
        Store.open(filled) as store,
        pytest.raises(MachineError, match=r"the row of 'cosine-2' cannot be read"),
    ):
        store.runs("digits")


def test_a_removed_row_is_noticed(filled: Path) -> None:
    tamper(filled, "DELETE FROM runs WHERE id = 'cosine-2'")
    assert [line.split(":")[0] for line in problems(filled)] == ["run cosine-2"]


def test_an_unfinished_run_that_is_not_in_the_index_is_no_problem(filled: Path) -> None:
    with Store.open(filled) as store:
        RunWriter(store.run_directory("digits", "cosine-3"), {}).close()
        store.run_directory("digits", "cosine-4").mkdir()
        assert store.verify("digits") == []


def remove_directory(directory: Path) -> None:
    directory.rename(directory.parent.parent / "moved")


def flip_log(directory: Path) -> None:
    data = bytearray((directory / LOG_NAME).read_bytes())
    data[30] ^= 1
    (directory / LOG_NAME).write_bytes(data)


def rewrite(directory: Path) -> None:
    """Another run, whole in itself, in the place of the one that was indexed."""
    (directory / LOG_NAME).unlink()
    (directory / SERIES_NAME).unlink()
    with RunWriter(directory, {"seed": 1}) as writer:
        writer.step(0, {"loss": 0.5}, "b0")
        writer.finish("done", {"accuracy": 0.5}, "f")


def cut_finish(directory: Path) -> None:
    data = (directory / LOG_NAME).read_bytes()
    (directory / LOG_NAME).write_bytes(data[:-1])


def flip_parquet(directory: Path) -> None:
    data = bytearray((directory / SERIES_NAME).read_bytes())
    data[60] ^= 1
    (directory / SERIES_NAME).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_directory, "is missing"),
        (flip_log, "events.jsonl:1: this line is damaged"),
        (rewrite, "is not what was indexed"),
        (cut_finish, "is not what was indexed"),
        (flip_parquet, "series.parquet is damaged"),
    ],
)
def test_a_changed_run_directory_is_noticed(
    filled: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(filled / "studies" / "digits" / "runs" / "cosine-1")
    (problem,) = problems(filled)
    assert problem.startswith("run cosine-1: ")
    assert said in problem
    assert "\n" not in problem


def test_a_changed_plan_file_is_noticed_and_written_again(filled: Path) -> None:
    path = filled / "studies" / "digits" / "plan.json"
    for damage in (lambda: path.write_text('{"seeds": [1]}'), path.unlink):
        damage()
        assert ["plan.json" in problem for problem in problems(filled)] == [True]
        with Store.open(filled) as store:
            store.add_study("digits", "t", PLAN)
        assert problems(filled) == []


def test_a_store_can_be_moved(filled: Path, tmp_path: Path) -> None:
    assert problems(filled.rename(tmp_path / "moved")) == []


def test_a_study_is_locked_by_its_file(filled: Path) -> None:
    with Store.open(filled) as store, store.lock("digits"):
        with (
            pytest.raises(MachineError, match="study 'digits' is held by process"),
            store.lock("digits"),
        ):
            pass
        with store.lock("another"):
            pass
        assert (filled / "studies" / "digits" / "lock").is_file()


def test_the_record_loads_neither_torch_nor_an_extra_before_its_use() -> None:
    script = """
import sys
import rheostat.record.run, rheostat.core.lock, rheostat.record.series
print(sorted({"torch", "sqlalchemy", "pyarrow"} & set(sys.modules)))
import rheostat.record.store
print(sorted({"torch", "pyarrow"} & set(sys.modules)))
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert said.stdout.split() == [b"[]", b"[]"]
