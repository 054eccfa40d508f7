"""One measurement for a command that runs once."""

from __future__ import annotations

import logging
import socket
from urllib.parse import urlsplit

from kattila_agent.config import Config, default_limits
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.collect import Inputs, measure
from kattila_agent.sampling.measurement import Measurement

_log = logging.getLogger("kattila.agent")


def measure_once(settings: Config | None, runtime: Runtime) -> Measurement:
    """Return a measurement of this node, with default limits if there are no settings.

    Resolves the name in the manager's URL first, and waits for that.
    """
    if settings is None:
        inputs = Inputs({}, default_limits())
    else:
        inputs = Inputs.of(settings, _resolved(settings.manager_url) if settings.manager_url else None)
    return measure(inputs, runtime.now(), runtime.monotonic)


def _resolved(url: str) -> str | None:
    """Return the first IP address of a URL's host, None if it has none."""
    host = urlsplit(url).hostname
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        _log.warning("%s cannot be resolved: %s", host, error.strerror)
        return None
    return str(found[0][4][0])
