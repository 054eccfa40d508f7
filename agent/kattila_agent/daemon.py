"""The daemon: a report at once and then in every interval, and the API beside it, until it is told to stop.

May live here: when a cycle is due, threads, and what a signal does. Not here: what a cycle does (reporting), what is
sent between two cycles (draining), and how the parts are joined (joining).
"""

from __future__ import annotations

import logging
import math
import signal
import threading
from dataclasses import dataclass, field

from kattila_agent.compose import Agent, MeasureFor, over_http_to
from kattila_agent.config import Config
from kattila_agent.identity import Identity, StateError
from kattila_agent.outbound.changes import Changes
from kattila_agent.outbound.draining import Draining
from kattila_agent.outbound.reporting import Reporter
from kattila_agent.peer_api.app import make_app
from kattila_agent.peer_api.server import address_of, open_sockets, serve
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.fitting import TooMuchError
from kattila_keys.refresh import Keys
from kattila_settings.signals import Signals

# A fleet that was started at once does not report at once for ever.
JITTER = 0.05
# How often DNS is looked at while the interval is longer: after a failure it is asked each minute.
_LOOK_SECONDS = 10.0
_STOP_SECONDS = 1.0

_log = logging.getLogger("kattila.agent")


def next_due(due: float, now: float, interval: float) -> float:
    """Return when the cycle after the one of `due` is due (monotonic seconds, as `now`).

    Always whole intervals after the first, so that nothing drifts; intervals that a long cycle took are skipped.
    """
    return due + interval * max(1, math.floor((now - due) / interval) + 1)


@dataclass(frozen=True, slots=True)
class Loop:
    """The reporting thread: `refresh` asks for DNS, `hurry` for a report, `stop` for its end; `wake` says look."""

    runtime: Runtime
    keys: Keys
    reporter: Reporter
    draining: Draining
    interval: float
    wake: threading.Event = field(default_factory=threading.Event)
    refresh: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, *events: threading.Event) -> None:
        """Set some of the events and let the thread see them."""
        for event in events:
            event.set()
        self.wake.set()

    def run(self) -> None:
        """Report until told to stop."""
        changes = Changes()
        due = self.runtime.monotonic()
        if self.keys.ring().entries:
            # A node that boots without DNS reports at once with the cached keys, and asks then.
            self.ask(self.refresh)
        else:
            self.keys.refresh_or_log(self.runtime.now())
        while not self.stop.is_set():
            self.report(changes)
            due = next_due(due, self.runtime.monotonic(), self.interval)
            self._wait_until(due + self.interval * JITTER * (2 * self.runtime.share() - 1))

    def report(self, changes: Changes) -> None:
        """Do one cycle, and send what waits if it arrived; what goes wrong is noted in `changes`."""
        # Whatever happens, nothing that waited goes out before a report of now arrived.
        self.draining.stop()
        try:
            if self.reporter.cycle():
                self.draining.begin()
        except (StateError, TooMuchError, OSError) as error:
            changes.note("cycle", str(error), logging.ERROR, f"no report: {error}")
        else:
            changes.note("cycle", "", logging.DEBUG, "the cycle is complete")

    def _wait_until(self, due: float) -> None:
        while not self.stop.is_set() and (left := due - self.runtime.monotonic()) > 0:
            self.wake.wait(min(left, _LOOK_SECONDS, self._until_next_waiting()))
            self.wake.clear()
            if self._look_at_keys() or self.hurry.is_set():
                self.hurry.clear()
                return
            if not self.stop.is_set() and self._until_next_waiting() == 0:
                self.send_waiting()

    def _until_next_waiting(self) -> float:
        """Return in how many seconds the next one of the samples that waited is due."""
        due_at = self.draining.due_at
        return math.inf if due_at is None else max(0.0, due_at - self.runtime.monotonic())

    def send_waiting(self) -> None:
        """Send the next one of the samples that waited."""
        try:
            self.draining.step()
        except (StateError, OSError) as error:
            self.draining.stop()
            _log.warning("what waits cannot be sent: %s", error)

    def _look_at_keys(self) -> bool:
        """Ask DNS if that is due; tell whether the key to sign with is another one now."""
        before = self._signing_key()
        now = self.runtime.now()
        if self.refresh.is_set():
            self.refresh.clear()
            self.keys.refresh_or_log(now)
        elif not self.stop.is_set():
            self.keys.refresh_if_due(now)
        return before != self._signing_key()

    def _signing_key(self) -> str | None:
        entries = self.keys.ring().entries
        return entries[0].key.fingerprint if entries else None


def run(config: Config, runtime: Runtime, identity: Identity, keys: Keys, measure: MeasureFor) -> int:
    """Run until SIGTERM or SIGINT and return the exit code; SIGHUP asks DNS at once.

    Raises:
        ConfigError: no MANAGER_URL.
        ListenError: the API's address is taken.
        StateError: the state folder cannot be used.
    """
    wire = over_http_to(config.required_manager_url())
    sockets = open_sockets(config.listen)
    agent = Agent(config, runtime, identity, keys, measure, wire)
    loop = Loop(runtime, keys, agent.reporter, agent.draining, config.interval_seconds)
    _log.info(
        "agent %s reports to %s every %d s and answers on %s",
        identity.agent_id(),
        config.manager_url,
        config.interval_seconds,
        ", ".join(map(address_of, sockets)),
    )
    serve(make_app(agent.node(after_reset=lambda: loop.ask(loop.hurry))), sockets)
    agent.discoverer.start()
    return _run_until_told(loop)


def _run_until_told(loop: Loop) -> int:
    """Run the loop in a thread, so that a signal is answered while a request is under way."""
    signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def report_until_stopped() -> None:
        try:
            loop.run()
        except BaseException:
            _log.exception("the reporting thread failed; this is a mistake in the agent")
        finally:
            signals.wake()

    thread = threading.Thread(target=report_until_stopped, name="reports", daemon=True)
    thread.start()
    while (told := signals.wait()) == signal.SIGHUP:
        loop.ask(loop.refresh)
    loop.ask(loop.stop)
    thread.join(_STOP_SECONDS)
    _log.info("stopped (%s)", "ended" if told is None else told.name)
    return 1 if told is None else 0
