"""One measurement for a command that runs once."""

from __future__ import annotations

import logging

from kattila_agent.config import Config, default_limits, host_of
from kattila_agent.outbound.http.resolver import look_up
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.collect import Inputs, measure
from kattila_agent.sampling.measurement import Measurement

_log = logging.getLogger("kattila.agent")


def measure_once(settings: Config | None, runtime: Runtime) -> Measurement:
    """Return a measurement of this node, with default limits if there are no settings.

    Resolves the name in the manager's URL first, and waits for that.
    """
    if settings is None:
        inputs = Inputs({}, default_limits(), runtime)
    else:
        inputs = Inputs.of(settings, runtime, _resolved(settings.manager_url) if settings.manager_url else None)
    return measure(inputs.with_boot_id())


def _resolved(url: str) -> str | None:
    """Return the first IP address of a URL's host, None if it has none."""
    host = host_of(url)
    try:
        return look_up(host)[0]
    except OSError as error:
        _log.warning("%s cannot be resolved: %s", host, error.strerror)
        return None
