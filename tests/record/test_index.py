"""The index says in one line what is wrong with a database, and leaves it as it was."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rheostat.core.errors import InputError, MachineError
from rheostat.record import index
from rheostat.record.index import SCHEMA
from rheostat.record.store import Store
from rheostat.record.writer import RunWriter

PLAN = {"seeds": [1, 2], "margin": 0.01}


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder with a store of one study."""
    with Store.open(tmp_path / "store") as store:
        store.add_study("digits", "Restarts", PLAN)
    return tmp_path / "store"


def test_a_url_names_the_file_and_the_folder_beside_it(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/new/index.db") as store:
        store.add_study("digits", "t", PLAN)
    assert (tmp_path / "new" / "index.db").is_file()
    assert (tmp_path / "new" / "studies" / "digits" / "plan.json").is_file()
    with Store.open("sqlite:///relative.db") as store:
        assert store.root == Path.cwd()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "a store is a file"),
        ("sqlite:///:memory:", "a store is a file"),
        ("sqlite://user:hunter2@/file", "does not fit its database|there is no store"),
        ("nosuchsql://user:hunter2@host/db", "knows no database 'nosuchsql'"),
        ("sqlite://user:hunter2@/:memory:", "a store is a file"),
        ("postgresql://user:hunter2@host:port/db", "is not a database URL"),
        ("postgresql://user:hunt?er2@host:port/db", "is not a database URL"),
        ("postgresql://user:hunt@er2@host/db", "write one in a password as %40"),
        ("postgresql://user:hunter2", "is not a database URL"),
        ("postgresql:/user:hunter2@host/db", "is not a database URL"),
        ("postgresql+psycopg:user:hunter2@host/db", "is not a database URL"),
        ("://user:hunter2@host?password=hunter2", "is not a database URL"),
    ],
)
@pytest.mark.parametrize("writable", [True, False])
def test_a_url_that_cannot_be_read_is_the_users_fault(url: str, said: str, writable: bool) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Store.open(url, writable=writable)
    assert "hunt" not in str(caught.value)
    assert "er2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(Path.cwd().iterdir()) == []


def test_a_driver_that_is_missing_is_named_without_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MachineError, match="pip install psycopg") as caught:
        Store.open("postgresql+psycopg://user:hunter2@host/db?password=hunter2")
    assert "hunter2" not in str(caught.value)


def test_an_error_that_quotes_the_password_is_said_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file for hunter2\nsecond line")

    with Store.open(tmp_path) as store:
        store._index._engine.dispose()
        store._index._secrets = ["hunter2"]
        monkeypatch.setattr(sqlite3.dbapi2, "connect", refuse)
        with pytest.raises(MachineError, match=r"for \*\*\*; check its permissions") as caught:
            store.studies()
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter%402@host/db",
        "postgresql://user@host/db?password=hunter%402",
        "postgresql://user@host/db?sslmode=require&sslpassword=hunter%402",
    ],
)
def test_a_password_is_masked_as_it_is_and_as_a_url_spells_it(url: str) -> None:
    secrets = index._secrets(sa.make_url(url))
    assert secrets == ["hunter%402", "hunter@2"]
    _, _, where = index._locate(url)
    assert "hunter" not in where


@pytest.mark.parametrize("damage", ["text", "header", "middle", "schema"])
def test_a_corrupt_index_is_one_line_that_names_the_file(filled: Path, damage: str) -> None:
    path = filled / "store.sqlite"
    data = bytearray(path.read_bytes())
    if damage == "text":
        data = bytearray(b"This is a letter, not a database.\n" * 200)
    elif damage == "header":
        data[:16] = b"\xff" * 16
    elif damage == "middle":
        data[4096:] = b"\xa5" * (len(data) - 4096)
    else:
        data[100:4096] = b"\xa5" * 3996
    path.write_bytes(data)
    with (
        pytest.raises(MachineError, match="is damaged") as caught,
        Store.open(filled) as store,
    ):
        store.verify("digits")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == data


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    connection.execute("CREATE TABLE studies (study_id INTEGER, study_name TEXT)")
    connection.close()
    with pytest.raises(MachineError, match="belongs to another program"):
        Store.open(tmp_path)
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == [("studies",)]


def test_a_newer_schema_is_refused(filled: Path) -> None:
    connection = sqlite3.connect(filled / "store.sqlite")
    connection.execute(f"UPDATE rheostat_schema SET version = {SCHEMA + 1}")
    connection.commit()
    connection.close()
    with pytest.raises(MachineError, match=f"newer rheostat .schema {SCHEMA + 1}"):
        Store.open(filled)


def test_a_place_that_cannot_be_written_is_a_machine_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "store", Path("/proc/rheostat")):
        with pytest.raises(MachineError, match=f"cannot create the folder {place}"):
            Store.open(place)
    (tmp_path / "store.sqlite").mkdir()
    with pytest.raises(MachineError, match="unable to open database file; check its permissions"):
        Store.open(tmp_path)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Lay down root's right to write everywhere, where the tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_folder_is_a_machine_error(there: bool) -> None:
    # Not in tmp_path, whose parents are closed to others: here only writing is forbidden.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store.open(folder if there else None) as store:
            store.add_study("digits", "t", PLAN)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555)
        with nobody(), pytest.raises(MachineError, match="check its permissions") as caught:
            Store.open(folder)
        assert name in str(caught.value)
        with nobody(), pytest.raises(MachineError, match=r"cannot create .*permissions"):
            RunWriter(folder, {})
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


@pytest.mark.parametrize("place", ["nowhere", "nowhere/below", "sqlite:///nowhere/x.db", "empty"])
def test_reading_where_there_is_no_store_creates_nothing(place: str) -> None:
    Path("empty").mkdir()
    Path("empty/store.sqlite").touch()
    with pytest.raises(InputError, match=r"there is no store at /.*/(nowhere|empty)/.*study run"):
        Store.open(place, writable=False)
    assert sorted(map(str, Path().rglob("*"))) == ["empty", "empty/store.sqlite"]


def test_a_reader_changes_nothing_and_leaves_nothing_behind(filled: Path) -> None:
    before = {path: path.read_bytes() for path in filled.rglob("*") if path.is_file()}
    with Store.open(filled, writable=False) as store:
        assert store.study("digits").title == "Restarts"
        assert store.verify("digits") == []
        with pytest.raises(MachineError, match="readonly database; check its permissions"):
            store.add_study("other", "t", {})
    assert {path: path.read_bytes() for path in filled.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("open_elsewhere", [True, False])
def test_a_read_only_store_can_be_read(open_elsewhere: bool) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        writer = stack.enter_context(Store.open(folder))
        writer.add_study("digits", "Restarts", PLAN)
        if not open_elsewhere:
            writer.close()
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        with nobody(), Store.open(folder, writable=False) as store:
            assert [study.id for study in store.studies()] == ["digits"]
            assert store.verify("digits") == []
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


def test_a_full_disk_keeps_the_rows_that_were_there(filled: Path) -> None:
    """SQLite's own page limit stands in for the disk: the same error, without a small disk."""
    with Store.open(filled) as store:
        known = store.studies()
        with store._index._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        with pytest.raises(MachineError, match="disk is full; free some space"):
            store.add_study("large", "t", {"x": "y" * 100_000})
        assert not store.study_directory("large").exists()
    with Store.open(filled) as store:
        assert store.studies() == known
        assert store.verify("digits") == []


def test_several_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    script = f"""
import sys
from rheostat.record.store import Store
sys.stdin.readline()
with Store.open({str(tmp_path / "store")!r}) as store:
    store.add_study("digits", "t", {{"seeds": 2}})
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate()[1] == b""
        assert process.returncode == 0
    with Store.open(tmp_path / "store") as store:
        assert [study.id for study in store.studies()] == ["digits"]
        assert store.verify("digits") == []


def test_sqlite_is_in_wal_mode_with_foreign_keys(filled: Path) -> None:
    with Store.open(filled) as store, store._index._engine.connect() as connection:
        said = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    assert said == ["wal", 1, 30_000]


def test_without_sqlalchemy_the_extra_is_named() -> None:
    script = """
import sys
sys.modules["sqlalchemy"] = None
from rheostat.core.errors import MachineError
try:
    import rheostat.record.store
except MachineError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert b'pip install "rheostat[study]"' in said.stdout
