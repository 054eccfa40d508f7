"""Forges what a PSK holder can sign: reports and registrations with any content, as bytes."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from kattila_protocol import canonical, envelope
from kattila_protocol.names import MANAGER, MAX_COUNTER
from kattila_protocol.peer import PeerQuery
from kattila_protocol.report import Spool, Telemetry
from kattila_protocol.signing import Key, Purpose
from support.reports import Node, node, telemetry

MAX_INTEGER = 2**63 - 1
MEGABYTE = 1_000_000
# Clears the screen, rings, sets the title, and begins a line that looks like one of the log.
NASTY = "\x1b[2J\x07\x1b]0;owned\x07\r\n2026-01-31 12:00:00 INFO nothing happened\x9b31m\u202e<script>"


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers in a forged report."""

    sample: int
    tick: int


def own_node(number: int) -> Node:
    """Return an identity of the liar's own."""
    return node(100_000 + number)


def stranger() -> Node:
    """Return a new identity."""
    return replace(own_node(secrets.randbelow(2**40)), agent_id=str(uuid.uuid4()))


def content_of(sender: Node, *, hostname: str | None = None, spool: Spool | None = None) -> bytes:
    """Return the encoded telemetry of a small node, with another host name or spool."""
    found = telemetry(sender if hostname is None else replace(sender, hostname=hostname))
    return canonical.encode(replace(found, spool=spool))


def with_list(name: str, entry: str, count: int) -> bytes:
    """Return encoded telemetry in which the list `name` has this entry `count` times."""
    empty = canonical.encode(Telemetry(None))
    return empty.replace(f'"{name}":[]'.encode(), f'"{name}":[{",".join([entry] * count)}]'.encode())


def report(sender: Node, numbers: Numbers, content: bytes, key: Key, *, skew_ms: int = 0, age_ms: int = 0) -> bytes:
    """Return the body of a report to the manager."""
    return envelope.seal(data_of(sender, numbers, content, skew_ms=skew_ms, age_ms=age_ms), key).to_bytes()


def data_of(sender: Node, numbers: Numbers, content: bytes, *, skew_ms: int = 0, age_ms: int = 0) -> bytes:
    """Return the DATA of a report with this encoded telemetry."""
    now = time.time_ns() // 1_000_000 + skew_ms
    head = {
        "agent_id": sender.agent_id,
        "sample": numbers.sample,
        "tick": numbers.tick,
        "nonce": secrets.token_hex(16),
        "timestamp": now,
        "sampled_at": max(0, min(MAX_COUNTER, now - age_ms)),
        "boot_id": sender.boot_id,
    }
    return canonical.encode(head)[:-1] + b',"telemetry":' + content + b"}"


def report_to(relay_id: str, sender: Node, content: bytes, key: Key) -> bytes:
    """Return the body of a first report to a relay."""
    return envelope.seal(data_of(sender, Numbers(1, 1), content), key, relay_id).to_bytes()


def peer_query(sender: Node, to: str, key: Key) -> str:
    """Return the path and the parameters of a query to the agent at an address."""
    query = PeerQuery(sender.agent_id, to, secrets.token_hex(16), time.time_ns() // 1_000_000)
    return f"/status/peer?{urlencode(query.parameters(key))}"


def registration(sender: Node, key: Key, **members: Any) -> bytes:
    """Return the body of a registration, with other members."""
    request = {
        "agent_id": sender.agent_id,
        "boot_id": sender.boot_id,
        "hostname": sender.hostname,
        "hardware_addresses": list(sender.hardware),
        "nonce": secrets.token_hex(16),
        "timestamp": time.time_ns() // 1_000_000,
        "to": MANAGER,
    }
    data = canonical.encode(request | members)
    return b'{"data":' + data + b',"hmac":"' + key.sign(Purpose.REGISTER, data).encode() + b'"}'


def as_json(sender: Node) -> dict[str, Any]:
    """Return an identity as JSON, for the liar's process."""
    return asdict(sender)


def from_json(members: dict[str, Any]) -> Node:
    """Return the identity that `as_json` wrote."""
    return Node(**members | {"hardware": tuple(members["hardware"])})


def claimed(body: bytes) -> dict[str, Any]:
    """Return the members of the verdict in an answer, empty if there is none."""
    try:
        return dict(json.loads(body)["data"])
    except (ValueError, KeyError, TypeError):
        return {}
