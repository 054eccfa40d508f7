"""Infers edges between agents from a snapshot, and compares them with the known ones.

Edges have no direction. A relay edge is on the path of a newest report. An edge whose agents cannot be judged is not
changed.
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

# The evidence of an edge names at most this many of the reports that show it.
_MOST_NAMED = 10

# The two agents of an edge by their `ref`, the smaller first.
Pair = tuple[int, int]


class EdgeKind(StrEnum):
    """The kinds of edges."""

    RELAY = "relay"


class EdgeState(StrEnum):
    """Whether the newest reports show an edge, or only earlier ones did."""

    UP = "up"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class InferredEdge:
    """An edge that a snapshot shows: `evidence` is JSON, `seen_at` the arrival of the newest evidence (ms UTC)."""

    kind: EdgeKind
    pair: Pair
    evidence: str
    seen_at: int


@dataclass(frozen=True, slots=True)
class InferredEdges:
    """All edges that a snapshot shows, and those whose state is unknown."""

    found: tuple[InferredEdge, ...]
    unknown: frozenset[tuple[str, Pair]]


@dataclass(frozen=True, slots=True)
class EdgeChanges:
    """The changes to write: new edges, changed edges, and edges to forget."""

    added: tuple[InferredEdge, ...]
    changed: tuple[Edge, ...]
    forgotten: tuple[Edge, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.forgotten)


def infer(snapshot: Snapshot, watch: Watch) -> InferredEdges:
    """Return all edges that a snapshot shows."""
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


def compare(known: Iterable[Edge], inferred: InferredEdges, forget_before: int) -> EdgeChanges:
    """Return the changes to the known edges.

    An edge that is no longer shown becomes unused, and is forgotten if it was last seen before `forget_before`
    (ms UTC). Edges of other kinds are ignored.
    """
    found = {(str(link.kind), link.pair): link for link in inferred.found}
    edges = {(edge.kind, edge.pair): edge for edge in known if edge.kind in list(EdgeKind)}
    shown = {key: _shown(edge, found[key]) for key, edge in edges.items() if key in found}
    rest = [edge for key, edge in edges.items() if key not in found and key not in inferred.unknown]
    forgotten = [edge for edge in rest if edge.last_seen_at < forget_before]
    unused = [replace(edge, state=EdgeState.UNUSED) for edge in rest if edge not in forgotten]
    return EdgeChanges(
        added=tuple(link for key, link in found.items() if key not in edges),
        changed=tuple(edge for edge in (*shown.values(), *unused) if edge not in edges.values()),
        forgotten=tuple(forgotten),
    )


def _hops(agent: Agent, refs: Mapping[str, int]) -> Iterator[Pair]:
    """Yield the pairs on the path of an agent's reports, without relays that never reported."""
    ends = [agent.ref, *(refs.get(relay) for relay in agent.relay_path)]
    for one, other in pairwise(ends):
        if one is not None and other is not None and one != other:
            yield min(one, other), max(one, other)


def _relay(pair: Pair, origins: Sequence[Agent]) -> InferredEdge:
    newest = sorted(origins, key=lambda agent: (-agent.last_seen_at, agent.ref))
    reports = [{"agent_id": agent.agent_id, "sample": agent.highest_sample} for agent in newest[:_MOST_NAMED]]
    evidence = json.dumps({"count": len(origins), "reports": reports}, separators=(",", ":"))
    return InferredEdge(EdgeKind.RELAY, pair, evidence, newest[0].last_seen_at)


def _shown(edge: Edge, inferred: InferredEdge) -> Edge:
    return replace(edge, state=EdgeState.UP, evidence=inferred.evidence, last_seen_at=inferred.seen_at)
