"""The migrations make the schema in the code, from every version."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from kattila_manager.store import database
from kattila_manager.store.admin import migrating
from kattila_manager.store.schema import metadata
from support.store import filing, new_database, sqlite

SEEDED = {"agents", "reports", "agent_interfaces", "topology_edges", "alarms"}


def dump(path: Path) -> list[str]:
    with sqlite(path) as connection:
        return list(connection.iterdump())


def test_migrations_make_the_schema_in_the_code(tmp_path: Path) -> None:
    path = new_database(tmp_path)
    engine = database.open_engine(path, pooled=False)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
    engine.dispose()
    with sqlite(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        strict = dict(connection.execute("SELECT name, strict FROM pragma_table_list"))
    assert tables >= SEEDED
    assert all(strict[table.name] for table in metadata.sorted_tables)


def test_every_unclear_column_has_a_comment() -> None:
    assert all(table.comment for table in metadata.sorted_tables)


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    path = new_database(tmp_path)
    with sqlite(path) as connection, connection:
        connection.execute("INSERT INTO receivers VALUES (1, 2, 3)")
    before = dump(path)
    for _ in range(2):
        migrating.migrate(path, tmp_path, 0)
    assert dump(path) == before


def test_a_database_of_a_newer_version_is_a_clear_error_and_unchanged(tmp_path: Path) -> None:
    path = new_database(tmp_path)
    with sqlite(path) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = dump(path)
    with pytest.raises(database.DatabaseUnusableError, match="newer version"):
        migrating.migrate(path, tmp_path, 0)
    assert dump(path) == before


def test_another_file_is_a_clear_error_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "kattila_manager.db"
    path.write_bytes(b"these are somebody's notes, and no database at all\n" * 100)
    with pytest.raises(database.DatabaseUnusableError, match=str(path)):
        migrating.migrate(path, tmp_path, 0)
    assert path.read_bytes().startswith(b"these are somebody's notes")


def test_a_commit_survives_a_power_cut(tmp_path: Path) -> None:
    # FULL (2): the WAL is synced with every commit (https://sqlite.org/pragma.html#pragma_synchronous).
    with filing(new_database(tmp_path)) as filer, filer.store.engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
