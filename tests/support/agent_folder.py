"""Prepares an agent's folder: settings, an id, and a cached key ring."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kattila_keys.ring_file import RingFile, StoredRing
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key
from support.knot import ZONE, Knot

PSK = b"agent tests, protects nothing"
OTHER_PSK = b"another psk that protects nothing"
AGENT_ID = "11111111-1111-4111-8111-111111111111"

_names = itertools.count()


def ring_of(*psks: bytes) -> Ring:
    """Return a ring, the newest key first."""
    return Ring(tuple(RingEntry(Key.from_psk(psk), 0) for psk in psks))


def keep_ring(folder: Path, *psks: bytes) -> None:
    """Write the ring of a DNS query two minutes ago: the agent may query DNS again, but need not."""
    asked_at = int(time.time() * 1000) - 120_000
    RingFile(folder / "ring.json").update(lambda _: StoredRing(ring_of(*psks), asked_at, asked_at))


def keep_id(folder: Path, agent_id: str = AGENT_ID) -> None:
    """Write the agent id."""
    (folder / "agent_id.txt").write_text(f"{agent_id}\n")


def last_sample(folder: Path) -> int:
    """Return the number of the agent's last sample, 0 before the first."""
    counters = folder / "counters.json"
    return int(json.loads(counters.read_bytes())["sample"]) if counters.exists() else 0


def settings(knot: Knot, url: str, *psks: bytes) -> dict[str, str]:
    """Publish the PSKs under a new name and return settings that point to it."""
    label = f"agent{next(_names)}"
    knot.set_txt(label, *psks)
    return {"DNS": f"{label}.{ZONE}", "DNS_SERVER": knot.address, "MANAGER_URL": url, "INTERVAL": "1"}


@contextmanager
def dead_dns() -> Iterator[dict[str, str]]:
    """Yield settings that point to a resolver that never answers."""
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        yield {"DNS": "kattila.example.org", "DNS_SERVER": f"127.0.0.1:{silent.getsockname()[1]}"}
