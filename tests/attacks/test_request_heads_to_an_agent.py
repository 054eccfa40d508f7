"""Requests that two programs could read differently: the agent's API refuses them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.agent_api import Node, running_node, speak
from support.knot import running_knot

HEALTH = b"/status/healthcheck"


def head(target: bytes = HEALTH, fields: bytes = b"Host: localhost\r\n", method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\n" + fields + b"\r\n"


ATTACKS = {
    "an encoded slash": head(b"/status%2Fhealthcheck"),
    "an encoded letter behind a slash encoded twice": head(b"/status%252f%68ealthcheck"),
    "an encoded backslash": head(b"/status/healthcheck%5C"),
    "an absolute target": head(b"http://evil.example/status/healthcheck"),
    "two Hosts": head(fields=b"Host: localhost\r\nHost: evil.example\r\n"),
    "an address as the beginning of a Host": head(fields=b"Host: [::1].evil.example\r\n"),
    "a user in the Host": head(fields=b"Host: localhost@evil.example\r\n"),
    "a port in words": head(fields=b"Host: localhost:evil.example\r\n"),
    "no Host": head(fields=b""),
    "a length and chunks": head(
        b"/status/reset",
        b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n",
        b"POST",
    )
    + b"0\r\n\r\n",
    "a field on two lines": head(fields=b"Host: localhost\r\nX: y\r\n z\r\n"),
    "a request of HTTP/0.9": b"GET /status/healthcheck\r\n\r\n",
    "white space before the request": b"\n \t\r\n" + head(),
    "bare line feeds": b"GET /status/healthcheck HTTP/1.1\nHost: localhost\n\n",
    "a thousand fields": head(fields=b"Host: localhost\r\n" + b"X:\r\n" * 1000),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_knot({}) as knot, running_node(knot, tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize("name", ATTACKS)
def test_a_request_that_could_be_read_differently_is_refused_at_once(node: Node, name: str) -> None:
    answer = speak(node.port, ATTACKS[name])
    assert (answer.status, answer.problem) == (431 if "thousand" in name else 400, "about:blank")
    assert answer.headers["connection"] == "close"
