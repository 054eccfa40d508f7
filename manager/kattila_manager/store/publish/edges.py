"""Reads and writes the edges of the topology (the `topology_edges` table)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from kattila_manager.records import Edge
from kattila_manager.store.schema import topology_edges
from kattila_manager.topology.relay_edges import EdgeChanges, EdgeState, InferredEdge

_EDGE = (
    topology_edges.c.id,
    topology_edges.c.kind,
    topology_edges.c.a_ref,
    topology_edges.c.b_ref,
    topology_edges.c.state,
    topology_edges.c.evidence,
    topology_edges.c.first_seen_at,
    topology_edges.c.last_seen_at,
)


def all_edges(connection: Connection) -> tuple[Edge, ...]:
    """Return all edges, in the order in which they were first seen."""
    return tuple(Edge(*row) for row in connection.execute(select(*_EDGE).order_by(topology_edges.c.id)))


def write(connection: Connection, changes: EdgeChanges) -> None:
    """Write these changes; the caller commits."""
    for edge in changes.changed:
        columns = {"state": edge.state, "evidence": edge.evidence, "last_seen_at": edge.last_seen_at}
        connection.execute(update(topology_edges).where(topology_edges.c.id == edge.edge_id).values(columns))
    if changes.added:
        connection.execute(insert(topology_edges), [_row(link) for link in changes.added])
    if changes.forgotten:
        doomed = [edge.edge_id for edge in changes.forgotten]
        connection.execute(delete(topology_edges).where(topology_edges.c.id.in_(doomed)))


def _row(link: InferredEdge) -> dict[str, Any]:
    return {
        "kind": link.kind,
        "a_ref": link.pair[0],
        "b_ref": link.pair[1],
        "state": EdgeState.UP,
        "evidence": link.evidence,
        "first_seen_at": link.seen_at,
        "last_seen_at": link.seen_at,
    }
