"""The SQL behind the store: where it is, its tables, and rows that carry their own hash.

Only `store` uses this module. Needs SQLAlchemy. SQLite runs in WAL mode, so that readers
never wait; whatever the database says goes wrong becomes one line of a `MachineError`. No line
holds a password, nor a URL that could not be taken apart and may hide one.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
import weakref
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rheostat.core.durable import content_hash, disk_errors, make_directory
from rheostat.core.errors import InputError, MachineError

try:
    import sqlalchemy as sa
    from sqlalchemy import event as sa_event
    from sqlalchemy import exc as sa_exc
except ImportError as error:
    raise MachineError(
        'the store needs SQLAlchemy, which is not installed: pip install "rheostat[study]"'
    ) from error

Row: TypeAlias = dict[str, Any]

SCHEMA = 1
DEFAULT_FOLDER = ".rheostat"
DATABASE_NAME = "store.sqlite"
BUSY_MILLISECONDS = 30_000

_METADATA = sa.MetaData()
_VERSION = sa.Table(
    "rheostat_schema",
    _METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
STUDIES = sa.Table(
    "studies",
    _METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("plan_hash", sa.Text, nullable=False),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("row_hash", sa.Text, nullable=False),
)
RUNS = sa.Table(
    "runs",
    _METADATA,
    sa.Column("study_id", sa.Text, sa.ForeignKey("studies.id"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("metric", sa.Double),  # NULL is NaN, which SQLite cannot hold
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("fingerprints", sa.Text, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("environment", sa.Text, nullable=False),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("row_hash", sa.Text, nullable=False),
)
REVISIONS = sa.Table(
    "revisions",
    _METADATA,
    sa.Column("study_id", sa.Text, sa.ForeignKey("studies.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("written", sa.Text, nullable=False),
    sa.Column("row_hash", sa.Text, nullable=False),
)
_TABLES = (STUDIES, RUNS, REVISIONS)

_EXAMPLES = "sqlite:///path/to/file or postgresql+psycopg://user@host/database"

# What a database says, and what to do about it; the first that fits.
_KEYS = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)
"""Arguments of a URL whose values are not to be shown."""
_ODD_URL = re.compile(r"(sqlite|postgres|mysql|mariadb|oracle|mssql)[a-z+]*:", re.IGNORECASE)
"""A URL that lacks a slash; no folder is meant by it."""

_ADVICE = (
    (
        "not a database|malformed|corrupt|could not decode",
        (
            "the index is damaged: restore it from a copy, or move it away and index what the "
            "runs' folders hold by another `rheostat study run FILE`"
        ),
    ),
    ("disk is full|no space", "free some space and try again; what was recorded before is kept"),
    ("unable to open|readonly|read-only|permission", "check its permissions or choose another"),
    ("locked|busy", "another process is writing: try again when it is done"),
    ("no such column|no column named|no such table", "this is not a database of rheostat"),
    ("", "check that it is there, reachable and yours to write"),
)


class Index:
    """The open database. `root` is the folder that the runs' directories lie under, `where`
    the database in words. Every method raises `MachineError` where the database fails.

    One that is not `writable` is only read: nothing is created, also no folder, and where
    there is no store that is an `InputError`."""

    def __init__(self, location: str | Path | None, *, writable: bool = True) -> None:
        url, self.root, self.where = _locate(location)
        self.is_file = url.get_backend_name() == "sqlite"
        if self.is_file and not writable:
            url = _for_reading(url, self.where)
        self._secrets = _secrets(url)
        self._engine = _engine(url, self.where, writable=writable)
        # An engine that is dropped without this leaves its connections to the collector.
        self.close = weakref.finalize(self, self._engine.dispose)
        try:
            self._prepare() if writable else self._look()
        except BaseException:
            self.close()
            raise

    def insert(self, table: sa.Table, row: Row) -> Row:
        """Insert `row` with its hash, unless its key is there already; return what is there."""
        clash: sa_exc.IntegrityError | None = None
        with self._errors():
            try:
                with self._engine.begin() as connection:
                    connection.execute(sa.insert(table).values(**row, row_hash=content_hash(row)))
            except sa_exc.IntegrityError as error:
                clash = error
            found = self.select(table, {key.name: row[key.name] for key in table.primary_key})
            if clash is not None and not found:
                raise clash
        return found[0]

    def select(
        self, table: sa.Table, equal: Mapping[str, object] | None = None, order: Sequence[str] = ()
    ) -> list[Row]:
        """The rows of `table` whose columns equal `equal`, ordered by the columns `order`."""
        query = sa.select(table).where(*(table.c[k] == v for k, v in (equal or {}).items()))
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(query.order_by(*(table.c[name] for name in order)))
            return [dict(row) for row in rows.mappings()]

    def check(self) -> list[str]:
        """What SQLite finds wrong in its own file, a line each; nothing for other databases."""
        if not self.is_file:
            return []
        with self._errors(), self._engine.connect() as connection:
            said = connection.execute(sa.text("PRAGMA integrity_check")).scalars()
            return [f"{self.where}: {line}" for line in said if line != "ok"]

    def _prepare(self) -> None:
        """Create the tables, or refuse a database that is another's or too new."""
        with self._errors():
            with self._engine.begin() as connection:
                present = set(sa.inspect(connection).get_table_names())
                if _VERSION.name not in present and present & {STUDIES.name, RUNS.name}:
                    raise MachineError(
                        f"{self.where} belongs to another program: choose another place"
                    )
                # Two processes may come here at once: what is there already is left alone.
                connection.execute(sa.schema.CreateTable(_VERSION, if_not_exists=True))
            if not self.select(_VERSION):
                with contextlib.suppress(sa_exc.IntegrityError), self._engine.begin() as connection:
                    connection.execute(sa.insert(_VERSION).values(id=1, version=SCHEMA))
            with self._engine.begin() as connection:
                self._check_version(connection)
                for table in _TABLES:
                    connection.execute(sa.schema.CreateTable(table, if_not_exists=True))

    def _look(self) -> None:
        """Refuse, without a change, what is no store of ours."""
        with self._errors(), self._engine.connect() as connection:
            present = set(sa.inspect(connection).get_table_names())
            if not {_VERSION.name, *(table.name for table in _TABLES)} <= present:
                raise _no_store(self.where)
            self._check_version(connection)

    def _check_version(self, connection: sa.Connection) -> None:
        version = connection.execute(sa.select(_VERSION.c.version)).scalar_one()
        if version > SCHEMA:
            raise MachineError(
                f"the store {self.where} was made by a newer rheostat (schema {version}, "
                f"this one knows {SCHEMA}): pip install --upgrade rheostat"
            )

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sa_exc.SQLAlchemyError as error:
            said = str(error.orig if isinstance(error, sa_exc.DBAPIError) else error)
            why = (said.splitlines() or [type(error).__name__])[0]
            for secret in self._secrets:
                why = why.replace(secret, "***")
            advice = next(text for pattern, text in _ADVICE if re.search(pattern, why.lower()))
            raise MachineError(f"the store {self.where} failed: {why}; {advice}") from error


def row_holds(row: Mapping[str, Any]) -> bool:
    """Whether a row's hash fits its other columns."""
    rest = {name: value for name, value in row.items() if name != "row_hash"}
    try:
        return row["row_hash"] == content_hash(rest)
    except TypeError:  # a damaged database can hold bytes where text was
        return False


def _locate(location: str | Path | None) -> tuple[sa.URL, Path, str]:
    """The URL of the database, the folder for the directories, and the database in words."""
    if not isinstance(location, str) or not ("://" in location or _ODD_URL.match(location)):
        root = Path(location or DEFAULT_FOLDER).expanduser().absolute()
        path = root / DATABASE_NAME
        return sa.URL.create("sqlite", database=str(path)), root, str(path)
    # Where the parts of a URL are in doubt, any but the first may hold a piece of the password.
    shown = f"{location.partition(':')[0]}://…"
    try:
        url = sa.make_url(location)
    except (sa_exc.ArgumentError, ValueError) as error:
        raise InputError(
            f"{shown!r} is not a database URL; write a folder, or e.g. {_EXAMPLES}"
        ) from error
    if url.get_backend_name() != "sqlite" and "@" in f"{url.host}{url.database}":
        raise InputError(
            f"{shown!r} is not a database URL: more than one @; write one in a password as %40"
        )
    if url.get_backend_name() != "sqlite":
        return url, Path(DEFAULT_FOLDER).absolute(), url.set(query={}).render_as_string()
    if not url.database or url.database.startswith((":memory:", "file:")):
        raise InputError(f"a store is a file, not {shown!r}: write sqlite:///path/to/file")
    path = Path(url.database).expanduser().absolute()
    return url.set(database=str(path)), path.parent, str(path)


def _secrets(url: sa.URL) -> list[str]:
    """What no message may hold, as it is and as a URL spells it."""
    given = [url.password, *(url.query[key] for key in url.query if _KEYS.search(key))]
    plain = [
        text for value in given for text in ([value] if isinstance(value, str) else value or ())
    ]
    spelt = {*plain, *(urllib.parse.quote(text, safe="") for text in plain)}
    return sorted(filter(None, spelt), key=len, reverse=True)


def _for_reading(url: sa.URL, where: str) -> sa.URL:
    """The URL by which SQLite opens this file, and makes none."""
    path = Path(where)
    with disk_errors("read", path):
        there = path.is_file()
    if not there:
        raise _no_store(where)
    query = {**url.query, "uri": "true", "mode": "rw"}
    # Where nothing can be written a reader cannot join the others in WAL mode. It need not: with
    # no log beside the file, nobody writes.
    if not os.access(path.parent, os.W_OK, effective_ids=True) or not os.access(
        path, os.W_OK, effective_ids=True
    ):
        query["mode"] = "ro"
        if not path.with_name(f"{path.name}-wal").exists():
            query["immutable"] = "1"
    return url.set(database=f"file:{urllib.parse.quote(str(path))}", query=query)


def _no_store(where: str) -> InputError:
    return InputError(
        f"there is no store at {where}: `rheostat study run FILE` makes one, --store names another"
    )


def _engine(url: sa.URL, where: str, *, writable: bool) -> sa.Engine:
    try:
        engine = sa.create_engine(url)
    except sa_exc.NoSuchModuleError as error:
        raise InputError(
            f"{where}: SQLAlchemy knows no database {url.drivername!r}: "
            "use sqlite or postgresql+psycopg"
        ) from error
    except sa_exc.ArgumentError as error:
        raise InputError(
            f"{where}: this URL does not fit its database; write e.g. {_EXAMPLES}"
        ) from error
    except ImportError as error:
        raise MachineError(
            f"the store {where} needs the package {error.name}, which is not installed: "
            f"pip install {error.name}"
        ) from error
    if engine.dialect.name == "sqlite":
        if writable:
            make_directory(Path(where).parent)
        sa_event.listen(engine, "connect", _for_writing if writable else _only_reading)
    return engine


def _for_writing(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # The wait comes first: switching to WAL may have to wait for another process.
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _only_reading(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA query_only = ON")
    cursor.close()
