"""Makes and checks backups of the database while others write, and finds them again by their names."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kattila_manager import wording
from kattila_manager.store.database import BUSY_TIMEOUT_SECONDS, held_open, only_one, uri
from kattila_settings.privileges import refuse_folder_of_others

# 8 MiB, so that progress can be reported.
_STEP_PAGES = 2048
_REPORTED_BYTES = 256 * 1024 * 1024
_MIB = 1024 * 1024
_TABLES = {"alembic_version", "agents", "reports"}
_NO_SPACE = "database or disk is full"
REMEDY = "set BACKUP_DIR to another folder"

Progress = Callable[[str], object]


class BackupError(Exception):
    """A backup could not be made or used; the text names it, the cause and the remedy."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup: `made_at` is ms UTC, `revision` that of its schema."""

    path: Path
    made_at: int
    revision: str


def make(database: Path, folder: Path, now: int, progress: Progress, file: Path | None = None) -> Backup:
    """Copy the database as it is now to `file`, or to a file in `folder` that is named for the time and the schema.

    Writers do not wait. The file appears complete and checked, or not at all.

    Raises:
        BackupError: the folder is missing, not writable or full, the file exists, or the database is damaged.
        sqlite3.Error, OSError: the database cannot be read (see `database.errors_explained`).
    """
    folder = file.parent if file else folder
    if file:
        _check_free(file)
    remedy = "choose another folder, or write to stdout ('-')" if file else REMEDY
    with copied(database, folder, remedy, progress) as (part, revision):
        target = file or folder / _name(database, now, revision)
        _check_free(target)
        put(part, target)
    return Backup(target, now, revision)


@contextmanager
def copied(database: Path, folder: Path, remedy: str, progress: Progress) -> Iterator[tuple[Path, str]]:
    """Copy the database as it is now to a file in `folder` that exists meanwhile; yield its path and revision.

    `remedy` says in errors how to get another folder. Raises: see `make`.
    """
    with held_open(database), only_one(database, "backup"), _part(database, folder, remedy) as part:
        with closing(_opened(database, mode="rw")) as source:
            copy(source, part, progress)
        yield part, checked(part, str(part), progress)


def found(database: Path, folder: Path) -> tuple[Backup, ...]:
    """Return the backups in a folder by the names that `make` gives, newest first; none if it cannot be read."""
    try:
        paths = list(folder.iterdir())
    except OSError:
        return ()
    known = [backup for path in paths if (backup := _named(database, path))]
    return tuple(sorted(known, key=lambda backup: (backup.made_at, backup.path.name), reverse=True))


def remove_older(database: Path, folder: Path, keep: int) -> tuple[Backup, ...]:
    """Remove all but the newest `keep` backups and the newest of each schema, and return those removed.

    Raises:
        BackupError: a backup cannot be removed.
    """
    backups = found(database, folder)
    newest = {backup.revision: backup for backup in reversed(backups)}
    doomed = tuple(backup for backup in backups[keep:] if backup is not newest[backup.revision])
    with _errors_explained(folder, REMEDY):
        for backup in doomed:
            backup.path.unlink(missing_ok=True)
    return doomed


def open_copy(path: Path) -> sqlite3.Connection:
    """Open a backup, or any other database without writers, for reading; raises sqlite3.Error."""
    # Without a log file it is complete, and SQLite needs to create no files in a folder that may be read-only.
    is_alone = not path.with_name(f"{path.name}-wal").exists()
    return _opened(path, mode="ro", immutable="1") if is_alone else _opened(path, mode="ro")


def copy(source: sqlite3.Connection, target: Path, progress: Progress) -> None:
    """Copy the open database `source`, in one consistent state, into an empty file that is complete by itself.

    Raises:
        BackupError: it does not fit; nothing was written, because other writers need the remaining space.
    """
    # Without a read transaction, the copy would start again whenever another process commits.
    source.execute("BEGIN")
    source.execute("SELECT 1 FROM sqlite_master").fetchone()
    page_bytes = int(source.execute("PRAGMA page_size").fetchone()[0])
    _check_room(target.parent, page_bytes * int(source.execute("PRAGMA page_count").fetchone()[0]))
    with closing(_opened(target, mode="rw")) as copied:
        # It becomes a backup only once it is synced and renamed.
        copied.execute("PRAGMA journal_mode=OFF")
        copied.execute("PRAGMA synchronous=OFF")
        source.backup(copied, pages=_STEP_PAGES, progress=_report_progress(page_bytes, progress))
        # The copy inherits WAL mode, which would need more files than this one.
        copied.execute("PRAGMA journal_mode=DELETE")
    source.execute("ROLLBACK")


def checked(path: Path, shown: str, progress: Progress) -> str:
    """Return the schema's revision of a copy, which must be a complete database of the manager.

    Raises:
        BackupError: it is not; the text calls the file `shown`.
    """
    if path.stat().st_size >= _REPORTED_BYTES:
        progress("checking the copy")
    try:
        with closing(open_copy(path)) as connection:
            wrong = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            row = (
                connection.execute("SELECT version_num FROM alembic_version").fetchone() if tables >= _TABLES else None
            )
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{shown} is damaged, or not an SQLite database ({error})") from None
    if wrong != "ok":
        raise BackupError(
            f"{shown} is damaged ({wrong}): run 'kattila-manager check' to see whether the database is, too"
        )
    if row is None:
        raise BackupError(f"{shown} is not a database of kattila-manager")
    return str(row[0])


def put(part: Path, target: Path) -> None:
    """Sync a copy and give it its name, so that it survives a power cut."""
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_free(target: Path) -> None:
    if target.exists():
        raise BackupError(f"{target} exists: remove it, or choose another name")


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BackupError(
            f"a copy needs {needed / _MIB:,.1f} MiB, and {folder} has {free / _MIB:,.1f} MiB left: free some space, "
            "or choose another disk (BACKUP_DIR for backups)"
        )


@contextmanager
def _part(database: Path, folder: Path, remedy: str) -> Iterator[Path]:
    with _errors_explained(folder, remedy), new_part(database, folder) as part:
        yield part


@contextmanager
def new_part(database: Path, folder: Path) -> Iterator[Path]:
    """Create an empty file that only its owner may read, in place of a leftover one, and remove it at the end.

    Raises:
        PrivilegesError: root runs this, and another user could replace the file while SQLite writes to it.
    """
    refuse_folder_of_others(folder)
    part = folder / f"{database.name}.part"
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield part
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)


@contextmanager
def _errors_explained(folder: Path, remedy: str) -> Iterator[None]:
    """Replace errors by BackupError. remedy: how to get another folder for backups than this one."""
    try:
        yield
    except OSError as error:
        raise BackupError(_explained(folder, remedy, error)) from None
    except sqlite3.OperationalError as error:
        if str(error) != _NO_SPACE:
            raise
        raise BackupError(_explained(folder, remedy, OSError(errno.ENOSPC, ""))) from None


def _explained(folder: Path, remedy: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"the folder {folder} does not exist: create it, owned by the user that runs this program, or {remedy}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left for a backup in {folder}: free some, or {remedy}"
    return f"cannot write a backup to {folder} ({error.strerror}) as uid {os.geteuid()}: change its owner, or {remedy}"


def _opened(path: Path, **parameters: str) -> sqlite3.Connection:
    return sqlite3.connect(uri(path, **parameters), uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)


def _report_progress(page_bytes: int, progress: Progress) -> Callable[[int, int, int], None]:
    reported = 0

    def report(_status: int, remaining: int, total: int) -> None:
        nonlocal reported
        copied = (total - remaining) * page_bytes
        if copied - reported >= _REPORTED_BYTES:
            reported = copied
            progress(f"{copied // _MIB:,} of {total * page_bytes // _MIB:,} MiB copied")

    return report


def _name(database: Path, now: int, revision: str) -> str:
    moment = re.sub("[-:]", "", wording.machine_moment(now))
    return f"{database.stem}-{moment}-schema-{revision}.db"


def _named(database: Path, path: Path) -> Backup | None:
    shape = re.fullmatch(rf"{re.escape(database.stem)}-(\d{{8}}T\d{{6}}Z)-schema-(\w+)\.db", path.name)
    if shape is None:
        return None
    try:
        made_at = datetime.strptime(shape[1], "%Y%m%dT%H%M%S%z")
    except ValueError:
        return None
    return Backup(path, int(made_at.timestamp()) * 1000, shape[2])
