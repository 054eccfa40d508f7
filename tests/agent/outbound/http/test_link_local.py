"""A manager at a link-local address: the zone selects the interface, and the server does not see it (RFC 6874)."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from kattila_agent.config import host_of, without_zone
from kattila_agent.outbound.http.connection import Connection, UnreachableError
from kattila_agent.outbound.http.resolver import Resolver, look_up
from support.agent_process import AGENT, environment
from support.netns import Namespace, new_namespace
from support.waiting import PATIENCE_SECONDS

NODE, MANAGER = "fe80::a", "fe80::b"
# Names that look like an escape, an index or the escaped percent sign itself, and with reserved characters.
ZONES = ["eth0", "eb0", "25", "2541", "7777", "a+b", "wg-a.b~1"]


class Served(HTTPServer):
    """A health check behind a link; `hosts` are the Host headers that it received."""

    address_family = socket.AF_INET6

    def __init__(self, scope: int) -> None:
        self.hosts: list[str] = []
        super().__init__((MANAGER, 0, 0, scope), Handler)

    def server_bind(self) -> None:
        """Bind without the reverse lookup of HTTPServer."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class Handler(BaseHTTPRequestHandler):
    """Answers like a manager's health check."""

    server: Served

    def do_GET(self) -> None:
        """Keep the Host header and answer."""
        self.server.hosts.append(self.headers["Host"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def behind_a_link(name: str) -> Iterator[tuple[Namespace, Served]]:
    """Run the server in a network namespace, behind the link of this name in the node's."""
    with new_namespace() as node, new_namespace() as other, ExitStack() as stack:
        node.ip("link", "add", "name", name, "type", "veth", "peer", "name", "peer", "netns", other.name)
        # Another link with the same subnet: without the zone the kernel cannot know the right one.
        node.ip("link", "add", "wrong", "type", "veth", "peer", "name", "unused")
        for namespace, link, address in ((node, name, NODE), (node, "wrong", NODE), (other, "peer", MANAGER)):
            namespace.ip("address", "add", f"{address}/64", "dev", link, "nodad")
            namespace.ip("link", "set", link, "up")
        with other.entered():
            server = Served(socket.if_nametoindex("peer"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        yield node, server


def ran_in(folder: Path, words: list[str], given: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, check=False, cwd=folder, env=given, capture_output=True, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("zone", ZONES)
def test_the_zone_reaches_the_socket_and_not_the_server(zone: str) -> None:
    with behind_a_link(zone) as (node, server), node.entered():
        port = server.server_address[1]
        connection = Connection(f"http://[{MANAGER}%25{zone}]:{port}")
        assert connection.address == f"{MANAGER}%{zone}"
        assert connection.get("/status/healthcheck").status == 200
        assert connection.address == f"{MANAGER}%{socket.if_nametoindex(zone)}"
        connection.close()
    assert server.hosts == [f"[{MANAGER}]:{port}"]


@pytest.mark.parametrize(
    "written", [lambda _: "%25e%746h0", lambda _: "%et6h0", lambda index: f"%25{index}", lambda index: f"%{index}"]
)
def test_an_escaped_name_a_plain_percent_sign_and_an_index(written: Any) -> None:
    with behind_a_link("et6h0") as (node, server), node.entered():
        zone = written(socket.if_nametoindex("et6h0"))
        connection = Connection(f"http://[{MANAGER}{zone}]:{server.server_address[1]}")
        assert connection.get("/").status == 200
        connection.close()


def test_a_name_whose_address_has_a_zone() -> None:
    """The system's resolver returns the scope of link-local addresses, from multicast DNS for example."""
    with behind_a_link("eth0") as (node, server), node.entered():
        port, index = server.server_address[1], socket.if_nametoindex("eth0")
        assert look_up(f"{MANAGER}%eth0") == [f"{MANAGER}%{index}"]
        resolver = Resolver(lambda _: [f"{MANAGER}%{index}"])
        connection = Connection(f"http://manager.local:{port}", resolver=resolver)
        assert connection.get("/").status == 200
        connection.close()


def test_the_agent_itself(tmp_path: Path) -> None:
    with behind_a_link("eth0") as (node, server):
        url = f"http://[{MANAGER}%25eth0]:{server.server_address[1]}"
        given = environment(DNS="kattila.example.org", DNS_SERVER="127.0.0.1:9", MANAGER_URL=url)
        ran = [ran_in(tmp_path, node.command(*AGENT, *words), given) for words in (("-check", "-json"), ("-sysinfo",))]
    assert json.loads(ran[0].stdout)["manager"] == {"ok": True, "url": url, "absent": False, "problem": None}
    found = [each for each in json.loads(ran[1].stdout)["lookups"] if each["purpose"] == "manager"]
    assert [(each["destination"], each["interface"], each["error"]) for each in found] == [(MANAGER, "eth0", None)]


def test_a_manager_that_is_down_behind_a_link(tmp_path: Path) -> None:
    with behind_a_link("eth0") as (node, _):
        given = environment(DNS="a.example", DNS_SERVER="127.0.0.1:9", MANAGER_URL=f"http://[{MANAGER}%25eth0]:9")
        words = node.command(*AGENT, "-check", "-json")
        ran = ran_in(tmp_path, words, given)
    assert json.loads(ran.stdout)["manager"]["absent"]


def test_an_interface_that_does_not_exist() -> None:
    with pytest.raises(UnreachableError):
        Connection(f"http://[{MANAGER}%25kattila-none]:9").get("/")


@pytest.mark.parametrize(
    ("url", "bare", "zone"),
    [
        ("http://[fe80::1%25eth0]:5086/a", "http://[fe80::1]:5086/a", "eth0"),
        ("HTTPS://[FE80::1%eth0]", "HTTPS://[FE80::1]", "eth0"),
        ("http://[fe80::1%2525]", "http://[fe80::1]", "25"),
        ("http://[fe80::1]:1", "http://[fe80::1]:1", None),
        ("http://manager.example/a%25b", "http://manager.example/a%25b", None),
    ],
)
def test_a_url_and_its_zone(url: str, bare: str, zone: str | None) -> None:
    assert without_zone(url) == (bare, zone)
    assert host_of(url).partition("%")[2] == (zone or "")
