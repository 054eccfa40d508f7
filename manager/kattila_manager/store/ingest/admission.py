"""Limits how many new agents the manager takes: per minute, per minute from one source, and in all.

All workers share the limits, because the counts are in the database and are read in the transaction that binds an id.
The source is the direct peer: of relayed reports the relay, behind a proxy the proxy.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from kattila_manager.store.schema import admissions, agents, forgotten
from kattila_protocol.errors import TooManyAgents

MINUTE_MS = 60 * 1000
# The name under which all sources together are counted.
EVERYBODY = ""
# An agent's next report comes after half a minute.
_RETRY_AFTER_SECONDS = 30
# An IPv6 host has many addresses, but usually one network of this size.
_IPV6_PREFIX = 64


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """The most new agents per minute, the most of these from one source, and the most agents in all."""

    per_minute: int
    per_source: int
    agents: int


def admit(connection: Connection, limits: AdmissionLimits | None, source: str, now: int) -> None:
    """Count a new agent whose message came from this address at `now` (ms UTC); the caller commits.

    Without limits nothing is counted.

    Raises:
        TooManyAgents: a limit is reached. Nothing is counted then.
    """
    if limits is None:
        return
    group = source_group(source)
    used = {
        EVERYBODY: _used_until(connection, EVERYBODY, limits.per_minute, now),
        group: _used_until(connection, group, limits.per_source, now),
    }
    if used[EVERYBODY] > now + MINUTE_MS:
        raise _refusal(f"there were {limits.per_minute:,} new agents within a minute (NEW_AGENTS_PER_MINUTE)", source)
    if used[group] > now + MINUTE_MS:
        detail = f"there were {limits.per_source:,} new agents from its address within a minute (NEW_AGENTS_PER_SOURCE)"
        raise _refusal(detail, source)
    if _known_agents(connection) >= limits.agents:
        raise _refusal(f"{limits.agents:,} agents are known already (MAX_AGENTS)", source)
    old = (admissions.c.used_until <= now) | admissions.c.source.in_(used)
    connection.execute(delete(admissions).where(old))
    rows = [{"source": name, "used_until": until} for name, until in used.items()]
    connection.execute(insert(admissions), rows)


def source_group(source: str) -> str:
    """Return the name that a source address is counted under: the address, or the /64 network of an IPv6 address."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped or ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))


def _used_until(connection: Connection, source: str, per_minute: int, now: int) -> int:
    """Return until when the allowance is used up with one more agent; each uses its share of a minute."""
    stored = connection.execute(select(admissions.c.used_until).where(admissions.c.source == source)).scalar()
    # A clock that went back must not lock agents out for longer.
    begins = min(max(stored or now, now), now + MINUTE_MS)
    return begins + MINUTE_MS // per_minute


def _known_agents(connection: Connection) -> int:
    hidden = select(func.count()).select_from(forgotten)
    return int(connection.execute(select(func.count(agents.c.ref) - hidden.scalar_subquery())).scalar() or 0)


def _refusal(detail: str, source: str) -> TooManyAgents:
    return TooManyAgents(f"{detail}; it came from {source}", retry_after_seconds=_RETRY_AFTER_SECONDS)
