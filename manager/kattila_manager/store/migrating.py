"""Migrations: the schema of a database brought to the newest version, its old state kept.

May live here: how Alembic is called, and what comes before it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sqlalchemy import Connection

from kattila_manager.store import database
from kattila_manager.store.admin import backups
from kattila_manager.store.database import told

_log = logging.getLogger("kattila.store")


def migrate(path: Path, backup_dir: Path, now: int) -> None:
    """Bring the schema of the file to the newest version, or make it; an older one is backed up before (at `now`).

    Raises:
        DatabaseUnusableError: its folder is missing, it is not writable, no database, or being restored;
            DatabaseNewerError if a newer version made it.
        BackupError: it could not be backed up, and was left as it is.
    """
    with told(path):
        # For writing, even when nothing is to be migrated: better told now than with the first report.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        with database.held_open(path), database.only_one(path, "lock"), database.connected(path) as connection:
            found = database.known_revision(path, connection)
            if found not in (None, database.revisions()[-1]):
                _keep(path, backup_dir, now)
            upgrade(connection, database.revisions()[-1])


def upgrade(connection: Connection, revision: str) -> None:
    """Bring the schema of an open database up to a revision."""
    # Weighs as much as the rest of a small command, and only this needs it.
    from alembic import command  # noqa: PLC0415 - as said above
    from alembic.config import Config  # noqa: PLC0415 - as said above

    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    # As the newest alembic wants it said.
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _keep(path: Path, backup_dir: Path, now: int) -> None:
    made = backups.make(path, backup_dir, now, _log.info)
    newest = database.revisions()[-1]
    _log.warning(
        "migrating the database from schema %s to %s; it was backed up as %s", made.revision, newest, made.path
    )
