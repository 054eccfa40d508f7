"""`backup` and `restore`: make and restore copies of the database."""

from __future__ import annotations

import json
from pathlib import Path

from kattila_manager import compose, wording
from kattila_manager.commands import output
from kattila_manager.commands.errors import CommandError, Say
from kattila_manager.config import Config
from kattila_manager.store import database
from kattila_manager.store.admin import backups, restoring
from kattila_manager.store.admin.backups import Backup

_MIB = 1024 * 1024


def backup(config: Config, say: Say, progress: Say, file: Path | None, keep: int | None, *, as_json: bool) -> int:
    """Back the database up to `file` ("-": stdout), or to a new file in BACKUP_DIR, and keep the newest `keep` there.

    Raises:
        DatabaseUnusableError, BackupError: see `backups.make`.
    """
    database.revision_of(config.database)
    if file == restoring.STANDARD_STREAM:
        return _to_stdout(config, progress)
    with database.errors_explained(config.database):
        made = backups.make(config.database, config.backup_dir, compose.clock(), progress, file)
    removed = () if keep is None else backups.remove_older(config.database, config.backup_dir, keep)
    say(json.dumps(_members(made, removed), indent=2) if as_json else _summary(made, removed))
    return 0


def _to_stdout(config: Config, progress: Say) -> int:
    with (
        database.errors_explained(config.database),
        backups.copied(config.database, config.backup_dir, backups.REMEDY, progress) as (part, revision),
        part.open("rb") as made,
    ):
        while chunk := made.read(_MIB):
            output.write(chunk)
    progress(f"stdout: schema {revision}, checked")
    return 0


def restore(config: Config, say: Say, progress: Say, file: Path | None, *, as_json: bool) -> int:
    """Replace the database by `file`, or by the newest backup in BACKUP_DIR that this version can use.

    Raises:
        CommandError: there is no usable backup.
        DatabaseUnusableError, BackupError: see `restoring.restore`.
    """
    wanted = file or _newest(config)
    done = restoring.restore(wanted, config.database, compose.clock(), progress)
    kept = str(done.kept) if done.kept else None
    if as_json:
        say(json.dumps({"file": str(wanted), "schema": done.revision, "kept": kept}, indent=2))
        return 0
    say(f"restored {config.database} from {wanted} (schema {done.revision})")
    say(f"the previous database is kept as {kept}" if kept else "there was no previous database")
    if not config.ring_file.exists():
        say("backups do not include the key ring: 'kattila-manager serve' gets the key from DNS again")
    return 0


def rollback_advice(config: Config) -> str:
    """Return how to go back from a database of a newer version to one that this version can use."""
    usable = newest_usable(config)
    if usable is None:
        return f"there is no backup with an older schema in {config.backup_dir} (BACKUP_DIR)"
    return (
        f"to go back, stop serve and publish and run 'kattila-manager restore {usable.path}', a backup of "
        f"{wording.moment(usable.made_at)} with schema {usable.revision}; later reports are then only in the newer "
        "database, which is kept"
    )


def newest_usable(config: Config) -> Backup | None:
    """Return the newest backup in BACKUP_DIR that this version can use."""
    known = database.revisions()
    return next((one for one in backups.found(config.database, config.backup_dir) if one.revision in known), None)


def _newest(config: Config) -> Path:
    usable = newest_usable(config)
    if usable is None:
        newest = database.revisions()[-1]
        raise CommandError(
            f"{config.backup_dir} has no backup with schema {newest} or older: give a file, or set BACKUP_DIR"
        )
    return usable.path


def _members(made: Backup, removed: tuple[Backup, ...]) -> dict[str, object]:
    return {
        "file": str(made.path),
        "bytes": made.path.stat().st_size,
        "schema": made.revision,
        "made_at": made.made_at,
        "removed": [str(backup.path) for backup in removed],
    }


def _summary(made: Backup, removed: tuple[Backup, ...]) -> str:
    size = f"{made.path.stat().st_size / _MIB:,.1f} MiB"
    lines = [f"{made.path}: {size}, schema {made.revision}, checked"]
    return "\n".join(lines + [f"removed {backup.path}" for backup in removed])
