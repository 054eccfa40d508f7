"""Creates sibling directories and the answers of siblings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kattila_agent.outbound.discovery import Directory
from kattila_protocol.peer import PeerAnswer

OWN = "00000000-0000-4000-8000-000000000000"
A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")
INTERVAL = 30.0


def answer(agent_id: str, distance: int | None = 0, next_hop: str | None = None, hostname: str = "name") -> PeerAnswer:
    return PeerAnswer(agent_id, hostname, distance, next_hop, (), (), "")


def name_of(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def directory_of(*addresses: str) -> Directory:
    directory = Directory(INTERVAL)
    directory.update(addresses)
    return directory


def queries_until(
    directory: Directory, end: float, reply: Callable[[str, float], PeerAnswer | None], **state: Any
) -> list[float]:
    """Query every due address each second until `end`, without jitter; return the times of the queries."""
    times = []
    for now in map(float, range(int(state.get("start", 0)), int(end))):
        while (address := directory.due(now, hurried=state.get("hurried", False))) is not None:
            times.append(now)
            received = reply(address, now)
            if received is None:
                directory.failed(address, now, 0.0)
            else:
                directory.answered(address, received, 0.01, now, 0.0)
    return times
