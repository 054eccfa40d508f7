"""Build the agent from its parts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kattila_agent.config import Config
from kattila_agent.identity import Identity
from kattila_agent.outbound.delivery import Delivery
from kattila_agent.outbound.discovery import Directory, Discoverer
from kattila_agent.outbound.draining import Draining
from kattila_agent.outbound.http.clients import Clients
from kattila_agent.outbound.journal import Journal
from kattila_agent.outbound.paths import Uplink
from kattila_agent.outbound.registration import Registrar
from kattila_agent.outbound.reporting import Measure, Reporter
from kattila_agent.peer_api.allowed_sources import AllowedSources
from kattila_agent.peer_api.app import PeerApi
from kattila_agent.peer_api.relay import ReportRelay
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.collect import Inputs, measure
from kattila_agent.spool import Spool
from kattila_agent.spool.numbering import start_above_spool
from kattila_keys.refresh import Keys
from kattila_settings.failures import StateLog

# A delivery path expires after three intervals, plus the time of a cycle in which every recipient hangs.
_INTERVALS = 3
_CYCLE_SECONDS = 30.0

_SPOOL = "spool"

_log = logging.getLogger("kattila.agent")


class Agent:
    """One agent: reporter, draining of the spool, discovery of siblings, and API."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        identity: Identity,
        keys: Keys,
        clients: Clients,
        measure: Measure = measure,
    ) -> None:
        """Build all parts; sends nothing yet.

        Raises:
            SpoolInUseError: another agent uses the state folder.
            StateError: the state folder cannot be used.
        """
        self._config, self._runtime, self._identity, self._keys = config, runtime, identity, keys
        self._clients = clients
        self.spool = Spool(config.state_dir / _SPOOL, config.spool_max_bytes, config.spool_max_age_seconds)
        start_above_spool(identity, self.spool)
        self._uplink = Uplink(_INTERVALS * config.interval_seconds + _CYCLE_SECONDS)
        directory, log = Directory(config.interval_seconds), StateLog(_log)
        journal = Journal(log)
        self.discoverer = Discoverer(
            runtime, directory, clients.agents.query, keys.ring, identity.agent_id, self._uplink.needs_relay
        )
        self.reporter = Reporter(
            runtime=runtime,
            identity=identity,
            keys=keys,
            spool=self.spool,
            delivery=Delivery(clients, directory, self._uplink, runtime),
            manager=clients.manager,
            registrar=Registrar(runtime, identity, self.spool, keys, clients.manager, log),
            directory=directory,
            measure=measure,
            inputs=Inputs.of(config, runtime).with_boot_id(),
            journal=journal,
        )
        self.draining = Draining(self.spool, self.reporter.send_again, runtime, config.interval_seconds, journal)

    def api(self, on_reset: Callable[[], None]) -> PeerApi:
        """Return the API for other agents and for commands.

        `on_reset` is called once the agent has a new id.
        """
        return PeerApi(
            runtime=self._runtime,
            identity=self._identity,
            keys=self._keys,
            spool=self.spool,
            reporter=self.reporter,
            uplink=self._uplink,
            report_relay=ReportRelay(self._identity, self._keys, self._uplink, self._clients, self._runtime),
            allowed_sources=AllowedSources(self._config.peer_networks),
            on_reset=on_reset,
        )
