"""Writes the edges of the topology (the `topology_edges` table)."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, insert, update

from kattila_manager.records import Edge
from kattila_manager.store.publish.savepoints import write_each
from kattila_manager.store.schema import topology_edges
from kattila_manager.topology.relay_edges import EdgeChanges, EdgeState, InferredEdge


def write(connection: Connection, changes: EdgeChanges) -> tuple[tuple[Edge | InferredEdge, Exception], ...]:
    """Write these changes; the caller commits. Returns the edges that could not be written, with their errors."""
    if changes.forgotten:
        doomed = [edge.edge_id for edge in changes.forgotten]
        connection.execute(delete(topology_edges).where(topology_edges.c.id.in_(doomed)))
    return write_each(connection, (*changes.changed, *changes.added), partial(_write, connection))


def _write(connection: Connection, edge: Edge | InferredEdge) -> None:
    if isinstance(edge, InferredEdge):
        connection.execute(insert(topology_edges).values(_row(edge)))
        return
    columns = {"state": edge.state, "evidence": edge.evidence, "last_seen_at": edge.last_seen_at}
    connection.execute(update(topology_edges).where(topology_edges.c.id == edge.edge_id).values(columns))


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
