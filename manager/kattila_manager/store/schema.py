"""The tables, with what each column means.

Versions (store/migrations/versions): 0001 the first; 0002 marks late samples, and knows what agents keep and drop.

May live here: the schema as SQLAlchemy Core, so that SQLite now and PostgreSQL later share it. docs/SCHEMA.md is
generated from the comments. Moments are ms UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    ClauseElement,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import sqlite

metadata = MetaData()


def _table(name: str, comment: str, *items: Column[object] | UniqueConstraint | Index) -> Table:
    return Table(name, metadata, *items, comment=comment, sqlite_strict=True)


def schema_table() -> str:
    """Return the tables and columns as Markdown, for docs/SCHEMA.md."""
    return "\n".join(_described(table) for table in metadata.sorted_tables)


def _described(table: Table) -> str:
    rows = [
        f"| `{column.name}` | {column.type}{'' if column.nullable else ', not null'}"
        f"{', key' if column.primary_key else ''} | {column.comment or ''} |"
        for column in table.columns
    ]
    return "\n".join(
        [f"## {table.name}", "", f"{table.comment}", "", "| column | type | meaning |", "|---|---|---|", *rows, ""]
    )


def for_driver(statement: ClauseElement) -> str:
    """Return the SQL of a statement with positional parameters in the order of its columns, the condition's last.

    For thousands of rows a second: SQLAlchemy's own look at each parameter takes as long as SQLite's work.
    """
    return str(statement.compile(dialect=sqlite.dialect()))


agents = _table(
    "agents",
    "Fleet registry: one row for each id, with the state that the next report is judged against.",
    Column("ref", Integer, primary_key=True, comment="short number that the other tables use"),
    Column("agent_id", Text, nullable=False, unique=True, comment="UUID in lower case"),
    Column("hostname", Text, nullable=False, comment="as in its latest report"),
    Column("agent_version", Text, nullable=False, comment="as in its latest report"),
    Column("first_seen_at", Integer, nullable=False, comment="registration, or the first report"),
    Column("last_seen_at", Integer, nullable=False, comment="arrival of the newest message, late samples included"),
    Column("highest_tick", Integer, nullable=False, comment="upper end of the replay window"),
    Column("highest_sample", Integer, nullable=False, comment="newest measurement; the state is ordered by it"),
    Column("latest_report_id", Integer, comment="reports.id of the newest measurement"),
    Column("fingerprint", Text, nullable=False, comment="key of the newest message"),
    Column("clock_offset", Integer, nullable=False, comment="agent's clock less ours, in ms, at the newest message"),
    Column("relay_path", Text, nullable=False, comment="ids of the relays, comma between; empty: direct"),
    Column("boot_id", Text, nullable=False, comment="the boot that holds the id"),
    Column("boot_hardware", Text, nullable=False, comment="hardware addresses of that boot, comma between"),
    Column("hardware", Text, nullable=False, comment="hardware addresses that the id is bound to"),
    Column("challenger_boot_id", Text, nullable=False, comment="another machine's boot that claims the id, or empty"),
    Column("window", LargeBinary, nullable=False, comment="the last 120 (tick, nonce), 8 bytes each, ascending"),
    Column("reset_at", Integer, nullable=False, comment="reports signed before are refused; 0: never reset"),
    Column("instead_of", Text, comment="the id that it asked for or reported under, which another machine held"),
    Column("waiting", Integer, comment="samples on its disk, as in its latest report; NULL: it does not tell"),
    Column("dropped", Integer, comment="samples given up since its state folder began, likewise"),
    Column("dropped_at", Integer, comment="arrival of the latest report that told of more of them; NULL: none did"),
    Column("dropped_after", Integer, comment="arrival of its message before that one; NULL: it was the first"),
)

agent_boots = _table(
    "agent_boots",
    "Boots seen under an id; one that comes back after another was seen proves two machines.",
    Column("agent_ref", Integer, ForeignKey("agents.ref", ondelete="CASCADE"), primary_key=True),
    Column("boot_id", Text, primary_key=True),
    Column("first_seen_at", Integer, nullable=False),
    Column("refused", Integer, nullable=False, comment="1: the newcomer of an identity conflict"),
)

reports = _table(
    "reports",
    "Full audit log: every accepted report, byte for byte.",
    Column("id", Integer, primary_key=True, comment="order of arrival"),
    Column("agent_ref", Integer, ForeignKey("agents.ref"), nullable=False),
    Column("sample", Integer, nullable=False, comment="which measurement"),
    Column("tick", Integer, nullable=False, comment="which message"),
    Column("received_at", Integer, nullable=False),
    Column("sampled_at", Integer, comment="when it was measured, by our clock, if it came late; NULL: in its order"),
    Column("fingerprint", LargeBinary, nullable=False, comment="of the key that verified it, 4 bytes"),
    Column("mac", LargeBinary, nullable=False, comment="the report's MAC, 32 bytes"),
    Column("relay_path", Text, comment="ids of the relays, comma between; NULL: direct"),
    Column("key_id", Integer, nullable=False, comment="reports.id of its group's key; groups are pruned whole"),
    Column("base_id", Integer, comment="reports.id whose DATA is the dictionary of body; NULL: none"),
    Column("body", LargeBinary, nullable=False, comment="DATA, zstandard without its magic number"),
    UniqueConstraint("agent_ref", "sample", name="reports_sample"),
    # Of those that came late alone, so that it takes no place for the others.
    Index("reports_late", "agent_ref", "sampled_at", sqlite_where=text("sampled_at IS NOT NULL")),
)

agent_interfaces = _table(
    "agent_interfaces",
    "Network interface snapshots: the interfaces of each agent's newest measurement.",
    Column("agent_ref", Integer, ForeignKey("agents.ref", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("kind", Text, comment="the kernel's link kind; NULL: hardware"),
    Column("address", Text, comment="hardware address"),
    Column("addresses", Text, nullable=False, comment="prefixes, comma between"),
    Column("operstate", Text, nullable=False),
    Column("mtu", Integer, nullable=False),
    Column("report_id", Integer, nullable=False, comment="reports.id that said so"),
)

topology_edges = _table(
    "topology_edges",
    "Inferred links between agents.",
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False, comment="wireguard, relay or physical"),
    Column("a_ref", Integer, ForeignKey("agents.ref", ondelete="CASCADE"), nullable=False, comment="the smaller one"),
    Column("b_ref", Integer, ForeignKey("agents.ref", ondelete="CASCADE"), nullable=False),
    Column("state", Text, nullable=False, comment="of a relay edge up or unused: no newest report came that way"),
    Column("evidence", Text, nullable=False, comment="JSON: which reports show it, the newest ten of `count`"),
    Column("first_seen_at", Integer, nullable=False),
    Column("last_seen_at", Integer, nullable=False),
)

alarms = _table(
    "alarms",
    "Event log of topology changes and anomalies.",
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("agent_id", Text, comment="whom it concerns; NULL: nobody in particular"),
    Column("opened_at", Integer, nullable=False, comment="first evidence"),
    Column("closed_at", Integer, comment="NULL: open"),
    Column("last_at", Integer, nullable=False, comment="newest evidence"),
    Column("count", Integer, nullable=False, comment="how often since it opened; 1 for a state that lasts"),
    Column("detail", Text, nullable=False),
    Column("counter", Integer, comment="refusals.count or agents.dropped at the newest evidence; NULL: a state"),
    Index("alarms_open", "closed_at"),
    Index("alarms_subject", "kind", "agent_id"),
)

refusals = _table(
    "refusals",
    "Counters of refused messages, bounded: by kind, and by agent only where its MAC was valid.",
    Column("kind", Text, primary_key=True),
    Column("agent_id", Text, primary_key=True, comment="empty: nobody authenticated"),
    Column("count", Integer, nullable=False),
    Column("first_at", Integer, nullable=False),
    Column("last_at", Integer, nullable=False),
    Column("detail", Text, nullable=False, comment="of the newest one"),
)

receivers = _table(
    "receivers",
    "Heartbeats of the server's workers: while none beats, no agent is called silent.",
    Column("worker", Integer, primary_key=True, comment="process id"),
    Column("up_since", Integer, nullable=False),
    Column("alive_at", Integer, nullable=False),
)
