"""The SQL behind the store: where it is, its tables, and rows that carry their own hash.

Only `store` uses this module. Needs SQLAlchemy. SQLite runs in WAL mode, so that readers
never wait; whatever the database says goes wrong becomes one line of a `MachineError`, without
the URL's password.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rheostat.core.errors import InputError, MachineError
from rheostat.record.durable import content_hash, make_directory

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

_EXAMPLES = "sqlite:///path/to/file or postgresql+psycopg://user@host/database"

# What a database says, and what to do about it; the first that fits.
_ADVICE = (
    (
        "not a database|malformed|corrupt|could not decode",
        "the index is damaged: restore it from a copy, or move it away to begin a new one",
    ),
    ("disk is full|no space", "free some space and try again; what was recorded before is kept"),
    ("unable to open|readonly|read-only|permission", "check its permissions or choose another"),
    ("locked|busy", "another process is writing: try again when it is done"),
    ("no such column|no column named|no such table", "this is not a database of rheostat"),
    ("", "check that it is there, reachable and yours to write"),
)


class Index:
    """The open database. `root` is the folder that the runs' directories lie under, `where`
    the database in words. Every method raises `MachineError` where the database fails."""

    def __init__(self, location: str | Path | None) -> None:
        url, self.root, self.where = _locate(location)
        self._secret = url.password
        self._engine = _engine(url, self.where)
        # An engine that is dropped without this leaves its connections to the collector.
        self.close = weakref.finalize(self, self._engine.dispose)
        try:
            self._prepare()
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
        self, table: sa.Table, equal: Mapping[str, str] | None = None, order: Sequence[str] = ()
    ) -> list[Row]:
        """The rows of `table` whose columns equal `equal`, ordered by the columns `order`."""
        query = sa.select(table).where(*(table.c[k] == v for k, v in (equal or {}).items()))
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(query.order_by(*(table.c[name] for name in order)))
            return [dict(row) for row in rows.mappings()]

    def check(self) -> list[str]:
        """What SQLite finds wrong in its own file, a line each; nothing for other databases."""
        if self._engine.dialect.name != "sqlite":
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
                version = connection.execute(sa.select(_VERSION.c.version)).scalar_one()
                if version > SCHEMA:
                    raise MachineError(
                        f"the store {self.where} was made by a newer rheostat (schema {version}, "
                        f"this one knows {SCHEMA}): pip install --upgrade rheostat"
                    )
                for table in (STUDIES, RUNS):
                    connection.execute(sa.schema.CreateTable(table, if_not_exists=True))

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sa_exc.SQLAlchemyError as error:
            said = str(error.orig if isinstance(error, sa_exc.DBAPIError) else error)
            why = (said.splitlines() or [type(error).__name__])[0]
            if self._secret:
                why = why.replace(str(self._secret), "***")
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
    if not isinstance(location, str) or "://" not in location:
        root = Path(location or DEFAULT_FOLDER).expanduser().absolute()
        path = root / DATABASE_NAME
        return sa.URL.create("sqlite", database=str(path)), root, str(path)
    try:
        url = sa.make_url(location)
    except (sa_exc.ArgumentError, ValueError) as error:
        shown = re.sub("//.*@", "//***@", location.split("?")[0])
        raise InputError(
            f"{shown!r} is not a database URL; write a folder, or e.g. {_EXAMPLES}"
        ) from error
    if url.get_backend_name() != "sqlite":
        return url, Path(DEFAULT_FOLDER).absolute(), url.set(query={}).render_as_string()
    if not url.database or url.database.startswith((":memory:", "file:")):
        raise InputError(f"a store is a file, not {location!r}: write sqlite:///path/to/file")
    path = Path(url.database).expanduser().absolute()
    return url.set(database=str(path)), path.parent, str(path)


def _engine(url: sa.URL, where: str) -> sa.Engine:
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
        make_directory(Path(str(url.database)).parent)
        sa_event.listen(engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # The wait comes first: switching to WAL may have to wait for another process.
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()
