"""Migrates the database to the newest schema, and backs it up before."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sqlalchemy import Connection

from kattila_manager.store import database
from kattila_manager.store.admin import backups
from kattila_manager.store.database import errors_explained

_log = logging.getLogger("kattila.store")


def migrate(path: Path, backup_dir: Path, now: int) -> None:
    """Migrate the file to the newest schema, or create it; an older schema is backed up first (at `now`).

    Raises:
        DatabaseUnusableError: the folder is missing, or the file is not writable, not a database, or being restored;
            DatabaseNewerError if a newer version created it.
        BackupError: it could not be backed up, and was not changed.
    """
    with errors_explained(path):
        # Opened for writing even if there is nothing to migrate, to fail now and not at the first report.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        with database.held_open(path), database.only_one(path, "lock"), database.connected(path) as connection:
            found = database.known_revision(path, connection)
            if found not in (None, database.revisions()[-1]):
                _keep(path, backup_dir, now)
            upgrade(connection, database.revisions()[-1])


def upgrade(connection: Connection, revision: str) -> None:
    """Migrate an open database to a revision."""
    # It takes as long to import as the rest of a small command, and only this needs it.
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    # Its values are templates, in which "%%" is a "%".
    config.set_main_option("script_location", str(database.MIGRATIONS).replace("%", "%%"))
    # The newest alembic requires it.
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _keep(path: Path, backup_dir: Path, now: int) -> None:
    made = backups.make(path, backup_dir, now, _log.info)
    newest = database.revisions()[-1]
    _log.warning("migrating the database from schema %s to %s; the backup is %s", made.revision, newest, made.path)
