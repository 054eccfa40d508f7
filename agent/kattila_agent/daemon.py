"""The daemon: it reports at once and then in every interval, and serves the API meanwhile, until it is stopped."""

from __future__ import annotations

import ctypes
import logging
import math
import signal
import threading
from dataclasses import dataclass, field

from kattila_agent.compose import Agent
from kattila_agent.config import Config
from kattila_agent.identity import Identity, StateError
from kattila_agent.outbound.draining import Draining
from kattila_agent.outbound.http.clients import Clients
from kattila_agent.outbound.reporting import Reporter
from kattila_agent.peer_api.late_addresses import listen_later, open_present
from kattila_agent.peer_api.listening import address_of
from kattila_agent.peer_api.server import serve
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.fitting import TooMuchError
from kattila_keys.refresh import Keys
from kattila_settings.failures import Failures, described
from kattila_settings.signals import Signals

# The share of an interval by which cycles vary, so that a fleet that starts together does not report together.
JITTER = 0.05
# How often the keys are checked within a long interval: after a failure DNS is queried each minute.
_CHECK_SECONDS = 10.0
_STOP_SECONDS = 1.0

# What can fail in the loop.
_REPORTING = "reporting"
_DRAINING = "sending waiting samples"
_REFRESHING = "refreshing the keys"

_log = logging.getLogger("kattila.agent")


def next_due(due: float, now: float, interval: float) -> float:
    """Return when the cycle after that of `due` is due (monotonic seconds).

    Always whole intervals after the first cycle, so that nothing drifts. Intervals that a long cycle took are skipped.
    """
    return due + interval * max(1, math.floor((now - due) / interval) + 1)


@dataclass(frozen=True, slots=True)
class Loop:
    """The reporting thread. No failure ends it: each is logged once, and so is its end.

    The events `refresh`, `hurry` and `stop` ask for a DNS query, a report, and its end.
    """

    runtime: Runtime
    keys: Keys
    reporter: Reporter
    draining: Draining
    interval: float
    wake: threading.Event = field(default_factory=threading.Event)
    refresh: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    failures: Failures = field(default_factory=lambda: Failures(_log))

    def request(self, event: threading.Event) -> None:
        """Set an event and wake the thread."""
        event.set()
        self.wake.set()

    def run(self) -> None:
        """Report until stopped."""
        due = self.runtime.monotonic()
        with self.failures.guard(_REFRESHING):
            if self.keys.ring().entries:
                # A node that boots without DNS reports with its cached keys first, and queries DNS after that.
                self.request(self.refresh)
            else:
                self.keys.refresh_or_log(self.runtime.now())
        has_reported = False
        while not self.stop.is_set():
            self.report()
            if not has_reported:
                # By now, everything is imported.
                return_memory()
                has_reported = True
            due = next_due(due, self.runtime.monotonic(), self.interval)
            self._wait_until(due + self.interval * JITTER * (2 * self.runtime.share() - 1))

    def report(self) -> None:
        """Run one cycle, and start to drain the spool if its report arrived."""
        # No sample that waited is sent before a current report has arrived.
        self.draining.stop()
        try:
            if self.reporter.cycle():
                self.draining.begin()
        except Exception as error:
            self.failures.failed(_REPORTING, f"no report: {_reason(error)}")
        else:
            self.failures.worked(_REPORTING)

    def _wait_until(self, due: float) -> None:
        while not self.stop.is_set() and (left := due - self.runtime.monotonic()) > 0:
            self.wake.wait(min(left, _CHECK_SECONDS, self._seconds_until_draining()))
            self.wake.clear()
            if self._signing_key_changed() or self.hurry.is_set():
                self.hurry.clear()
                return
            if not self.stop.is_set() and self._seconds_until_draining() == 0:
                self.drain()

    def _seconds_until_draining(self) -> float:
        due_at = self.draining.due_at
        return math.inf if due_at is None else max(0.0, due_at - self.runtime.monotonic())

    def drain(self) -> None:
        """Send the next waiting sample."""
        try:
            self.draining.step()
        except Exception as error:
            self.draining.stop()
            reason = f"waiting samples cannot be sent: {_reason(error)}"
            self.failures.failed(_DRAINING, reason, level=logging.WARNING)
        else:
            self.failures.worked(_DRAINING)

    def _signing_key_changed(self) -> bool:
        """Query DNS if that is due; return whether the signing key has changed."""
        before = after = None
        with self.failures.guard(_REFRESHING):
            before = after = self._signing_key()
            now = self.runtime.now()
            if self.refresh.is_set():
                self.refresh.clear()
                self.keys.refresh_or_log(now)
            elif not self.stop.is_set():
                self.keys.refresh_if_due(now)
            after = self._signing_key()
        return before != after

    def _signing_key(self) -> str | None:
        entries = self.keys.ring().entries
        return entries[0].key.fingerprint if entries else None


def return_memory() -> None:
    """Return the memory to the kernel that compiling the modules took, 5 MiB in the agent's single file."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    # Only glibc has it, and only glibc keeps so much.
    if trim is not None:
        trim(0)


def _reason(error: Exception) -> str:
    is_expected = isinstance(error, (StateError, TooMuchError, OSError))
    return str(error) if is_expected else f"{described(error)}, which is a bug in the agent"


def run(config: Config, runtime: Runtime, identity: Identity, keys: Keys) -> int:
    """Run until SIGTERM or SIGINT and return the exit code.

    SIGHUP queries DNS at once.

    Raises:
        ConfigError: no MANAGER_URL.
        ListenError: the API cannot listen on an address, and waiting for the address would not help.
        StateError: the state folder cannot be used.
    """
    clients = Clients.of(config.required_manager_url())
    sockets, absent = open_present(config.listen)
    agent = Agent(config, runtime, identity, keys, clients)
    loop = Loop(runtime, keys, agent.reporter, agent.draining, config.interval_seconds)
    _log.info(
        "agent %s reports to %s every %d s and answers %s",
        identity.agent_id(),
        config.manager_url,
        config.interval_seconds,
        f"on {', '.join(map(address_of, sockets))}" if sockets else "nowhere yet",
    )
    api = agent.api(on_reset=lambda: loop.request(loop.hurry))
    app = api.app()
    if sockets:
        serve(app, sockets, api.allows)
    listen_later(absent, lambda opened: serve(app, opened, api.allows))
    agent.discoverer.start()
    return _run_until_stopped(loop)


def _run_until_stopped(loop: Loop) -> int:
    """Run the loop in a thread, so that a signal is handled even during a request."""
    signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def report_until_stopped() -> None:
        try:
            loop.run()
        except BaseException:
            _log.exception("the reporting thread failed; this is a bug in the agent")
        finally:
            signals.wake()

    thread = threading.Thread(target=report_until_stopped, name="reports", daemon=True)
    thread.start()
    while (received := signals.wait()) == signal.SIGHUP:
        loop.request(loop.refresh)
    loop.request(loop.stop)
    thread.join(_STOP_SECONDS)
    _log.info("stopped (%s)", "ended" if received is None else received.name)
    return 1 if received is None else 0
