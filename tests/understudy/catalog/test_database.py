"""Connections, transactions, the clock and the migrations, on both engines."""

import sqlite3
import subprocess
import sys
import time

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from understudy.catalog import Catalog
from understudy.catalog.database import now
from understudy.catalog.tables import Base, BucketRow
from understudy.errors import SettingsRefused

MIGRATE = "import sys; from understudy.catalog import Catalog; Catalog(sys.argv[1]).migrate()"


def test_migrating_twice_is_migrating_once(catalog):
    """A second migration finds nothing to do and changes nothing."""
    with catalog.write() as session:
        session.add(BucketRow(name="shop", created_at=1.0))

    catalog.migrate()

    with catalog.read() as session:
        assert catalog.is_current(session.connection())
        assert session.get_one(BucketRow, "shop").created_at == 1.0


def test_eight_programs_may_migrate_an_empty_catalog_at_once(empty_catalog_url):
    """Programs that start at the same moment all start, and leave one whole schema."""
    programs = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, empty_catalog_url], stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    faults = [(p.communicate()[1], p.returncode) for p in programs]

    assert [fault for fault, code in faults if code != 0] == []
    catalog = Catalog(empty_catalog_url)
    with catalog.read() as session:
        assert catalog.is_current(session.connection())
    catalog.close()


def test_the_migrations_make_the_tables_that_the_code_declares(catalog):
    """There is no difference between the migrated schema and ``tables.py``."""
    with catalog.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_an_error_does_not_show_the_values_of_its_statement(catalog):
    """It is logged, and among them are secrets."""
    with catalog.write() as session:
        session.add(BucketRow(name="shop", token="s3cret", created_at=1.0))
    with pytest.raises(IntegrityError) as error, catalog.write() as session:
        session.execute(insert(BucketRow).values(name="shop", token="s3cret", created_at=1.0))
    assert "INSERT INTO buckets" in str(error.value)
    assert "s3cret" not in str(error.value)


def test_a_schema_from_the_future_is_refused(catalog):
    """A program does not touch a catalog that a newer one has migrated, and says what to do."""
    with catalog.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SettingsRefused, match="upgrade this program"):
        catalog.migrate()


def test_the_databases_clock_is_ours_and_moves(catalog):
    """The clock counts seconds since 1970, even within one transaction."""
    with catalog.read() as session:
        first = session.scalar(select(now()))
        deadline = time.monotonic() + 5
        while (second := session.scalar(select(now()))) <= first:
            assert time.monotonic() < deadline, "the database's clock stands still within a transaction"

    assert first == pytest.approx(time.time(), abs=5)
    assert second - first < 5


def test_a_block_that_raises_writes_nothing(catalog):
    """A writing transaction is whole or nothing."""

    def write_and_raise() -> None:
        with catalog.write() as session:
            session.add(BucketRow(name="shop", created_at=1.0))
            session.flush()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_and_raise()

    with catalog.read() as session:
        assert session.get(BucketRow, "shop") is None


def test_readers_do_not_wait_for_a_writer(catalog):
    """While one transaction writes, another reads what was committed before."""
    with catalog.write() as writer:
        writer.add(BucketRow(name="shop", created_at=1.0))
        writer.flush()
        with catalog.read() as reader:
            assert reader.get(BucketRow, "shop") is None


def test_writers_that_read_first_wait_for_each_other(catalog, in_threads):
    """Sixteen transactions that read a number and write it back greater lose none, and none fails."""
    with catalog.write() as session:
        session.add(BucketRow(name="counter", created_at=0.0))

    def count(_: int) -> None:
        with catalog.write() as session:
            row = session.get_one(BucketRow, "counter", with_for_update=True)
            row.created_at += 1

    assert in_threads(count, 16) == [None] * 16
    with catalog.read() as session:
        assert session.get_one(BucketRow, "counter").created_at == 16.0


def test_the_folder_of_a_new_sqlite_catalog_is_made(tmp_path):
    """The first program to start makes the data folder."""
    catalog = Catalog(f"sqlite:///{tmp_path / 'new' / 'catalog.db'}")
    catalog.migrate()
    catalog.close()

    assert (tmp_path / "new" / "catalog.db").exists()


def test_a_connection_in_use_while_the_catalog_closes_is_closed_when_it_is_given_back(catalog):
    """A thread that still asks something when the program ends leaves nothing open."""
    with catalog.read() as session:
        raw = session.connection().connection.dbapi_connection
        catalog.close()

    if catalog.is_sqlite:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            raw.execute("SELECT 1")
    else:
        assert raw.closed
