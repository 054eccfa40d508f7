"""-discover: which agents answer behind this node's tunnels, and how far from the manager each of them is."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import TextIO

from kattila_agent.commands.errors import CommandError
from kattila_agent.outbound.discovery import candidates, query
from kattila_agent.outbound.http.clients import AgentClient
from kattila_agent.outbound.http.connection import UnreachableError
from kattila_agent.runtime import Runtime
from kattila_protocol.errors import Refusal
from kattila_protocol.foreign_text import DETAIL_LENGTH, shown
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.report import Telemetry
from kattila_protocol.ring import Ring

THREADS = 16
# Enough for 720 addresses that do not answer. The result lists the addresses that were not queried by then.
TOTAL_SECONDS = 90.0
MAX_SHOWN_SILENT = 6

_ITSELF = "it has the id of this node: an address of this node, or a clone of its disk"

_log = logging.getLogger("kattila.agent")


@dataclass(frozen=True, slots=True)
class FoundAgent:
    """An agent that answered at an address, with its answer.

    `distance` is None while it has no path to the manager. `next_hop_name` is known if that agent answered as well, or
    is this node.
    """

    address: str
    agent_id: str
    hostname: str
    distance: int | None
    round_trip_ms: float
    next_hop: str | None
    next_hop_name: str | None = None


@dataclass(frozen=True, slots=True)
class Silent:
    """An address at which no sibling answered, and why."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class Survey:
    """The result; its names are those of the JSON.

    `agent_id` and `hostname` are this node's.
    """

    agent_id: str
    hostname: str
    agents: tuple[FoundAgent, ...]
    silent: tuple[Silent, ...]
    not_asked: tuple[str, ...]


def query_addresses(telemetry: Telemetry) -> tuple[str, ...]:
    """Return the addresses to query; logs which sources could not be read.

    Raises:
        CommandError: there is no WireGuard interface, or none can be read.
    """
    found = candidates(telemetry)
    reasons = [f"{each.collector}: {each.reason}" for each in found.unread]
    if not telemetry.wireguard:
        why = "; ".join(reasons) or "this node has no WireGuard interface"
        raise CommandError(f"there is no address to query: {why}")
    for reason in reasons:
        _log.warning("some addresses are missing, because a source could not be read: %s", reason)
    if not found.addresses:
        _log.warning("there is no address to query: the AllowedIPs hold neither single addresses nor small subnets")
    return found.addresses


def discover(addresses: Sequence[str], own_id: str, hostname: str, ring: Ring, runtime: Runtime) -> Survey:
    """Query all addresses over HTTP, and show the progress on a terminal."""
    client = AgentClient()

    def ask(address: str) -> PeerAnswer:
        return query(client.query, own_id, address, ring, runtime.nonce(), runtime.now())

    return survey(addresses, own_id, hostname, ask, runtime.monotonic, progress_on(sys.stderr))


def survey(
    addresses: Sequence[str],
    own_id: str,
    hostname: str,
    ask: Callable[[str], PeerAnswer],
    monotonic: Callable[[], float],
    progress: Callable[[int, int], None],
) -> Survey:
    """Query all addresses, several at a time.

    Takes TOTAL_SECONDS and one answer at most.

    `own_id` and `hostname` are this node's; `ask` raises what discovery.query raises; `progress` is called with the
    number of finished queries and the number of all.
    """
    until = monotonic() + TOTAL_SECONDS

    def ask_one(address: str) -> _Finding:
        began_at = monotonic()
        if began_at >= until:
            return None
        try:
            answer = ask(address)
        except (UnreachableError, Refusal) as error:
            return Silent(address, str(error))
        return _finding(address, answer, own_id, monotonic() - began_at)

    findings = _all(ask_one, addresses, progress)
    agents = [each for each in findings if isinstance(each, FoundAgent)]
    return Survey(
        agent_id=own_id,
        hostname=hostname,
        agents=_named(agents, own_id, hostname),
        silent=tuple(each for each in findings if isinstance(each, Silent)),
        not_asked=tuple(address for address, each in zip(addresses, findings, strict=True) if each is None),
    )


def as_json(found: Survey) -> str:
    """Return the survey for programs."""
    return json.dumps(asdict(found), indent=2) + "\n"


def as_table(found: Survey) -> str:
    """Return the survey for people: agents, then silent addresses by reason."""
    rows = [("ADDRESS", "NAME", "DISTANCE", "ROUND TRIP", "NEXT HOP", "ID"), *map(_row, found.agents)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows] if found.agents else []
    asked = len(found.agents) + len(found.silent)
    lines.append(f"{len(found.agents)} of {asked} addresses answered")
    reasons = _by_reason(found.silent).items()
    lines += [f"  {_some(addresses)}: {shown(reason, DETAIL_LENGTH)}" for reason, addresses in reasons]
    if found.not_asked:
        lines.append(f"  {_some(found.not_asked)}: not queried, because {TOTAL_SECONDS:g} s were over")
    return "\n".join(lines) + "\n"


def progress_on(stream: TextIO) -> Callable[[int, int], None]:
    """Return a function that shows the progress on a terminal, and nothing elsewhere."""

    def show(done: int, of: int) -> None:
        # The last call erases the line.
        stream.write(f"\r{done} of {of} queried" if done < of else "\r\x1b[K")
        stream.flush()

    return show if stream.isatty() else lambda _done, _of: None


# None: there was no time left to query the address.
_Finding = FoundAgent | Silent | None


def _all(
    ask_one: Callable[[str], _Finding], addresses: Sequence[str], progress: Callable[[int, int], None]
) -> list[_Finding]:
    pool = ThreadPoolExecutor(THREADS)
    try:
        futures = [pool.submit(ask_one, address) for address in addresses]
        for done, _ in enumerate(as_completed(futures), 1):
            progress(done, len(futures))
        return [future.result() for future in futures]
    finally:
        # If the user interrupts, the remaining addresses are not queried.
        pool.shutdown(cancel_futures=True)


def _finding(address: str, answer: PeerAnswer, own_id: str, seconds: float) -> FoundAgent | Silent:
    if answer.agent_id == own_id:
        return Silent(address, _ITSELF)
    return FoundAgent(
        address, answer.agent_id, answer.hostname, answer.distance, round(seconds * 1000, 1), answer.next_hop
    )


def _named(agents: Iterable[FoundAgent], own_id: str, hostname: str) -> tuple[FoundAgent, ...]:
    """Add the names of the next hops; sort the agents by distance."""
    nearest = sorted(agents, key=lambda each: (math.inf if each.distance is None else each.distance, each.hostname))
    names = {each.agent_id: each.hostname for each in nearest} | {own_id: hostname}
    return tuple(replace(each, next_hop_name=names.get(each.next_hop or "")) for each in nearest)


def _row(agent: FoundAgent) -> tuple[str, ...]:
    distance = "none" if agent.distance is None else str(agent.distance)
    next_hop = "manager" if agent.distance == 0 else agent.next_hop_name or agent.next_hop or "-"
    round_trip = f"{agent.round_trip_ms:.1f} ms"
    return agent.address, shown(agent.hostname), distance, round_trip, shown(next_hop), agent.agent_id


def _by_reason(silent: Iterable[Silent]) -> dict[str, list[str]]:
    addresses = defaultdict(list)
    for each in silent:
        addresses[each.reason].append(each.address)
    return addresses


def _some(addresses: Sequence[str]) -> str:
    some, more = ", ".join(addresses[:MAX_SHOWN_SILENT]), len(addresses) - MAX_SHOWN_SILENT
    return f"{some} and {more} more" if more > 0 else some
