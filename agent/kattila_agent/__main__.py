"""The agent's command line: flags, the real clock and randomness, and exit codes.

Exit codes: 0 success, 1 failure, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kattila_agent import __version__, config
from kattila_agent.commands.errors import CommandError
from kattila_agent.config import Config
from kattila_agent.identity import ID_FILE, Identity, StateError
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.fitting import TooMuchError
from kattila_keys.dns_server import TxtRecords
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile, RingFileError
from kattila_protocol.foreign_text import shown_lines
from kattila_settings import logs, privileges
from kattila_settings.privileges import PrivilegesError
from kattila_settings.settings import ConfigError, settings_help, unnamed_file

# Commands are imported when they run: requests needs 20 MB and dnspython 10 MB, which most of them do without.
# ruff: noqa: PLC0415

_RING_FILE = "ring.json"
_DNS_SECONDS = 5.0

# The flags of which at most one may be given, with the arguments for argparse.
_COMMANDS: dict[str, dict[str, Any]] = {
    "sysinfo": {"action": "store_true", "help": "print all telemetry of this node as JSON"},
    "dump": {"metavar": "FILE", "help": 'write one signed report to FILE, as it would be sent ("-": stdout)'},
    "reset": {
        "nargs": "*",
        "metavar": "ADDRESS [AGENT_ID]",
        "help": "make the agent at ADDRESS, by default the one on this machine, forget itself and take a new id",
    },
    "discover": {
        "action": "store_true",
        "help": "show the agents that answer behind this node's tunnels, with their distance to the manager",
    },
    "forget-key": {
        "metavar": "FINGERPRINT",
        "help": "remove a key from this node's key ring, such as a compromised or a false one",
    },
    "check": {
        "action": "store_true",
        "help": "check the settings, the DNS record, the manager and the agent's own port; changes nothing",
    },
    "wireguard-helper": {
        "action": "store_true",
        "help": "send the output of wg, without its secrets, to the agent; systemd starts this as root behind a socket",
    },
    "clock-helper": {
        "action": "store_true",
        "help": "send the kernel's clock error to the agent; systemd starts this behind a socket",
    },
    "version": {"action": "version", "version": f"kattila-agent {__version__}"},
}


def main(arguments: list[str] | None = None) -> int:
    """Run the agent with these arguments, by default `sys.argv`; return the exit code."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.json and not (flags.check or flags.discover):
        parser.error("-json goes with -check and -discover")
    _log_to_stderr(debug=flags.debug)
    try:
        return _run(flags)
    except ConfigError as error:
        _complain(error)
        return 2
    except (StateError, RingFileError, TooMuchError, CommandError, PrivilegesError, OSError) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(flags: argparse.Namespace) -> int:
    if flags.wireguard_helper:
        from kattila_agent.helpers import wireguard_helper

        return wireguard_helper.main([])
    if flags.clock_helper:
        from kattila_agent.helpers import clock_helper

        return clock_helper.main([])
    runtime = _runtime()
    if flags.sysinfo:
        return _sysinfo(flags, runtime)
    if flags.check:
        return _check(flags)
    return _run_with_state(flags, _settings(flags), runtime)


def _run_with_state(flags: argparse.Namespace, settings: Config, runtime: Runtime) -> int:
    identity = Identity(settings.state_dir, runtime.new_id)
    # Commands that measure do so before they drop root's rights: WireGuard may need them.
    if flags.dump is not None:
        return _dump(flags, settings, runtime, identity)
    if flags.discover:
        return _discover(flags, settings, runtime, identity)
    _drop_privileges(flags, settings)
    if flags.forget_key is not None:
        return _forget_key(flags.forget_key, settings, runtime)
    if flags.reset is not None:
        return _reset(flags.reset, settings, runtime, identity)
    from kattila_agent import daemon

    return daemon.run(settings, runtime, identity, _keys(settings, runtime))


def _drop_privileges(flags: argparse.Namespace, settings: Config) -> None:
    """As root, become the user who owns the state folder, before anything in it is touched."""
    unnamed = unnamed_file(flags.env, os.environ, Path.cwd())
    change = privileges.drop_to_owner(settings.state_dir / ID_FILE, unnamed)
    if change is not None:
        _complain(change)


def _sysinfo(flags: argparse.Namespace, runtime: Runtime) -> int:
    from kattila_agent.commands import measuring, sysinfo

    settings = None
    try:
        settings = _settings(flags)
    except ConfigError as error:
        _complain(f"shown without settings: {error}")
    sys.stdout.buffer.write(sysinfo.as_json(measuring.measure_once(settings, runtime)).encode())
    return 0


def _check(flags: argparse.Namespace) -> int:
    from kattila_agent.commands import check

    found = check.check(lambda: _settings(flags), lambda settings: _txt_query(settings)(), platform.python_version())
    sys.stdout.write(check.as_json(found) if flags.json else shown_lines(check.as_table(found)))
    return found.exit_code


def _forget_key(fingerprint: str, settings: Config, runtime: Runtime) -> int:
    from kattila_agent.commands import ring

    print(ring.forget_key(_keys(settings, runtime), fingerprint, runtime.now()))
    return 0


def _dump(flags: argparse.Namespace, settings: Config, runtime: Runtime, identity: Identity) -> int:
    from kattila_agent.commands import dump, measuring, ring

    keys = _keys(settings, runtime)
    measurement = measuring.measure_once(settings, runtime)
    _drop_privileges(flags, settings)
    dump.dump(flags.dump, measurement, identity, ring.usable_ring(keys, runtime.now()), runtime)
    return 0


def _reset(words: list[str], settings: Config, runtime: Runtime, identity: Identity) -> int:
    from kattila_agent.commands import reset, ring

    where, agent_id = reset.parse_target(words, settings.listen[0])
    usable = ring.usable_ring(_keys(settings, runtime), runtime.now())
    print(reset.reset(runtime, usable, where, agent_id or identity.agent_id()))
    return 0


def _discover(flags: argparse.Namespace, settings: Config, runtime: Runtime, identity: Identity) -> int:
    from kattila_agent.commands import discover, measuring, ring

    measurement = measuring.measure_once(settings, runtime)
    addresses = discover.query_addresses(measurement.telemetry)
    _drop_privileges(flags, settings)
    usable = ring.usable_ring(_keys(settings, runtime), runtime.now())
    found = discover.discover(addresses, identity.agent_id(), measurement.hostname, usable, runtime)
    sys.stdout.write(discover.as_json(found) if flags.json else shown_lines(discover.as_table(found)))
    return 0


def _complain(problem: object) -> None:
    print(shown_lines(f"kattila-agent: {problem}"), file=sys.stderr)


def _keys(settings: Config, runtime: Runtime) -> Keys:
    return Keys(RingFile(settings.state_dir / _RING_FILE), _txt_query(settings), runtime.share)


def _settings(flags: argparse.Namespace) -> Config:
    return config.read(flags.env, os.environ, Path.cwd())


def _txt_query(settings: Config) -> Callable[[], TxtRecords]:
    """Return a function that queries the TXT record as the settings say.

    Raises ConfigError if they name none.
    """
    name = settings.required_dns()

    def query() -> TxtRecords:
        # dnspython takes 0.05 s to load, which the first report with a cached key need not wait for.
        from kattila_keys.dns import query_txt

        return query_txt(
            name,
            server=settings.dns_server,
            timeout_seconds=_DNS_SECONDS,
            require_ad=settings.dns_require_ad,
        )

    return query


def _runtime() -> Runtime:
    return Runtime(
        now=lambda: time.time_ns() // 1_000_000,
        monotonic=time.monotonic,
        since_boot_ms=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
        nonce=lambda: secrets.token_hex(16),
        new_id=lambda: str(uuid.uuid4()),
        share=random.random,
    )


def _log_to_stderr(*, debug: bool) -> None:
    level = logging.DEBUG if debug else logging.INFO
    logs.log_to_stderr(level, "%(asctime)s %(levelname)s %(message)s")
    for chatty in ("asyncio", "urllib3", "waitress"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kattila-agent",
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure this node and report to the manager, until stopped. Flags take one or two dashes.",
        epilog="settings, from the environment or from .env in the working folder:\n" + settings_help(config.SETTINGS),
    )
    # argparse would add only -h and --help.
    parser.add_argument("-h", "-help", "--help", action="help", help="show this help message and exit")
    commands = parser.add_mutually_exclusive_group()
    for name, options in _COMMANDS.items():
        commands.add_argument(f"-{name}", f"--{name}", **options)
    parser.add_argument("-env", "--env", metavar="FILE", help="read the settings from FILE (also KATTILA_ENV=FILE)")
    parser.add_argument("-json", "--json", action="store_true", help="print JSON (with -check and -discover)")
    parser.add_argument("-v", "-debug", "--debug", action="store_true", help="log more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
