"""-check: would an agent with these settings work on this node?

One query each to the resolver, the manager and the kernel. Nothing is changed or stored, and of the PSK only the
fingerprint is shown.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus

from kattila_agent import __version__
from kattila_agent.config import Config, host_of, port_of
from kattila_agent.outbound.http.connection import CONNECT_SECONDS, Connection, UnreachableError, in_url
from kattila_agent.peer_api.listening import ListenError, open_sockets
from kattila_agent.peer_api.server import NAME
from kattila_keys.dns_server import DnsError, TxtRecords
from kattila_protocol.signing import Key
from kattila_protocol.txt import TxtError, select_psk
from kattila_settings.settings import ConfigError
from kattila_settings.values import Listen

_HEALTH = "/status/healthcheck"
_TOTAL_SECONDS = 10.0
# The agent on this machine answers sooner.
_OWN_TOTAL_SECONDS = 3.0
_NO_MANAGER_BEHIND_PROXY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_NOT_CHECKED = "not checked, because the settings are wrong"


@dataclass(frozen=True, slots=True)
class SettingsCheck:
    """Whether all settings that the daemon needs are set and valid."""

    ok: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """Whether DNS provides a PSK, and its fingerprint."""

    ok: bool
    fingerprint: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ManagerCheck:
    """Whether the manager answers its health check.

    `absent`: its machine answers that no manager runs there.
    """

    ok: bool
    url: str | None = None
    absent: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ListenCheck:
    """Whether the agent's API can listen.

    `running`: an agent listens there already, which is fine.
    """

    ok: bool
    running: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """All results; the names are those of the JSON."""

    version: str
    python: str
    settings: SettingsCheck
    key: KeyCheck
    manager: ManagerCheck
    listen: ListenCheck

    @property
    def exit_code(self) -> int:
        """The exit code: 0 all checks passed, 1 some failed, 2 the settings are wrong."""
        if not self.settings.ok:
            return 2
        return 0 if self.key.ok and self.manager.ok and self.listen.ok else 1


def check(read_settings: Callable[[], Config], query_dns: Callable[[Config], TxtRecords], python: str) -> Check:
    """Run all checks; blocks for DNS and HTTP, at worst for some 20 seconds.

    `query_dns` queries DNS as the settings say and raises DnsError; `python` is the running version.
    """
    try:
        settings = read_settings()
        settings.required_dns()
        url = settings.required_manager_url()
    except ConfigError as error:
        return _unchecked(str(error), python)
    return Check(
        version=__version__,
        python=python,
        settings=SettingsCheck(ok=True),
        key=_check_key(lambda: query_dns(settings)),
        manager=_check_manager(url),
        listen=_check_listen(settings),
    )


def as_json(found: Check) -> str:
    """Return the results for programs."""
    return json.dumps(asdict(found), indent=2) + "\n"


def as_table(found: Check) -> str:
    """Return the results for people: a line for each check."""
    running = "an agent answers there" if found.listen.running else "free"
    rows = [
        ("settings", found.settings.ok, found.settings.problem or "complete and valid"),
        ("key", found.key.ok, found.key.problem or f"fingerprint {found.key.fingerprint}"),
        ("manager", found.manager.ok, found.manager.problem or f"{found.manager.url} answers"),
        ("listen", found.listen.ok, found.listen.problem or running),
    ]
    head = f"kattila-agent {found.version}, Python {found.python}\n"
    return head + "".join(f"{name:<8}  {_word(ok, text):<5}  {text}\n" for name, ok, text in rows)


def _word(ok: bool, text: str) -> str:
    if text == _NOT_CHECKED:
        return "-"
    return "ok" if ok else "WRONG"


def _unchecked(problem: str, python: str) -> Check:
    return Check(
        version=__version__,
        python=python,
        settings=SettingsCheck(ok=False, problem=problem),
        key=KeyCheck(ok=False, problem=_NOT_CHECKED),
        manager=ManagerCheck(ok=False, problem=_NOT_CHECKED),
        listen=ListenCheck(ok=False, problem=_NOT_CHECKED),
    )


def _check_key(query: Callable[[], TxtRecords]) -> KeyCheck:
    try:
        return KeyCheck(ok=True, fingerprint=Key.from_psk(select_psk(query())).fingerprint)
    except (DnsError, TxtError) as error:
        return KeyCheck(ok=False, problem=str(error))


def _check_manager(url: str) -> ManagerCheck:
    try:
        answer = Connection(url, total_seconds=_TOTAL_SECONDS).get(_HEALTH)
    except UnreachableError as error:
        absent = _is_refused(url)
        # If the name has several addresses, the error is that of the last one, which may be unreachable from here.
        why = "connection refused" if absent else error
        return ManagerCheck(ok=False, url=url, absent=absent, problem=f"{url} does not answer: {why}")
    if answer.status != HTTPStatus.OK or not _is_healthy(answer.body):
        return ManagerCheck(
            ok=False,
            url=url,
            absent=answer.status in _NO_MANAGER_BEHIND_PROXY,
            problem=f"{url} answers, but not like a manager (HTTP {answer.status} at {_HEALTH})",
        )
    if answer.server == NAME:
        return ManagerCheck(ok=False, url=url, problem=f"{url} is an agent; the default port of a manager is 5086")
    return ManagerCheck(ok=True, url=url)


def _is_refused(url: str) -> bool:
    """Return whether an address of a URL's host refuses connections, as a closed port."""
    try:
        socket.create_connection((host_of(url), port_of(url)), timeout=CONNECT_SECONDS, all_errors=True).close()
    except ExceptionGroup as every:
        return every.subgroup(ConnectionRefusedError) is not None
    except OSError:
        return False  # The name cannot be resolved.
    return False


def _check_listen(settings: Config) -> ListenCheck:
    running = False
    for listen in settings.listen:
        try:
            for bound in open_sockets((listen,)):
                bound.close()
        except ListenError as error:
            if not _is_agent(listen):
                return ListenCheck(ok=False, problem=str(error))
            running = True
    return ListenCheck(ok=True, running=running)


def _is_agent(listen: Listen) -> bool:
    try:
        answer = Connection(f"http://{in_url(listen)}", total_seconds=_OWN_TOTAL_SECONDS).get(_HEALTH)
    except UnreachableError:
        return False
    return answer.server == NAME and _is_healthy(answer.body)


def _is_healthy(body: bytes) -> bool:
    try:
        return bool(json.loads(body)["status"] == "ok")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
