"""The agent's command line: flags to parts, errors to exit codes.

May live here: the only reading of the clock, of chance, of the environment and of the working folder. Exit codes:
0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import argparse
import ipaddress
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

from kattila_agent import __version__, config
from kattila_agent.commands import once
from kattila_agent.config import Config
from kattila_agent.identity import Identity, StateError
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.collect import Given, measure
from kattila_agent.sampling.fitting import TooMuchError
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool.sample import Clock
from kattila_keys.dns_server import TxtRecords
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile, RingFileError
from kattila_protocol.names import is_id
from kattila_protocol.peer import PeerAnswer
from kattila_settings.settings import ConfigError, settings_help
from kattila_settings.values import ALL_ADDRESSES, Listen, listen

_RING_FILE = "ring.json"
_DNS_SECONDS = 5.0

_log = logging.getLogger("kattila.agent")


def main(arguments: list[str] | None = None) -> int:
    """Run the agent with these arguments, else with the command line's, and return the exit code."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.json and not (flags.check or flags.discover):
        parser.error("-json goes with -check and -discover")
    _log_to_stderr(debug=flags.debug)
    try:
        return _run(flags)
    except ConfigError as error:
        print(f"kattila-agent: {error}", file=sys.stderr)
        return 2
    except (StateError, RingFileError, TooMuchError, once.CommandError, OSError) as error:
        print(f"kattila-agent: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(flags: argparse.Namespace) -> int:
    if flags.wireguard_helper:
        from kattila_agent.helpers import wireguard_helper  # noqa: PLC0415 - one of the two runs, never both

        return wireguard_helper.main([])
    if flags.clock_helper:
        from kattila_agent.helpers import clock_helper  # noqa: PLC0415 - see above

        return clock_helper.main([])
    runtime = _runtime()
    if flags.sysinfo:
        sys.stdout.buffer.write(once.show(_measure_once(_given(flags.env), runtime)).encode())
        return 0
    if flags.check:
        return _check(flags)
    settings = config.read(flags.env, os.environ, Path.cwd())
    return _with_settings(flags, settings, runtime, Identity(settings.state_dir, runtime.new_id))


def _with_settings(flags: argparse.Namespace, settings: Config, runtime: Runtime, identity: Identity) -> int:
    if flags.dump is not None:
        return _dump(flags.dump, settings, runtime, identity)
    if flags.reset is not None:
        return _reset(flags.reset, settings, runtime, identity)
    if flags.discover:
        return _discover(flags, settings, runtime, identity)
    return _serve(settings, runtime, identity)


def _serve(settings: Config, runtime: Runtime, identity: Identity) -> int:
    from kattila_agent import daemon  # noqa: PLC0415 - the server and requests, which the commands are spared

    def measured(now: int, manager_address: str | None, clock_offset: int | None) -> Measurement:
        return measure(_given_by(settings, manager_address, clock_offset), now, runtime.monotonic)

    return daemon.run(settings, runtime, identity, _keys(settings, runtime), measured)


def _check(flags: argparse.Namespace) -> int:
    from kattila_agent.commands import check  # noqa: PLC0415 - see _serve

    found = check.check(
        lambda: config.read(flags.env, os.environ, Path.cwd()),
        lambda settings: _asking(settings)(),
        platform.python_version(),
    )
    sys.stdout.write(check.as_json(found) if flags.json else check.as_table(found))
    return found.exit_code


def _discover(flags: argparse.Namespace, settings: Config, runtime: Runtime, identity: Identity) -> int:
    from kattila_agent.commands import discover  # noqa: PLC0415 - see _serve
    from kattila_agent.outbound import discovery  # noqa: PLC0415 - see _serve

    measurement = _measure_once(_given_once(settings), runtime)
    addresses = discover.whom_to_ask(measurement.telemetry)
    ring = once.usable_ring(_keys(settings, runtime), runtime.now())
    own_id = identity.agent_id()

    def ask(address: str) -> PeerAnswer:
        return discovery.ask(discovery.over_http, own_id, address, ring, runtime.nonce(), runtime.now())

    progress = discover.progress_on(sys.stderr)
    found = discover.survey(addresses, own_id, measurement.hostname, ask, runtime.monotonic, progress)
    sys.stdout.write(discover.as_json(found) if flags.json else discover.as_table(found))
    return 0


def _dump(target: str, settings: Config, runtime: Runtime, identity: Identity) -> int:
    ring = once.usable_ring(_keys(settings, runtime), runtime.now())
    measurement = _measure_once(_given_once(settings), runtime)
    numbers = identity.take()
    clock = Clock(runtime.now(), measurement.boot_id, runtime.since_boot_ms())
    report = once.signed_once(measurement, numbers, runtime.nonce(), clock, ring)
    once.write_dump(report, target)
    _log.info(
        "wrote %d bytes to %s: agent %s, sample %d, tick %d, key %s",
        len(report),
        target,
        numbers.agent_id,
        numbers.sample,
        numbers.tick,
        ring.current.fingerprint,
    )
    return 0


def _reset(words: list[str], settings: Config, runtime: Runtime, identity: Identity) -> int:
    where, agent_id = _whom_to_reset(words, settings)
    ring = once.usable_ring(_keys(settings, runtime), runtime.now())
    print(once.reset_agent(runtime, ring, where, agent_id or identity.agent_id()))
    return 0


def _whom_to_reset(words: list[str], settings: Config) -> tuple[Listen, str | None]:
    """Return where to ask, and which id to end if it is not the one of the state folder."""
    if not words:
        return settings.listen[0], None
    try:
        where = listen(config.PORT)(words[0])
    except ValueError as error:
        raise ConfigError(f"-reset: {error}") from error
    agent_id = words[1].lower() if len(words) == 2 else None
    if len(words) > 2 or (agent_id is not None and not is_id(agent_id)):
        raise ConfigError("-reset takes an ADDRESS and an AGENT_ID, which is a UUID")
    if agent_id is None and not _is_loopback(where):
        raise ConfigError(f"-reset {words[0]} needs the id of the agent there: -reset {words[0]} AGENT_ID")
    return where, agent_id


def _is_loopback(where: Listen) -> bool:
    return where.host != ALL_ADDRESSES and ipaddress.ip_address(where.host).is_loopback


def _measure_once(given: Given, runtime: Runtime) -> Measurement:
    return measure(given, runtime.now(), runtime.monotonic)


def _given(env_file: str | None) -> Given:
    """Return what the settings say; what this machine looks like is worth showing without them."""
    try:
        return _given_once(config.read(env_file, os.environ, Path.cwd()))
    except ConfigError as error:
        print(f"kattila-agent: shown without settings: {error}", file=sys.stderr)
        return Given({}, config.default_limits())


def _given_once(settings: Config) -> Given:
    return _given_by(settings, once.resolved(settings.manager_url) if settings.manager_url else None)


def _given_by(settings: Config, manager_address: str | None, clock_offset: int | None = None) -> Given:
    return Given(
        settings.labels,
        settings.limits,
        manager_address,
        clock_offset,
        settings.wireguard_helper,
        settings.clock_helper,
        settings.boot_id,
        config.port_of(settings.manager_url) if settings.manager_url else None,
    )


def _keys(settings: Config, runtime: Runtime) -> Keys:
    return Keys(RingFile(settings.state_dir / _RING_FILE), _asking(settings), runtime.share)


def _asking(settings: Config) -> Callable[[], TxtRecords]:
    """Return the question to DNS that the settings ask for; raises ConfigError."""
    name = settings.required_dns()

    def ask() -> TxtRecords:
        # dnspython weighs 10 MB and 0.05 s, which the first report with a cached key does not wait for.
        from kattila_keys.dns import query_txt  # noqa: PLC0415 - dnspython, only to ask

        return query_txt(
            name,
            server=settings.dns_server,
            timeout_seconds=_DNS_SECONDS,
            require_ad=settings.dns_require_ad,
        )

    return ask


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
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("asyncio", "urllib3", "waitress"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kattila-agent",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure this node and report to the manager, until stopped. Flags take one or two dashes.",
        epilog="settings, from .env in the working folder and, above it, from the environment:\n"
        + settings_help(config.SETTINGS),
    )
    once = parser.add_mutually_exclusive_group()
    once.add_argument("-sysinfo", "--sysinfo", action="store_true", help="print all telemetry as JSON")
    once.add_argument(
        "-dump", "--dump", metavar="FILE", help='write one signed report, as it would be sent, to FILE ("-": stdout)'
    )
    once.add_argument(
        "-reset",
        "--reset",
        nargs="*",
        metavar="ADDRESS [AGENT_ID]",
        help="make the agent at ADDRESS, else the one on this machine, forget itself and take a new id",
    )
    once.add_argument(
        "-discover",
        "--discover",
        action="store_true",
        help="show which agents answer behind this node's tunnels, and how far from the manager each of them is",
    )
    once.add_argument(
        "-check",
        "--check",
        action="store_true",
        help="tell whether settings, DNS record, manager and own port are in order; changes nothing",
    )
    once.add_argument(
        "-wireguard-helper",
        "--wireguard-helper",
        action="store_true",
        help="tell the agent what WireGuard says, without its keys; for systemd to start, as root, behind a socket",
    )
    once.add_argument(
        "-clock-helper",
        "--clock-helper",
        action="store_true",
        help="tell the agent how well the kernel's clock is disciplined; for systemd to start behind a socket",
    )
    once.add_argument("-version", "--version", action="version", version=f"kattila-agent {__version__}")
    parser.add_argument("-env", "--env", metavar="FILE", help="read the settings from FILE (also KATTILA_ENV=FILE)")
    parser.add_argument("-json", "--json", action="store_true", help="of -check and -discover: print JSON")
    parser.add_argument("-v", "-debug", "--debug", action="store_true", help="log more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
