"""`serve`: the parent process of the server, which starts granian."""

from __future__ import annotations

import errno
import logging
import os
import socket

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer
from granian.server.mt import MTServer

from kattila_manager import compose
from kattila_manager.commands.errors import CommandError
from kattila_manager.config import Config
from kattila_manager.store import database
from kattila_manager.store.admin import migrating
from kattila_settings.values import Listen

_log = logging.getLogger("kattila.manager")

# How long a client may take to send its headers, or keep an idle connection. It is well below the agents' interval, so
# that a connection does not close just when the next report is sent on it.
_HEAD_MS = 10_000

# granian would write some lines to stdout.
_LOGGER = {"handlers": [], "propagate": True}
_GRANIAN_LOGGING = {"loggers": {"_granian": _LOGGER, "granian.access": _LOGGER}}


def serve(config: Config) -> int:
    """Serve until SIGTERM; SIGHUP restarts the workers, which then query DNS at once.

    Raises:
        ConfigError: DNS is not set.
        DatabaseUnusableError, BackupError: see `migrating.migrate`.
        CommandError: the working folder was removed, or the server cannot listen on the address.
    """
    config.required_dns()
    if not compose.working_folder().is_absolute():
        # granian's workers could not start.
        raise CommandError("the working folder was removed: change to another folder, and start serve there")
    check_free(config.listen)
    migrating.migrate(config.database, config.backup_dir, compose.clock())
    with database.held_open(config.database):
        os.environ[compose.PARENT] = str(os.getpid())
        server = _server(config)
        server.on_startup(lambda: _log.info("listening on %s, database %s", _shown(config.listen), config.database))
        server.serve()
    return 0


def _server(config: Config) -> MPServer | MTServer:
    return Granian(
        "kattila_manager.compose:rsgi",
        address=_host(config.listen),
        port=config.listen.port,
        interface=Interfaces.RSGI,
        workers=config.workers,
        http=HTTPModes.http1,
        loop=Loops.uvloop,
        websockets=False,
        factory=True,
        backlog=4096,
        backpressure=4096,
        http1_settings=HTTP1Settings(header_read_timeout=_HEAD_MS),
        respawn_failed_workers=True,
        log_access=False,
        log_level=LogLevels.warning,
        log_dictconfig=_GRANIAN_LOGGING,
    )


def check_free(listen: Listen) -> None:
    """Raise CommandError if the address is in use; granian's workers would share a port with another server."""
    host = _host(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if host == "::":
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((host, listen.port))
    except OSError as error:
        raise CommandError(f"cannot listen on {_shown(listen)}: {_explained(error)}") from None


def _host(listen: Listen) -> str:
    """Return the address to bind; all addresses are those of IPv4 alone if the kernel has no IPv6."""
    return listen.host or ("::" if _has_ipv6() else "0.0.0.0")  # noqa: S104 - the setting asks for all addresses


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _explained(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the other server ('ss -ltnp' shows it), or set MANAGER_LISTEN"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address; correct MANAGER_LISTEN"
    if error.errno == errno.EAFNOSUPPORT:
        return "the kernel has no IPv6; set an IPv4 address in MANAGER_LISTEN"
    if error.errno == errno.EACCES:
        return "ports below 1024 need CAP_NET_BIND_SERVICE; set MANAGER_LISTEN to a higher port"
    return f"{error.strerror}; correct MANAGER_LISTEN"


def _shown(listen: Listen) -> str:
    host = f"[{listen.host}]" if ":" in listen.host else listen.host or "*"
    return f"{host}:{listen.port}"
