"""The HTTP clients of the agent: to the manager, and to other agents."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from kattila_agent.config import PORT
from kattila_agent.outbound.http.connection import Connection, Connections, Page, Reply, in_url
from kattila_agent.outbound.http.transport import MakeBody
from kattila_settings.values import Listen

UPDATES = "/status/updates"
REGISTER = "/status/register"
RELAY = "/status/relay"
PEER = "/status/peer"
# The header that states how long the caller of a relay will wait, in ms.
BUDGET = "Kattila-Budget-Ms"

# A relay is behind a tunnel of this node.
_RELAY_CONNECT_SECONDS = 2.0
# An answer from the other side of the world takes less than one, even if the tunnel has to shake hands first.
ANSWER_SECONDS = 2.0


class AgentClient:
    """Sends requests to other agents, each over a new connection.

    Safe for several threads.
    """

    def __init__(self, port: int = PORT) -> None:
        """Take the port that all agents listen on."""
        self._port = port

    def query(self, address: str, parameters: Mapping[str, str]) -> Page:
        """Query the agent at an address for its distance to the manager.

        Raises UnreachableError.
        """
        with closing(Connection(self._url(address), total_seconds=ANSWER_SECONDS)) as connection:
            return connection.get(PEER, parameters)

    def relay(self, address: str, body: bytes | MakeBody, seconds: float) -> Reply:
        """Post a report to the relay at an address, with the time it may take.

        Raises UnreachableError.
        """
        with closing(Connection(self._url(address), connect_seconds=_RELAY_CONNECT_SECONDS)) as connection:
            return connection.post(RELAY, body, {BUDGET: str(round(seconds * 1000))}, total_seconds=seconds)

    def _url(self, address: str) -> str:
        return f"http://{in_url(Listen(address, self._port))}"


@dataclass(frozen=True, slots=True)
class Clients:
    """All HTTP clients of one agent.

    `manager` carries this node's own messages and is for the reporting thread alone; `forwarding` carries the reports
    of others to the manager.
    """

    manager: Connection
    forwarding: Connections
    agents: AgentClient

    @classmethod
    def of(cls, manager_url: str) -> Clients:
        """Return the clients of an agent whose manager has this URL.

        Opens no connection yet.
        """
        return cls(Connection(manager_url), Connections(manager_url), AgentClient())
