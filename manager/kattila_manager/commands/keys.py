"""`keys`, `keys forget` and `refresh-key`: show the ring by fingerprints, remove a key, and refresh it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kattila_keys.dns_server import DnsError
from kattila_keys.ring_file import RingFile, RingFileError, StoredRing
from kattila_manager import compose, wording
from kattila_manager.alarms.alarm_rules import name_of
from kattila_manager.commands.errors import CommandError, Say
from kattila_manager.commands.text_table import table
from kattila_manager.config import Config
from kattila_manager.records import Agent
from kattila_manager.store.read import queries
from kattila_manager.store.store import open_existing
from kattila_manager.topology.presence import Presence, Watch, presence
from kattila_protocol.ring import RingEntry, Standing
from kattila_protocol.txt import TxtError

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class _Fleet:
    """The agents, with the key of their newest message, and the ids of the silent ones."""

    agents: tuple[Agent, ...]
    silent: frozenset[str]

    def using(self, fingerprint: str) -> list[Agent]:
        return [agent for agent in self.agents if agent.fingerprint == fingerprint]

    def lagging(self, fingerprint: str) -> list[Agent]:
        return [agent for agent in self.agents if agent.fingerprint not in (fingerprint, "")]


def show(config: Config, say: Say, *, as_json: bool) -> int:
    """Show the ring, and whether all agents use its current key."""
    stored, fleet = _read_ring(config), _read_fleet(config)
    if as_json:
        say(json.dumps(_members(stored, fleet), indent=2))
        return 0
    if not stored.ring.entries:
        say("No key is known yet: start 'kattila-manager serve' or run 'kattila-manager refresh-key'.")
        return 0
    say(table(("KEY", "IS", "FIRST SEEN IN DNS", "LAST USED", "LEAVES", "AGENTS"), _lines(stored, fleet)))
    say("")
    say(_last_query(stored))
    say(_coverage(stored.ring.current.fingerprint, fleet))
    return 0


def refresh(config: Config, say: Say) -> int:
    """Query DNS now."""
    ring = compose.make_keys(config)
    before = [entry.key.fingerprint for entry in _read_ring(config).ring.entries]
    try:
        after = ring.refresh(compose.clock()).current.fingerprint
    except (DnsError, TxtError, RingFileError) as error:
        last = f"; the last good key {before[0]} stays in use" if before else ""
        raise CommandError(f"{error}{last}") from None
    if before[:1] == [after]:
        say(f"the current key is still {after}")
    else:
        say(f"the current key is now {after} (before: {before[0] if before else 'none'})")
    return 0


def forget(config: Config, say: Say, fingerprint: str) -> int:
    """Remove a key from the ring of this manager."""
    try:
        ring = compose.make_keys(config).forget(fingerprint.lower(), compose.clock())
    except (ValueError, RingFileError) as error:
        raise CommandError(str(error)) from None
    say(f"forgot {fingerprint.lower()}; the current key is {ring.current.fingerprint}")
    return 0


def _read_ring(config: Config) -> StoredRing:
    try:
        return RingFile(config.ring_file).read()
    except RingFileError as error:
        raise CommandError(str(error)) from None


def _read_fleet(config: Config) -> _Fleet:
    if not config.database.exists():
        return _Fleet((), frozenset())
    with closing(open_existing(config.database)) as store:
        agents, listening = store.read(
            lambda connection: (queries.all_agents(connection), queries.listening(connection))
        )
    watch = Watch(config.interval_seconds * 1000, compose.clock(), listening)
    return _Fleet(agents, frozenset(a.agent_id for a in agents if presence(a, watch) is Presence.SILENT))


def _lines(stored: StoredRing, fleet: _Fleet) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [
        (
            entry.key.fingerprint,
            "previous" if place else _current_name(entry),
            wording.moment(entry.first_seen_at),
            "never" if entry.last_used_at is None else wording.moment(entry.last_used_at),
            "" if entry.expires_at is None else wording.moment(entry.expires_at),
            str(len(fleet.using(entry.key.fingerprint))),
        )
        for place, entry in enumerate(stored.ring.entries)
    ]
    inside = {entry.key.fingerprint for entry in stored.ring.entries} | {""}
    gone = sorted({agent.fingerprint for agent in fleet.agents} - inside)
    return lines + [(name, "no longer in the ring", "", "", "", str(len(fleet.using(name)))) for name in gone]


def _current_name(entry: RingEntry) -> str:
    return "current, on trial" if entry.standing is Standing.TRIAL else "current"


def _last_query(stored: StoredRing) -> str:
    if stored.asked_at is None:
        return "DNS was never queried."
    failed = "" if stored.answered_at == stored.asked_at else ", without a usable answer"
    return f"DNS was last queried at {wording.moment(stored.asked_at)}{failed}."


def _coverage(current: str, fleet: _Fleet) -> str:
    using, lagging = len(fleet.using(current)), fleet.lagging(current)
    total = using + len(lagging)
    if not total:
        return "No agent has reported yet."
    if not lagging:
        return f"[{total}/{total}] All agents sign with {current}."
    names = ", ".join(_named(lagging[:_MOST_NAMED], fleet))
    more = f", and {len(lagging) - _MOST_NAMED} more" if len(lagging) > _MOST_NAMED else ""
    return f"[{using}/{total}] The rotation to {current} is not complete: {names}{more}."


def _named(agents: Sequence[Agent], fleet: _Fleet) -> list[str]:
    return [
        f"{name_of(agent)} uses {agent.fingerprint}{' (silent)' if agent.agent_id in fleet.silent else ''}"
        for agent in agents
    ]


def _members(stored: StoredRing, fleet: _Fleet) -> dict[str, Any]:
    current = stored.ring.entries[0].key.fingerprint if stored.ring.entries else None
    return {
        "current": current,
        "asked_at": stored.asked_at,
        "answered_at": stored.answered_at,
        "rotation_complete": current is not None and not fleet.lagging(current),
        "keys": [
            {
                "fingerprint": entry.key.fingerprint,
                "first_seen_at": entry.first_seen_at,
                "last_used_at": entry.last_used_at,
                "expires_at": entry.expires_at,
                "standing": entry.standing,
                "agents": [agent.agent_id for agent in fleet.using(entry.key.fingerprint)],
            }
            for entry in stored.ring.entries
        ],
        "agents": {agent.agent_id: agent.fingerprint or None for agent in fleet.agents},
    }
