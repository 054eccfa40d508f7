"""Dead addresses of a server cost little time (RFC 8305), and a message is signed once the connection stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from socket import AF_INET, AF_INET6, create_server, socket

import pytest

from kattila_agent.outbound.http.connecting import connect, in_turn
from kattila_agent.outbound.http.connection import Connection, UnreachableError
from kattila_agent.outbound.http.resolver import Resolver
from support.agent_folder import keep_id, keep_ring
from support.agent_process import AGENT, running_daemon
from support.manager import Manager
from support.netns import Namespace, new_namespace
from support.open_files import open_files
from support.reports import PSK
from support.waiting import PATIENCE_SECONDS, wait_for

NAME = "manager.fleet.example"
LIVE, LIVE6 = "203.0.113.9", "2001:db8:1::9"
DEAD = [f"192.0.2.{number}" for number in range(10, 40)]
DEAD6 = [f"2001:db8::{number}" for number in range(10, 40)]
# Longer than the default, for slow machines. Two dead addresses, one after the other, would use up a request's time.
CONNECT_SECONDS = 10.0


class Servers:
    """Servers that answer with HTTP, or accept connections and say nothing; `accepted` are their own addresses."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.listening: list[socket] = []

    def serve(self, address: str, port: int = 0, *, is_silent: bool = False) -> int:
        """Serve an address of this thread's network namespace; return the port."""
        listening = create_server((address, port), family=AF_INET6 if ":" in address else AF_INET)
        self.listening.append(listening)
        threading.Thread(target=self._accept, args=(listening, address, is_silent), daemon=True).start()
        return int(listening.getsockname()[1])

    def _accept(self, listening: socket, address: str, is_silent: bool) -> None:
        while True:
            try:
                taken = listening.accept()[0]
            except OSError:
                return
            self.accepted.append(address)
            threading.Thread(target=self._answer, args=(taken, is_silent), daemon=True).start()

    def _answer(self, taken: socket, is_silent: bool) -> None:
        # A client that leaves in the middle ends its connection only.
        with suppress(OSError), taken:
            while taken.recv(65536):
                if not is_silent:
                    taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Namespace, Namespace]]:
    """A node, and its neighbour with the live addresses. No packet to the dead addresses is ever answered."""
    with new_namespace() as node, new_namespace() as other:
        node.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other.name)
        for namespace, addresses in ((node, ("192.0.2.1/24", "2001:db8::1/64")), (other, (LIVE, LIVE6))):
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("link", "set", "eth0", "up")
            for address in addresses:
                namespace.ip("address", "add", address, "dev", "eth0", *(("nodad",) if ":" in address else ()))
        for family, there in (("-4", LIVE), ("-6", LIVE6)):
            node.ip(family, "route", "add", there, "dev", "eth0")
        other.ip("route", "add", "192.0.2.0/24", "dev", "eth0")
        other.ip("-6", "route", "add", "2001:db8::/64", "dev", "eth0")
        for address in (*DEAD, *DEAD6):
            node.ip("neighbour", "add", address, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
        yield node, other


@pytest.fixture
def node(network: tuple[Namespace, Namespace]) -> Iterator[None]:
    """Run the test in the node."""
    with network[0].entered():
        yield


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers()
    yield made
    for listening in made.listening:
        listening.shutdown(2)
        listening.close()


@contextmanager
def connected(
    port: int, *addresses: str, resolver: Resolver | None = None, seconds: float = CONNECT_SECONDS
) -> Iterator[Connection]:
    known = resolver or Resolver(lambda _: addresses)
    with closing(Connection(f"http://{NAME}:{port}", resolver=known, connect_seconds=seconds)) as connection:
        yield connection


@pytest.mark.parametrize(
    "addresses",
    [
        [*DEAD[:1], LIVE],
        [*DEAD[:5], LIVE],
        [*DEAD, LIVE],
        [*DEAD6[:5], LIVE],
        [*DEAD6[:5], *DEAD[:5], LIVE6],
        [*DEAD[:2], "198.51.100.1", "fe80::1", *DEAD6, LIVE6],
    ],
    ids=["one", "five", "thirty", "the other family", "both", "no route"],
)
def test_dead_addresses_leave_time_for_the_live_one(
    network: tuple[Namespace, Namespace], servers: Servers, node: None, addresses: Sequence[str]
) -> None:
    with network[1].entered():
        port = servers.serve(addresses[-1])
    with connected(port, *addresses) as connection:
        assert connection.post("/", b"{}").status == 200
        assert connection.address == addresses[-1]


def test_the_address_that_answered_comes_first_the_next_time(
    network: tuple[Namespace, Namespace], servers: Servers, node: None
) -> None:
    with network[1].entered():
        port = servers.serve(LIVE)
    resolver = Resolver(lambda _: [*DEAD, LIVE])
    for _ in range(2):
        # The second one is another connection, such as the one for the reports of others.
        with connected(port, resolver=resolver) as connection:
            assert connection.post("/", b"{}").status == 200
        assert resolver.addresses(NAME)[0] == LIVE


def test_servers_that_accept_and_say_nothing_come_last_the_next_time(servers: Servers) -> None:
    port = servers.serve("127.0.0.1", is_silent=True)
    servers.serve("127.0.0.2", port, is_silent=True)
    servers.serve("127.0.0.3", port)
    resolver = Resolver(lambda _: ["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    connection = Connection(f"http://{NAME}:{port}", resolver=resolver, total_seconds=1.0)
    for _ in range(2):
        with pytest.raises(UnreachableError):
            connection.post("/", b"{}")
    assert connection.post("/", b"{}").status == 200
    connection.close()
    assert servers.accepted == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert resolver.addresses(NAME) == ["127.0.0.3", "127.0.0.1", "127.0.0.2"]


def test_a_message_is_made_once_the_connection_stands(
    network: tuple[Namespace, Namespace], servers: Servers, node: None
) -> None:
    accepted_at_signing: list[list[str]] = []

    def signed() -> bytes:
        wait_for(lambda: servers.accepted, "a connection")
        accepted_at_signing.append(list(servers.accepted))
        return b'{"signed":"now"}'

    with network[1].entered():
        port = servers.serve(LIVE)
    with connected(port, *DEAD, LIVE) as connection:
        for _ in range(2):
            assert connection.post("/", signed).status == 200
    assert accepted_at_signing == [[LIVE], [LIVE]]


def test_a_message_is_not_made_without_a_connection(node: None) -> None:
    made: list[str] = []

    def signed() -> bytes:
        made.append("a message")
        return b"{}"

    with (
        connected(9, *DEAD[:2], seconds=1.0) as connection,
        pytest.raises(UnreachableError, match="it does not answer in time"),
    ):
        connection.post("/", signed)
    assert made == []


def test_a_refusal_says_more_than_silence_and_local_errors(node: None) -> None:
    addresses = (*DEAD[:2], "127.0.0.1", "fe80::1")
    with (
        connected(9, *addresses, seconds=1.0) as connection,
        pytest.raises(UnreachableError, match="connection refused"),
    ):
        connection.post("/", b"{}")


def test_silence_ends_in_time_and_leaves_no_socket(node: None) -> None:
    before, began = open_files(), time.monotonic()
    with pytest.raises(TimeoutError):
        connect(DEAD, 9, 1.0)
    assert 1.0 <= time.monotonic() - began < PATIENCE_SECONDS
    # Servers of earlier tests may still close theirs.
    assert open_files() < before + len(DEAD)


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        (["a:1"], ["a:1"]),
        (["a:1", "a:2", "1.1", "1.2", "1.3"], ["a:1", "1.1", "a:2", "1.2", "1.3"]),
        (["1.1", "1.2", "a:1"], ["1.1", "a:1", "1.2"]),
    ],
)
def test_the_families_take_turns(addresses: list[str], order: list[str]) -> None:
    assert in_turn(addresses) == order


def test_the_agent_reports_to_the_live_address_of_a_name(network: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    """The whole agent with the system's resolver, and the whole manager."""
    node, other = network
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{address} {NAME}\n" for address in (*DEAD[:8], LIVE)))
    folders = tmp_path / "manager", tmp_path / "agent"
    for folder in folders:
        folder.mkdir()
    manager = Manager(folders[0], listen="*", within=other, port=5086)
    keep_id(folders[1])
    keep_ring(folders[1], PSK)
    program = node.command("sh", "-ec", f'mount --bind {hosts} /etc/hosts; exec "$@"', "sh", *AGENT)
    with manager_running(manager, other):
        settings = {"DNS": "kattila.example.org", "DNS_SERVER": "127.0.0.1:9", "AGENT_LISTEN": "127.0.0.1:0"}
        url = f"http://{NAME}:5086"
        with running_daemon(folders[1], program=program, **settings, MANAGER_URL=url) as daemon:
            daemon.wait_for_log("the manager takes the reports")


@contextmanager
def manager_running(manager: Manager, within: Namespace) -> Iterator[None]:
    with within.entered():
        manager.start()
    try:
        yield
    finally:
        manager.stop()
