"""-discover: which agents answer behind this node's tunnels, and how far from the manager each of them is.

May live here: asking all candidates at once, and how what they said is shown. Not here: whom to ask and how a query is
made (discovery).
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import TextIO

from kattila_agent.commands.once import CommandError
from kattila_agent.outbound.connection import UnreachableError
from kattila_agent.outbound.discovery import candidates, unread
from kattila_protocol.errors import Refusal
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.report import Telemetry

THREADS = 16
# Enough for 720 addresses of which none answers. Whoever was not asked by then is told of.
TOTAL_SECONDS = 90.0
MAX_SHOWN_SILENT = 6

_ITSELF = "it has the id of this node: an address of its own, or a clone of its disk"

_log = logging.getLogger("kattila.agent")


@dataclass(frozen=True, slots=True)
class Sibling:
    """An agent that answered at an address; the rest is what it said.

    `distance` is None while it has no way to the manager; `next_hop_name` is known where that agent answered as well,
    or is this node.
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
    """All that was found; the names are those of the JSON. `agent_id` and `hostname` are this node's."""

    agent_id: str
    hostname: str
    agents: tuple[Sibling, ...]
    silent: tuple[Silent, ...]
    not_asked: tuple[str, ...]


def whom_to_ask(telemetry: Telemetry) -> tuple[str, ...]:
    """Return the addresses to ask; logs what could not be read.

    Raises:
        CommandError: no WireGuard interface is there, or none can be read.
    """
    reasons = [f"{each.collector}: {each.reason}" for each in unread(telemetry)]
    if not telemetry.wireguard:
        why = "; ".join(reasons) or "this node has no WireGuard interface"
        raise CommandError(f"nobody can be asked: {why}")
    for reason in reasons:
        _log.warning("not all can be asked, as not all could be read: %s", reason)
    found = candidates(telemetry)
    if not found:
        _log.warning("nobody to ask: the peers' AllowedIPs hold neither single addresses nor small subnets")
    return found


def survey(
    addresses: Sequence[str],
    own_id: str,
    hostname: str,
    ask: Callable[[str], PeerAnswer],
    monotonic: Callable[[], float],
    progress: Callable[[int, int], None],
) -> Survey:
    """Ask at all addresses, several at a time; takes TOTAL_SECONDS and one answer at most.

    `own_id` and `hostname` are this node's; `ask` raises what discovery.ask does; `progress` is told how many of how
    many are done.
    """
    until = monotonic() + TOTAL_SECONDS

    def ask_one(address: str) -> _Outcome:
        began_at = monotonic()
        if began_at >= until:
            return None
        try:
            answer = ask(address)
        except (UnreachableError, Refusal) as error:
            return Silent(address, str(error))
        return _understood(address, answer, own_id, monotonic() - began_at)

    outcomes = _all(ask_one, addresses, progress)
    siblings = [each for each in outcomes if isinstance(each, Sibling)]
    return Survey(
        agent_id=own_id,
        hostname=hostname,
        agents=_named(siblings, own_id, hostname),
        silent=tuple(each for each in outcomes if isinstance(each, Silent)),
        not_asked=tuple(address for address, each in zip(addresses, outcomes, strict=True) if each is None),
    )


def as_json(found: Survey) -> str:
    """Return what was found for programs."""
    return json.dumps(asdict(found), indent=2) + "\n"


def as_table(found: Survey) -> str:
    """Return what was found for people: a line for each agent, then who did not answer, those alike together."""
    rows = [("ADDRESS", "NAME", "DISTANCE", "ROUND TRIP", "NEXT HOP", "ID"), *map(_row, found.agents)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows] if found.agents else []
    asked = len(found.agents) + len(found.silent)
    lines.append(f"{len(found.agents)} of {asked} addresses answered")
    lines += [f"  {_some(addresses)}: {_printable(reason)}" for reason, addresses in _by_reason(found.silent).items()]
    if found.not_asked:
        lines.append(f"  {_some(found.not_asked)}: not asked, as {TOTAL_SECONDS:g} s were over")
    return "\n".join(lines) + "\n"


def progress_on(stream: TextIO) -> Callable[[int, int], None]:
    """Return a counter that a terminal shows while it grows; anything else than a terminal gets nothing."""

    def show(done: int, of: int) -> None:
        # The last one wipes the line.
        stream.write(f"\r{done} of {of} asked" if done < of else "\r\x1b[K")
        stream.flush()

    return show if stream.isatty() else lambda _done, _of: None


# None: there was no time left.
_Outcome = Sibling | Silent | None


def _all(
    ask_one: Callable[[str], _Outcome], addresses: Sequence[str], progress: Callable[[int, int], None]
) -> list[_Outcome]:
    pool = ThreadPoolExecutor(THREADS)
    try:
        futures = [pool.submit(ask_one, address) for address in addresses]
        for done, _ in enumerate(as_completed(futures), 1):
            progress(done, len(futures))
        return [future.result() for future in futures]
    finally:
        # Interrupted, it does not go through the rest.
        pool.shutdown(cancel_futures=True)


def _understood(address: str, answer: PeerAnswer, own_id: str, seconds: float) -> Sibling | Silent:
    if answer.agent_id == own_id:
        return Silent(address, _ITSELF)
    return Sibling(
        address, answer.agent_id, answer.hostname, answer.distance, round(seconds * 1000, 1), answer.next_hop
    )


def _named(siblings: Iterable[Sibling], own_id: str, hostname: str) -> tuple[Sibling, ...]:
    """Name the next hops; the nearest agents first."""
    nearest = sorted(siblings, key=lambda each: (math.inf if each.distance is None else each.distance, each.hostname))
    names = {each.agent_id: each.hostname for each in nearest} | {own_id: hostname}
    return tuple(replace(each, next_hop_name=names.get(each.next_hop or "")) for each in nearest)


def _row(sibling: Sibling) -> tuple[str, ...]:
    distance = "none" if sibling.distance is None else str(sibling.distance)
    next_hop = "manager" if sibling.distance == 0 else sibling.next_hop_name or sibling.next_hop or "-"
    round_trip = f"{sibling.round_trip_ms:.1f} ms"
    shown = (sibling.address, sibling.hostname, distance, round_trip, next_hop, sibling.agent_id)
    return tuple(map(_printable, shown))


def _by_reason(silent: Iterable[Silent]) -> dict[str, list[str]]:
    addresses = defaultdict(list)
    for each in silent:
        addresses[each.reason].append(each.address)
    return addresses


def _some(addresses: Sequence[str]) -> str:
    shown, more = ", ".join(addresses[:MAX_SHOWN_SILENT]), len(addresses) - MAX_SHOWN_SILENT
    return f"{shown} and {more} more" if more > 0 else shown


def _printable(text: str) -> str:
    """Return a text of somebody else's as a terminal can show it."""
    return "".join(character if character.isprintable() else "?" for character in text)
