"""Reads the DATA of stored reports."""

from __future__ import annotations

from sqlalchemy import Connection, select

from kattila_manager.store import compression
from kattila_manager.store.schema import reports


def data_of(connection: Connection, report_id: int) -> bytes:
    """Return DATA byte for byte as it was signed, by reading its bases, at most eight.

    Raises:
        LookupError: the report or one of its bases is missing.
        zstandard.ZstdError: the database is damaged.
    """
    row = connection.execute(select(reports.c.body, reports.c.base_id).where(reports.c.id == report_id)).first()
    if row is None:
        raise LookupError(f"report {report_id} is not in the database")
    return compression.expand(row.body, None if row.base_id is None else data_of(connection, row.base_id))
