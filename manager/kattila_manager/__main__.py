"""`kattila-manager`: the command line, and exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a newer version made the database,
130 interrupted.
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
from kattila_manager.commands import backup, check, fleet, history, keys, output, publish
from kattila_manager.commands.errors import CommandError
from kattila_manager.commands.output import OutputError, complain, say
from kattila_manager.config import SETTINGS, Config
from kattila_manager.store.admin.backups import BackupError
from kattila_manager.store.database import DatabaseNewerError, DatabaseUnusableError
from kattila_settings import privileges
from kattila_settings.privileges import PrivilegesError
from kattila_settings.settings import ENV_FILE_VARIABLE, ConfigError, settings_help, unnamed_file

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a newer version made the database"
_NO_RING = "Backups do not include the key ring, because it holds the PSK; serve gets that from DNS again"
_AGENT_HELP = "its id, a prefix of its id, or its host name"
# One day, so that a typing error does not stop publishing.
_MOST_SECONDS = 86_400


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return one of the exit codes above."""
    output.prepare()
    try:
        code = _exit_code(arguments)
        output.flush()
    except OutputError as error:
        output.complain(f"kattila-manager: {error}")
    except BrokenPipeError:
        # For example, `head` has ended.
        pass
    except KeyboardInterrupt:
        return 130
    else:
        return code
    finally:
        output.discard()
    return 1


def _exit_code(arguments: list[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as ended:
        # argparse has printed help, or what is wrong with the call.
        return 0 if ended.code is None else int(ended.code)
    compose.log_to_stderr(logging.INFO if options.command in ("serve", "publish") else logging.WARNING)
    try:
        return _run(options)
    except ConfigError as error:
        output.complain(f"kattila-manager: {error}")
        return 2
    except (BackupError, CommandError, DatabaseUnusableError, PrivilegesError, RingFileError) as error:
        output.complain(f"kattila-manager: {error}")
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.env is not None:
        # The server's worker processes read the same file.
        os.environ[ENV_FILE_VARIABLE] = str(compose.working_folder() / options.env)
    command: Callable[[Config, argparse.Namespace], int] = options.run
    config = compose.configured()
    _drop_privileges(config)
    try:
        return command(config, options)
    except DatabaseNewerError as error:
        output.complain(f"kattila-manager: {error}; {backup.rollback_advice(config)}")
        return 3


def _drop_privileges(config: Config) -> None:
    """As root, become the user who owns the database and its folder."""
    settings = unnamed_file(None, os.environ, compose.working_folder())
    change = privileges.drop_to_owner(config.database, settings)
    if change is not None:
        output.complain(f"kattila-manager: {change}")


def _serve(config: Config, _options: argparse.Namespace) -> int:
    # The worker processes read the settings, too, perhaps as another user than root.
    compose.configured()
    from kattila_manager.commands import serve  # noqa: PLC0415 - imports granian, which other commands do not need

    return serve.serve(config)


def _publish(config: Config, options: argparse.Namespace) -> int:
    return publish.once(config, say) if options.once else publish.every(config, options.every)


def _agents(config: Config, options: argparse.Namespace) -> int:
    return fleet.agents(config, say, as_json=options.json)


def _alarms(config: Config, options: argparse.Namespace) -> int:
    return fleet.alarms(config, say, as_json=options.json, with_closed=options.all)


def _report(config: Config, options: argparse.Namespace) -> int:
    return fleet.report(config, options.agent, options.sample, envelope=options.envelope)


def _history(config: Config, options: argparse.Namespace) -> int:
    return history.show(config, say, options.agent, options.since, as_json=options.json)


def _reset(config: Config, options: argparse.Namespace) -> int:
    return fleet.reset(config, say, options.agent)


def _forget(config: Config, options: argparse.Namespace) -> int:
    return fleet.forget(config, say, None if options.newcomers else options.agent)


def _keys(config: Config, options: argparse.Namespace) -> int:
    return keys.show(config, say, as_json=options.json)


def _forget_key(config: Config, options: argparse.Namespace) -> int:
    return keys.forget(config, say, options.fingerprint)


def _refresh_key(config: Config, _options: argparse.Namespace) -> int:
    return keys.refresh(config, say)


def _check(config: Config, _options: argparse.Namespace) -> int:
    return check.run(config, say, complain)


def _backup(config: Config, options: argparse.Namespace) -> int:
    return backup.backup(config, say, complain, options.file, options.keep, as_json=options.json)


def _restore(config: Config, options: argparse.Namespace) -> int:
    return backup.restore(config, say, complain, options.file, as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kattila-manager",
        description="Verifies and stores the agents' reports, and publishes pages from them.",
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
    _add(commands, "serve", _serve, "take reports and answer requests, until SIGTERM; SIGHUP queries DNS at once")
    parser = _add(commands, "publish", _publish, "raise alarms, write the pages, prune old reports")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="publish once, and print a summary")
    how.add_argument(
        "--every", type=_seconds, default=5.0, metavar="SECONDS", help="publish in a cycle, until SIGTERM (default: 5)"
    )


def _add_fleet(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "agents", _agents, "show all agents, problems first")
    parser.add_argument("--json", action="store_true", help="print the answer of GET /status/agents, for all agents")
    parser = _add(commands, "alarms", _alarms, "show the open alarms")
    parser.add_argument("--all", action="store_true", help="include the newest closed alarms")
    parser.add_argument("--json", action="store_true", help="print the answer of GET /status/alarms")
    parser = _add(commands, "report", _report, "print a report as it was signed, byte for byte")
    parser.add_argument("agent", metavar="AGENT", help=_AGENT_HELP)
    parser.add_argument("--sample", type=int, metavar="N", help="the sample of this number instead of the newest")
    parser.add_argument("--envelope", action="store_true", help="add its MAC, its relays, and its time of arrival")
    parser = _add(commands, "history", _history, "show how the reports of an agent arrived, and when it was cut off")
    parser.add_argument("agent", metavar="AGENT", help=_AGENT_HELP)
    parser.add_argument(
        "--since",
        type=_past_time,
        metavar="WHEN",
        help="such as 10m, 36h or 7d (ago), or 2026-01-31 12:00 (UTC)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = _add(commands, "reset", _reset, "forget an agent's state, but keep its reports; without confirmation")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("agent", metavar="AGENT", nargs="?", help=_AGENT_HELP)
    whom.add_argument("--all", action="store_true", help="all agents")
    parser = _add(commands, "forget", _forget, "hide a removed agent until its next report, and close its alarms")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("agent", metavar="AGENT", nargs="?", help=_AGENT_HELP)
    whom.add_argument("--newcomers", action="store_true", help="all silent agents that never reported for five minutes")


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "keys", _keys, "show the keys by fingerprint, and which agents use them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(metavar="ACTION", required=False)
    text = "remove a key from the ring of this manager, such as a compromised or a false one"
    parser = _add(actions, "forget", _forget_key, text)
    parser.add_argument("fingerprint", metavar="FINGERPRINT", help="the key, as 'keys' shows it")
    _add(commands, "refresh-key", _refresh_key, "get the key from DNS now")
    _add(commands, "check", _check, "check settings, DNS, keys, the database, and every report in it")


def _add_backups(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "backup", _backup, "copy the database to one file, while serve and publish run")
    parser.epilog = f"{_NO_RING}. {parser.epilog}"
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="default: a file in BACKUP_DIR, named for the time and the schema; -: stdout",
    )
    where.add_argument(
        "--keep", type=_count, metavar="N", help="keep only the newest N in BACKUP_DIR, and the newest of each schema"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = _add(
        commands, "restore", _restore, "replace the database by a backup; the previous database is kept in its folder"
    )
    parser.epilog = f"Stop serve and publish first. {_NO_RING}. {parser.epilog}"
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("file", metavar="FILE", type=Path, nargs="?", help="a backup; -: stdin")
    which.add_argument(
        "--latest", action="store_true", help="the newest backup in BACKUP_DIR that this version can use"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[Config, argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXIT_CODES)
    # Also allowed after the command. SUPPRESS keeps the value given before the command.
    parser.add_argument("--env", metavar="FILE", default=argparse.SUPPRESS, help="read settings from this file")
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1")
    return int(text)


def _past_time(text: str) -> int:
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
