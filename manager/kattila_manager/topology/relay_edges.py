"""What joins agents: a snapshot to edges, and edges to what is to be written of them.

May live here: what is inferred from reports, as pure functions of values. Not here: the table (store.edges).

An edge has no direction. It is told from what the newest reports show: a relay edge from the paths that they took. What
nobody can have heard of at the moment stays as it was.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from kattila_manager.records import Agent, Edge, Snapshot
from kattila_manager.topology.presence import Presence, Watch, presence

# The evidence of an edge names so many reports, of the many that two relays may pass on.
_MOST_NAMED = 10

# The two agents of an edge by their `ref`, the smaller first.
Pair = tuple[int, int]


class EdgeKind(StrEnum):
    """What an edge is made of."""

    RELAY = "relay"


class EdgeState(StrEnum):
    """What is known of an edge: the newest reports show it, or they did once."""

    UP = "up"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class InferredEdge:
    """An edge as a snapshot shows it: `evidence` is JSON, `seen_at` the arrival of the newest of it (ms UTC)."""

    kind: EdgeKind
    pair: Pair
    evidence: str
    seen_at: int


@dataclass(frozen=True, slots=True)
class InferredEdges:
    """All edges that a snapshot shows, and those of which nothing can be said."""

    found: tuple[InferredEdge, ...]
    unknown: frozenset[tuple[str, Pair]]


@dataclass(frozen=True, slots=True)
class EdgeChanges:
    """What is to be written: edges that are new, those that are no longer what they were, and those to be forgotten."""

    added: tuple[InferredEdge, ...]
    changed: tuple[Edge, ...]
    forgotten: tuple[Edge, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.forgotten)


def infer(snapshot: Snapshot, watch: Watch) -> InferredEdges:
    """Look for all edges."""
    refs = {agent.agent_id: agent.ref for agent in snapshot.agents}
    used: defaultdict[Pair, list[Agent]] = defaultdict(list)
    unknown: set[tuple[str, Pair]] = set()
    for agent in snapshot.agents:
        state = presence(agent, watch)
        for pair in _hops(agent, refs):
            if state is Presence.RELAYED:
                used[pair].append(agent)
            elif state is Presence.UNHEARD:
                unknown.add((EdgeKind.RELAY, pair))
    return InferredEdges(tuple(_relay(pair, used[pair]) for pair in sorted(used)), frozenset(unknown))


def compare(known: Iterable[Edge], links: InferredEdges, forget_before: int) -> EdgeChanges:
    """Return what became of the known edges.

    One that is no longer shown becomes unused, and is forgotten if it was seen last before `forget_before` (ms UTC).
    Edges of kinds that nothing here infers are left alone.
    """
    found = {(str(link.kind), link.pair): link for link in links.found}
    edges = {(edge.kind, (edge.a_ref, edge.b_ref)): edge for edge in known if edge.kind in list(EdgeKind)}
    shown = {key: _shown(edge, found[key]) for key, edge in edges.items() if key in found}
    rest = [edge for key, edge in edges.items() if key not in found and key not in links.unknown]
    forgotten = [edge for edge in rest if edge.last_seen_at < forget_before]
    unused = [replace(edge, state=EdgeState.UNUSED) for edge in rest if edge not in forgotten]
    return EdgeChanges(
        added=tuple(link for key, link in found.items() if key not in edges),
        changed=tuple(edge for edge in (*shown.values(), *unused) if edge not in edges.values()),
        forgotten=tuple(forgotten),
    )


def _hops(agent: Agent, refs: Mapping[str, int]) -> Iterator[Pair]:
    """Give the pairs along the way of an agent's reports, but those with a relay that never reported itself."""
    ends = [agent.ref, *(refs.get(relay) for relay in agent.relay_path)]
    for one, other in pairwise(ends):
        if one is not None and other is not None and one != other:
            yield min(one, other), max(one, other)


def _relay(pair: Pair, origins: Sequence[Agent]) -> InferredEdge:
    newest = sorted(origins, key=lambda agent: (-agent.last_seen_at, agent.ref))
    reports = [{"agent_id": agent.agent_id, "sample": agent.highest_sample} for agent in newest[:_MOST_NAMED]]
    evidence = json.dumps({"count": len(origins), "reports": reports}, separators=(",", ":"))
    return InferredEdge(EdgeKind.RELAY, pair, evidence, newest[0].last_seen_at)


def _shown(edge: Edge, link: InferredEdge) -> Edge:
    return replace(edge, state=EdgeState.UP, evidence=link.evidence, last_seen_at=link.seen_at)
