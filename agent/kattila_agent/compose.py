"""The parts of the daemon, joined.

May live here: which part is given which. Not here: what any of them does, and threads (daemon).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from kattila_agent.config import Config
from kattila_agent.identity import Identity
from kattila_agent.outbound.changes import Changes
from kattila_agent.outbound.connection import Connection, Connections, Reply
from kattila_agent.outbound.delivery import RELAY, UPDATES, Courier, Manager, PostToRelay, post_to_relay
from kattila_agent.outbound.discovery import Directory, Discoverer, Get, over_http
from kattila_agent.outbound.draining import Draining
from kattila_agent.outbound.journal import Journal
from kattila_agent.outbound.paths import Way, Ways
from kattila_agent.outbound.registration import Registrar
from kattila_agent.outbound.reporting import Reporter
from kattila_agent.peer_api.allowed_sources import Near
from kattila_agent.peer_api.app import Node, Standing
from kattila_agent.peer_api.relay import Relaying, Surroundings
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import Spool
from kattila_agent.spool.numbering import catch_up
from kattila_keys.refresh import Keys

# Takes the moment (ms UTC), the manager's IP address and the clock_offset of its last verdict, None while unknown.
MeasureFor = Callable[[int, str | None, int | None], Measurement]

# A way is news for three intervals, and for as long as a cycle may take in which everybody hangs.
_INTERVALS = 3
_CYCLE_SECONDS = 30.0

_SPOOL = "spool"

_log = logging.getLogger("kattila.agent")


@dataclass(frozen=True, slots=True)
class Wire:
    """How an agent reaches others.

    `manager` is for the reporting thread, `onward` posts others' reports to the manager (path, body, seconds), `relay`
    posts to an agent at an address, and `peer` asks one.
    """

    manager: Connection
    onward: Callable[[str, bytes, float], Reply]
    relay: PostToRelay
    peer: Get


def over_http_to(url: str) -> Wire:
    """Return the real wire, to the manager at a URL."""
    return Wire(Connection(url), Connections(url).post, post_to_relay, over_http)


class Agent:
    """One agent: what reports, what drains, what discovers, and what the API asks of them."""

    def __init__(
        self, config: Config, runtime: Runtime, identity: Identity, keys: Keys, measure: MeasureFor, wire: Wire
    ) -> None:
        """Join all parts; sends nothing yet.

        Raises:
            SpoolInUseError: another agent uses the state folder.
            StateError: the state folder cannot be used.
        """
        self._runtime, self._identity, self._keys = runtime, identity, keys
        self._spool = Spool(config.state_dir / _SPOOL, config.spool_max_bytes, config.spool_max_age_seconds)
        catch_up(identity, self._spool)
        self._wire = wire
        manager, changes = Manager(wire.manager), Changes()
        self._ways = Ways(_INTERVALS * config.interval_seconds + _CYCLE_SECONDS)
        directory = Directory(config.interval_seconds)
        self._courier = Courier(
            manager=manager,
            post=wire.relay,
            directory=directory,
            ways=self._ways,
            monotonic=runtime.monotonic,
            share=runtime.share,
        )
        journal = Journal(changes)
        self.discoverer = Discoverer(
            runtime=runtime,
            directory=directory,
            get=wire.peer,
            ring=keys.ring,
            own_id=identity.agent_id,
            hurried=self._needs_relay,
            stop=threading.Event(),
        )

        def measured(now: int, clock_offset: int | None) -> Measurement:
            measurement = measure(now, manager.address, clock_offset)
            self.discoverer.observe(measurement.telemetry)
            return measurement

        self.reporter = Reporter(
            runtime=runtime,
            identity=identity,
            keys=keys,
            spool=self._spool,
            courier=self._courier,
            registrar=Registrar(runtime, identity, self._spool, keys, manager, changes),
            measure=measured,
            journal=journal,
        )
        self.draining = Draining(self._spool, self.reporter.send_again, runtime, config.interval_seconds, journal)
        self._near = Near(config.peer_networks, lambda: self.reporter.latest)

    def node(self, *, after_reset: Callable[[], None]) -> Node:
        """Return what the API asks of the agent; `after_reset` is called once it has a new id."""
        relaying = Relaying(
            Surroundings(
                agent_id=self._identity.agent_id,
                verify=self._keys.verify,
                has_made=self._courier.has_made,
                busy_seconds=self._courier.busy_seconds,
                ways=self._ways,
                onward=self._onward,
                now=self._runtime.now,
                monotonic=self._runtime.monotonic,
            )
        )

        def reset(old_id: str) -> str:
            # Before, so that nothing of the old id goes out under the new one; after, for what came meanwhile.
            self._spool.clear()
            fresh = self._identity.replace(old_id)
            self._spool.clear()
            _log.warning("reset: %s is now %s", old_id, fresh)
            after_reset()
            return fresh

        return Node(
            agent_id=self._identity.agent_id,
            verify=self._keys.verify,
            standing=lambda: Standing(self.reporter.latest, self._ways.current(self._runtime.monotonic())),
            reset=reset,
            pass_on=relaying.pass_on,
            is_near=self._near.includes,
            now=self._runtime.now,
        )

    def _needs_relay(self) -> bool:
        way = self._ways.current(self._runtime.monotonic())
        return way is None or way.relay is not None

    def _onward(self, way: Way, body: bytes, seconds: float) -> Reply:
        if way.relay is None:
            return self._wire.onward(UPDATES, body, seconds)
        return self._wire.relay(way.relay.address, RELAY, body, seconds)
