"""Replaces the database by a backup; an interruption leaves either the old database or the restored one."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from kattila_manager import wording
from kattila_manager.store.admin import backups
from kattila_manager.store.admin.backups import BackupError, Progress
from kattila_manager.store.database import DatabaseNewerError, closed_to_others, errors_explained, revisions, uri

_MODE = 0o640
# In the place of a file: stdin, or stdout.
STANDARD_STREAM = Path("-")


@dataclass(frozen=True, slots=True)
class Restored:
    """The outcome of a restore: the schema's revision, and the previous database's new path (None: none existed)."""

    revision: str
    kept: Path | None


def restore(file: Path, database: Path, now: int, progress: Progress) -> Restored:
    """Replace the database by a copy of `file` ("-": stdin); the previous database is kept in the same folder.

    Raises:
        BackupError: the file is missing, damaged, or not a database of the manager.
        DatabaseNewerError: a newer version of the manager made it.
        DatabaseUnusableError: the database is in use, or its folder cannot be written.
    """
    # The lock files are beside the path that other processes use.
    place = database.resolve()
    with errors_explained(database), closed_to_others(database), backups.new_part(place, place.parent) as part:
        if file == STANDARD_STREAM:
            _receive(part)
        else:
            _copy(file, part, progress)
        revision = backups.checked(part, str(file), progress)
        if revision not in revisions():
            raise DatabaseNewerError(
                f"{file} was made by a newer version of kattila-manager (its schema is {revision}, the newest known is "
                f"{revisions()[-1]}): install that version, or restore an older backup"
            )
        part.chmod(place.stat().st_mode & 0o777 if place.exists() else _MODE)
        kept = _set_aside(place, now) if place.exists() else None
        backups.put(part, place)
    return Restored(revision, kept)


def _receive(part: Path) -> None:
    with part.open("wb") as target:
        shutil.copyfileobj(sys.stdin.buffer, target)


def _copy(file: Path, part: Path, progress: Progress) -> None:
    try:
        # SQLite would only report "unable to open database file".
        with file.open("rb") as readable:
            readable.read(1)
        with closing(backups.open_copy(file)) as source:
            backups.copy(source, part, progress)
    except OSError as error:
        raise BackupError(
            f"{file} cannot be read ({error.strerror}) as uid {os.geteuid()}: change its owner, or read it from stdin "
            f"with 'kattila-manager restore - <{file}'"
        ) from None
    except sqlite3.OperationalError:
        # The target folder is the cause, for example because it is full.
        raise
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{file} is damaged, or not an SQLite database ({error})") from None


def _set_aside(database: Path, now: int) -> Path:
    """Give the database a second name, which remains when the backup takes the first."""
    # Moves the content of the log into the file. A damaged database keeps its log.
    with suppress(sqlite3.Error), closing(sqlite3.connect(uri(database), uri=True)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = database.with_name(f"{database.name}.before-{re.sub('[-:]', '', wording.machine_moment(now))}")
    kept.hardlink_to(database)
    # SQLite would take it for the log of the restored database.
    with suppress(FileNotFoundError):
        database.with_name(f"{database.name}-wal").rename(kept.with_name(f"{kept.name}-wal"))
    database.with_name(f"{database.name}-shm").unlink(missing_ok=True)
    return kept
