"""`kattila-manager`: serve, publish, and the operator's commands.

May live here: the command line, and errors to exit codes. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration,
3 a newer version made the database.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from kattila_keys.ring_file import RingFileError
from kattila_manager import compose, wording
from kattila_manager.commands import backup, check, fleet, history, keys, publish
from kattila_manager.commands.errors import CommandError
from kattila_manager.config import SETTINGS, Config
from kattila_manager.store.admin.backups import BackupError
from kattila_manager.store.database import DatabaseNewerError, DatabaseUnusableError
from kattila_settings.settings import ENV_FILE_VARIABLE, ConfigError, settings_help

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a newer version made the database"
_NO_RING = "The key ring is not in a backup: it holds the PSK, which serve takes from DNS again"
_AGENT_HELP = "its id, the beginning of its id, or its host name"
# A day, so that a slip is no silence.
_MOST_SECONDS = 86_400


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns one of the exit codes above."""
    options = _parser().parse_args(arguments)
    compose.log_to_stderr(logging.INFO if options.command in ("serve", "publish") else logging.WARNING)
    try:
        return _run(options)
    except ConfigError as error:
        print(f"kattila-manager: {error}", file=sys.stderr)
        return 2
    except (BackupError, CommandError, DatabaseUnusableError, RingFileError) as error:
        print(f"kattila-manager: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # As when `head` has seen enough; the interpreter would complain once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.env is not None:
        # The server's workers, which are processes of their own, read the same file.
        os.environ[ENV_FILE_VARIABLE] = str(Path(options.env).absolute())
    command: Callable[[Config, argparse.Namespace], int] = options.run
    config = compose.configured()
    try:
        code = command(config, options)
    except DatabaseNewerError as error:
        print(f"kattila-manager: {error}; {backup.way_back(config)}", file=sys.stderr)
        return 3
    sys.stdout.flush()
    return code


def _serve(config: Config, _options: argparse.Namespace) -> int:
    from kattila_manager.commands import serve  # noqa: PLC0415 - granian, which the other commands are spared

    return serve.serve(config)


def _publish(config: Config, options: argparse.Namespace) -> int:
    return publish.once(config, print) if options.once else publish.every(config, options.every)


def _agents(config: Config, options: argparse.Namespace) -> int:
    return fleet.agents(config, print, as_json=options.json)


def _alarms(config: Config, options: argparse.Namespace) -> int:
    return fleet.alarms(config, print, as_json=options.json, with_closed=options.all)


def _report(config: Config, options: argparse.Namespace) -> int:
    return fleet.report(config, options.agent, options.sample, envelope=options.envelope)


def _history(config: Config, options: argparse.Namespace) -> int:
    return history.show(config, print, options.agent, options.since, as_json=options.json)


def _reset(config: Config, options: argparse.Namespace) -> int:
    return fleet.reset(config, print, options.agent)


def _keys(config: Config, options: argparse.Namespace) -> int:
    return keys.keys(config, print, as_json=options.json)


def _refresh_key(config: Config, _options: argparse.Namespace) -> int:
    return keys.refresh_key(config, print)


def _check(config: Config, _options: argparse.Namespace) -> int:
    return check.check(config, print, _progress)


def _backup(config: Config, options: argparse.Namespace) -> int:
    return backup.backup(config, print, _progress, options.file, options.keep, as_json=options.json)


def _restore(config: Config, options: argparse.Namespace) -> int:
    return backup.restore(config, print, _progress, options.file, as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kattila-manager",
        description="Verifies and keeps the agents' reports, and publishes pages from them.",
        epilog=f"settings, from the environment or .env:\n{settings_help(SETTINGS)}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kattila-manager {compose.version()}")
    parser.add_argument("--env", metavar="FILE", help="read settings from this file instead of ./.env")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_daemons(commands)
    _add_fleet(commands)
    _add_keys(commands)
    _add_backups(commands)
    return parser


def _add_daemons(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _add(commands, "serve", _serve, "take reports and answer, until SIGTERM; SIGHUP asks DNS at once")
    parser = _add(commands, "publish", _publish, "raise alarms, write the pages, remove old reports")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="do it once, and say what was done")
    how.add_argument(
        "--every", type=_seconds, default=5.0, metavar="SECONDS", help="do it in a cycle, until SIGTERM (default: 5)"
    )


def _add_fleet(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "agents", _agents, "show all agents, trouble first")
    parser.add_argument("--json", action="store_true", help="as GET /status/agents answers")
    parser = _add(commands, "alarms", _alarms, "show the open alarms")
    parser.add_argument("--all", action="store_true", help="the newest closed ones as well")
    parser.add_argument("--json", action="store_true", help="as GET /status/alarms answers")
    parser = _add(commands, "report", _report, "print a report as it was signed, byte for byte")
    parser.add_argument("agent", metavar="AGENT", help=_AGENT_HELP)
    parser.add_argument("--sample", type=int, metavar="N", help="the measurement of this number, not the newest")
    parser.add_argument("--envelope", action="store_true", help="inside of its MAC, its relays, and when it came")
    parser = _add(commands, "history", _history, "show how the reports of an agent came, and when it was cut off")
    parser.add_argument("agent", metavar="AGENT", help=_AGENT_HELP)
    parser.add_argument("--since", type=_earlier, metavar="WHEN", help="36h or 7d ago, or 2026-01-31 12:00 (UTC)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser = _add(commands, "reset", _reset, "forget what is known of an agent but its reports; asks nothing")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("agent", metavar="AGENT", nargs="?", help=_AGENT_HELP)
    whom.add_argument("--all", action="store_true", help="all agents")


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "keys", _keys, "show the keys by their fingerprints, and which agents use which")
    parser.add_argument("--json", action="store_true", help="for programs")
    _add(commands, "refresh-key", _refresh_key, "ask DNS for the key now")
    _add(commands, "check", _check, "check settings, DNS, keys, the database, and every report in it")


def _add_backups(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "backup", _backup, "copy the database to one file, while serve and publish run")
    parser.epilog = f"{_NO_RING}. {parser.epilog}"
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "file", metavar="FILE", type=Path, nargs="?", help="default: named for the moment and the schema, in BACKUP_DIR"
    )
    where.add_argument(
        "--keep", type=_count, metavar="N", help="remove all from BACKUP_DIR but the newest N, and one of each schema"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser = _add(commands, "restore", _restore, "put a backup in the place of the database, which is kept beside it")
    parser.epilog = f"Stop serve and publish before. {_NO_RING}. {parser.epilog}"
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("file", metavar="FILE", type=Path, nargs="?", help="a backup")
    which.add_argument("--latest", action="store_true", help="the newest in BACKUP_DIR that this version can use")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[Config, argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXIT_CODES)
    # After the command, too; not set there, it leaves alone what was given before it.
    parser.add_argument("--env", metavar="FILE", default=argparse.SUPPRESS, help="read settings from this file")
    parser.set_defaults(run=run)
    return parser


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1")
    return int(text)


def _earlier(text: str) -> int:
    try:
        return wording.earlier(text, compose.clock())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    expected = f"expected seconds above 0, up to {_MOST_SECONDS:g}"
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: {expected}") from None
    if not 0 < seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text}: {expected}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
