"""Runs an agent next to a stand-in for the manager, and sends requests to the agent's API."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.agent_folder import PSK, keep_id, settings
from support.agent_process import Daemon, running_daemon
from support.knot import Knot
from support.manager_stand_in import StandIn, running_stand_in
from support.waiting import PATIENCE_SECONDS


@dataclass(frozen=True)
class Answer:
    """An answer of the API; the names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """Return the problem's type after checking that it is a problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        members = json.loads(self.body)
        assert members["status"] == self.status
        assert members["title"]
        return str(members["type"]).removeprefix("urn:kattila:problem:")


@dataclass(frozen=True)
class Node:
    """A running agent: the address of its API, its state folder, its process, and the manager that it reports to."""

    address: str
    folder: Path
    daemon: Daemon
    manager: StandIn

    @property
    def port(self) -> int:
        """The port of the API."""
        return int(self.address.rpartition(":")[2])


@contextmanager
def running_node(knot: Knot, folder: Path, **more: str) -> Iterator[Node]:
    """Run an agent with these settings, once the manager has received its first report."""
    keep_id(folder)
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK) | {"INTERVAL": "30"} | more
        with running_daemon(folder, **chosen) as daemon:
            daemon.wait_for_log("the manager takes the reports")
            yield Node(daemon.address(), folder, daemon, manager)


def ask(
    address: str, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
) -> Answer:
    """Send a request over a new connection."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": content_type} if body is not None else {})
        return _answer(connection.getresponse())
    finally:
        connection.close()


def speak(port: int, raw: bytes) -> Answer:
    """Send bytes over a new connection, and return the first answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(raw)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return _answer(response)


def _answer(response: http.client.HTTPResponse) -> Answer:
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
