"""`backup` and `restore`: copies of the database, made and put back.

May live here: which files are meant, and what is said of them.
"""

from __future__ import annotations

import json
from pathlib import Path

from kattila_manager import compose, wording
from kattila_manager.commands.errors import CommandError, Say
from kattila_manager.config import Config
from kattila_manager.store import database
from kattila_manager.store.admin import backups, restoring
from kattila_manager.store.admin.backups import Backup

_MIB = 1024 * 1024


def backup(config: Config, say: Say, progress: Say, file: Path | None, keep: int | None, *, as_json: bool) -> int:
    """Back the database up to `file`, or under a name of its own in BACKUP_DIR, where only the newest `keep` stay.

    Raises:
        DatabaseUnusableError, BackupError: see `backups.make`.
    """
    database.revision_of(config.database)
    with database.told(config.database):
        made = backups.make(config.database, config.backup_dir, compose.clock(), progress, file)
    removed = () if keep is None else backups.remove_older(config.database, config.backup_dir, keep)
    say(json.dumps(_members(made, removed), indent=2) if as_json else _words(made, removed))
    return 0


def restore(config: Config, say: Say, progress: Say, file: Path | None, *, as_json: bool) -> int:
    """Put `file`, or the newest backup in BACKUP_DIR that this version can use, in the place of the database.

    Raises:
        CommandError: there is no such backup.
        DatabaseUnusableError, BackupError: see `restoring.restore`.
    """
    wanted = file or _newest(config)
    done = restoring.restore(wanted, config.database, compose.clock(), progress)
    kept = str(done.kept) if done.kept else None
    if as_json:
        say(json.dumps({"file": str(wanted), "schema": done.revision, "kept": kept}, indent=2))
        return 0
    say(f"{config.database} is now what {wanted} holds (schema {done.revision})")
    say(f"the database before it is kept as {kept}" if kept else "there was no database before it")
    if not config.ring_file.exists():
        say("the key ring is in no backup: 'kattila-manager serve' takes the key from DNS again")
    return 0


def way_back(config: Config) -> str:
    """Say how to go back from a database that a newer version made to one that this version knows."""
    fitting = newest_fitting(config)
    if fitting is None:
        return f"there is no backup of an older schema in {config.backup_dir} (BACKUP_DIR) to go back to"
    return (
        f"to go back, stop serve and publish and run 'kattila-manager restore {fitting.path}', a backup of "
        f"{wording.moment(fitting.made_at)} with schema {fitting.revision}; what was reported since is then in the "
        "newer database alone, which is kept"
    )


def newest_fitting(config: Config) -> Backup | None:
    """Return the newest backup in BACKUP_DIR that this version can use."""
    known = database.revisions()
    return next((one for one in backups.found(config.database, config.backup_dir) if one.revision in known), None)


def _newest(config: Config) -> Path:
    fitting = newest_fitting(config)
    if fitting is None:
        newest = database.revisions()[-1]
        raise CommandError(
            f"{config.backup_dir} has no backup with schema {newest} or older: name a file, or set BACKUP_DIR"
        )
    return fitting.path


def _members(made: Backup, removed: tuple[Backup, ...]) -> dict[str, object]:
    return {
        "file": str(made.path),
        "bytes": made.path.stat().st_size,
        "schema": made.revision,
        "made_at": made.made_at,
        "removed": [str(backup.path) for backup in removed],
    }


def _words(made: Backup, removed: tuple[Backup, ...]) -> str:
    size = f"{made.path.stat().st_size / _MIB:,.1f} MiB"
    lines = [f"{made.path}: {size}, schema {made.revision}, checked"]
    return "\n".join(lines + [f"removed {backup.path}" for backup in removed])
