"""Writes the edges of the topology (the `topology_edges` table)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, update

from kattila_manager.store.schema import topology_edges
from kattila_manager.topology.relay_edges import EdgeChanges, EdgeState, InferredEdge


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
