"""Connections, transactions, the database's clock and migrations, on SQLite and PostgreSQL alike.

It knows no table. Writers on SQLite begin with ``BEGIN IMMEDIATE``: a transaction that reads first
and writes later fails at once under contention, whatever the busy timeout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Double, Engine, create_engine, event, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, TimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from understudy.errors import NotReady, SettingsRefused

#: What is raised while the database cannot be reached, or is held by another for too long: try again later.
AWAY: tuple[type[Exception], ...] = (OperationalError, InterfaceError, TimeoutError)
#: Wait this long for another writer. Transactions are short; a lock held longer is a fault.
BUSY_TIMEOUT_MS = 10_000
#: Any constant will do: it names the migration lock among PostgreSQL's advisory locks.
MIGRATION_LOCK = 0x756E6465


class now(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, at the moment the statement runs."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def insert_or_ignore(session: Session, table: Any) -> Any:
    """An INSERT that does nothing where a unique row is there already, or is being written by another at this moment."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()


@dataclass(frozen=True)
class Look:
    """What a catalog is and in which state, as ``Catalog.look`` saw it."""

    server: str  #: SQLite 3.51.3, PostgreSQL 16.4
    journal: str | None  #: SQLite's journal mode; None: it is no SQLite
    revision: str | None  #: of the schema; None: nobody has migrated it
    is_current: bool  #: the schema is the one that this program was written for
    is_newer: bool  #: a newer program was here: its schema is not known
    clock: float  #: seconds since 1970, by the database


class Catalog:
    """A pool of connections to one catalog. Open one a process, after any fork; close it at the end."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        connect_args = {"timeout": BUSY_TIMEOUT_MS / 1000} if self.is_sqlite else {}
        # Values are for no log: what signs webhooks is among them.
        self._engine = create_engine(
            url, connect_args=connect_args, pool_pre_ping=not self.is_sqlite, hide_parameters=True
        )
        if self.is_sqlite:
            _prepare_sqlite(self._engine)
        self._writer = self._engine.execution_options(is_writer=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes: committed when the block ends, rolled back when it raises."""
        with Session(self._writer) as session, session.begin():
            yield session

    def migrate(self) -> None:
        """Bring the schema to this program's version; many processes may do so at once.

        Raises SettingsRefused if a newer program has been here: its schema is not ours to touch.
        """
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._writer.begin() as connection:
            if not self.is_sqlite:  # on SQLite, BEGIN IMMEDIATE is the lock
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            if self.is_current(connection):
                return
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise SettingsRefused(
                    f"the catalog was migrated by a newer Understudy ({error}); upgrade this program to use it"
                ) from error

    def is_current(self, connection: Connection) -> bool:
        """Whether the schema is the one that this program was written for."""
        scripts = ScriptDirectory(str(Path(__file__).parent / "migrations"))
        return MigrationContext.configure(connection).get_current_revision() == scripts.get_current_head()

    def look(self) -> Look:
        """What this catalog is; changes nothing, and migrates nothing."""
        with self._engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar() if self.is_sqlite else None
            clock = connection.scalar(select(now()))
        scripts = ScriptDirectory(str(Path(__file__).parent / "migrations"))
        known = {script.revision for script in scripts.walk_revisions()}
        return Look(
            server=f"{'SQLite' if self.is_sqlite else 'PostgreSQL'} {version}",
            journal=journal,
            revision=revision,
            is_current=revision == scripts.get_current_head(),
            is_newer=revision is not None and revision not in known,
            clock=float(clock or 0.0),
        )

    def close(self) -> None:
        """Close every connection; one that a thread still uses, when that gives it back."""
        event.listen(self._engine, "checkin", _close)
        self._engine.dispose()


def _close(connection: Any, record: Any) -> None:
    record.invalidate()


@contextmanager
def opened(url: str) -> Iterator[Catalog]:
    """A migrated catalog for the length of one command.

    Raises SettingsRefused for a bad URL and NotReady for a catalog that does not answer: neither names the
    URL, which may hold a password.
    """
    try:
        catalog = Catalog(url)
    except (ArgumentError, ImportError) as error:
        raise SettingsRefused(f"UNDERSTUDY_CATALOG_URL is no URL of a catalog ({type(error).__name__})") from error
    try:
        catalog.migrate()
        yield catalog
    except OperationalError as error:
        why = str(error.orig).strip().splitlines()[0]
        raise NotReady(f"the catalog does not answer: {why}") from error
    finally:
        catalog.close()


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",  # readers never wait for the writer
            "synchronous=FULL",  # what was answered with 202 survives a power cut
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_writer = connection.get_execution_options().get("is_writer")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")
