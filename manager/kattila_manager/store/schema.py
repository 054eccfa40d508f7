"""The tables, with the meaning of each column.

Versions (store/migrations/versions): 0001 is the first; 0002 marks late samples, and records what agents keep and
drop; 0003 records forgotten agents; 0004 limits new agents; 0005 records agents' intervals and addresses.
docs/SCHEMA.md is generated from the comments. Times are ms UTC. SQLAlchemy Core leaves the way open to PostgreSQL.
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
    """Return the SQL of a statement with positional parameters: its columns in order, then those of the condition.

    For thousands of rows a second: SQLAlchemy's processing of each parameter takes as long as SQLite's work.
    """
    return str(statement.compile(dialect=sqlite.dialect()))


agents = _table(
    "agents",
    "Fleet registry: one row per agent id, with the state that the next report is judged against.",
    Column("ref", Integer, primary_key=True, comment="short number that the other tables use"),
    Column("agent_id", Text, nullable=False, unique=True, comment="UUID in lower case"),
    Column("hostname", Text, nullable=False, comment="as in its latest report"),
    Column("agent_version", Text, nullable=False, comment="as in its latest report"),
    Column("first_seen_at", Integer, nullable=False, comment="registration, or the first report"),
    Column("last_seen_at", Integer, nullable=False, comment="arrival of the newest message, late samples included"),
    Column("highest_tick", Integer, nullable=False, comment="highest tick seen: the upper end of the replay window"),
    Column(
        "highest_sample",
        Integer,
        nullable=False,
        comment="highest sample number since the last reset; the newest sample decides the state",
    ),
    Column("latest_report_id", Integer, comment="reports.id of the newest sample"),
    Column("fingerprint", Text, nullable=False, comment="key that signed the newest message"),
    Column("clock_offset", Integer, nullable=False, comment="agent's clock minus ours in ms, at the newest message"),
    Column("relay_path", Text, nullable=False, comment="ids of the relays, comma-separated; empty: direct"),
    Column("boot_id", Text, nullable=False, comment="the boot that holds the id"),
    Column("boot_hardware", Text, nullable=False, comment="hardware addresses of that boot, comma-separated"),
    Column("hardware", Text, nullable=False, comment="hardware addresses that the id is bound to"),
    Column("challenger_boot_id", Text, nullable=False, comment="boot of another machine that claims the id, or empty"),
    Column("window", LargeBinary, nullable=False, comment="the last 120 pairs (tick, nonce), 8 bytes each, ascending"),
    Column("reset_at", Integer, nullable=False, comment="reports signed before this are refused; 0: never reset"),
    Column("instead_of", Text, comment="the id it requested or used, which another machine held"),
    Column("waiting", Integer, comment="samples waiting on its disk, from its latest report; NULL: not reported"),
    Column("dropped", Integer, comment="samples dropped since its state folder was created; NULL: not reported"),
    Column("dropped_at", Integer, comment="arrival of the latest report with a higher count; NULL: none yet"),
    Column("dropped_after", Integer, comment="arrival of the message before that report; NULL: it was the first"),
    Column("interval_seconds", Integer, comment="its report interval, from its latest report; NULL: not reported"),
    Column("source_address", Text, comment="where its newest direct report came from; NULL: unknown, or a local proxy"),
)

agent_boots = _table(
    "agent_boots",
    "The newest boots seen under an id. A boot that returns after another one was seen proves two machines.",
    Column("agent_ref", Integer, ForeignKey("agents.ref", ondelete="CASCADE"), primary_key=True),
    Column("boot_id", Text, primary_key=True, comment="with a slash and addresses: hardware seen within that boot"),
    Column("first_seen_at", Integer, nullable=False),
    Column("refused", Integer, nullable=False, comment="1: the newcomer in an identity conflict"),
    Index("agent_boots_boot", "boot_id"),
)

admissions = _table(
    "admissions",
    "New agents within the last minute, by source. Each uses a share of what its source may have in a minute.",
    Column("source", Text, primary_key=True, comment="IPv4 address or IPv6 /64 network; empty: all sources"),
    Column("used_until", Integer, nullable=False, comment="the allowance is used up if this is a minute ahead"),
)

forgotten = _table(
    "forgotten",
    "Agents that `kattila-manager forget` hides until their next report, with their state at that time.",
    Column("agent_ref", Integer, ForeignKey("agents.ref", ondelete="CASCADE"), primary_key=True),
    Column("forgotten_at", Integer, nullable=False),
    Column("highest_tick", Integer, nullable=False, comment="agents.highest_tick; a higher one is a newer report"),
    Column("latest_report_id", Integer, comment="agents.latest_report_id; another one is a newer report"),
)

reports = _table(
    "reports",
    "Full audit log: every accepted report, byte for byte.",
    Column("id", Integer, primary_key=True, comment="order of arrival"),
    Column("agent_ref", Integer, ForeignKey("agents.ref"), nullable=False),
    Column("sample", Integer, nullable=False, comment="number of the sample"),
    Column("tick", Integer, nullable=False, comment="number of the message"),
    Column("received_at", Integer, nullable=False),
    Column("sampled_at", Integer, comment="when a late sample was measured, by our clock; NULL: not late"),
    Column("fingerprint", LargeBinary, nullable=False, comment="fingerprint of its key, 4 bytes"),
    Column("mac", LargeBinary, nullable=False, comment="the report's MAC, 32 bytes"),
    Column("relay_path", Text, comment="ids of the relays, comma-separated; NULL: direct"),
    Column(
        "key_id", Integer, nullable=False, comment="reports.id of the key report of its group; groups are pruned whole"
    ),
    Column("base_id", Integer, comment="reports.id whose DATA is the dictionary for body; NULL: none"),
    Column("body", LargeBinary, nullable=False, comment="DATA, zstandard without its magic number"),
    UniqueConstraint("agent_ref", "sample", name="reports_sample"),
    # Only late samples are indexed, so the others take no space here.
    Index("reports_late", "agent_ref", "sampled_at", sqlite_where=text("sampled_at IS NOT NULL")),
)

agent_interfaces = _table(
    "agent_interfaces",
    "The network interfaces in each agent's newest sample.",
    Column("agent_ref", Integer, ForeignKey("agents.ref", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("kind", Text, comment="the kernel's link kind; NULL: hardware"),
    Column("address", Text, comment="hardware address"),
    Column("addresses", Text, nullable=False, comment="prefixes, comma-separated"),
    Column("operstate", Text, nullable=False),
    Column("mtu", Integer, nullable=False),
    Column("report_id", Integer, nullable=False, comment="reports.id that showed the latest change"),
)

topology_edges = _table(
    "topology_edges",
    "Inferred connections between agents.",
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False, comment="relay; planned: wireguard and physical"),
    Column(
        "a_ref",
        Integer,
        ForeignKey("agents.ref", ondelete="CASCADE"),
        nullable=False,
        comment="agents.ref, the smaller one",
    ),
    Column("b_ref", Integer, ForeignKey("agents.ref", ondelete="CASCADE"), nullable=False),
    Column("state", Text, nullable=False, comment="relay edges: up, or unused if no newest report took this path"),
    Column("evidence", Text, nullable=False, comment="JSON: the newest ten of the `count` reports that show it"),
    Column("first_seen_at", Integer, nullable=False),
    Column("last_seen_at", Integer, nullable=False),
)

alarms = _table(
    "alarms",
    "Event log of topology changes and anomalies.",
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("agent_id", Text, comment="the agent that it concerns; NULL: no known agent"),
    Column("opened_at", Integer, nullable=False, comment="first evidence"),
    Column("closed_at", Integer, comment="NULL: open"),
    Column("last_at", Integer, nullable=False, comment="newest evidence"),
    Column("count", Integer, nullable=False, comment="how often it happened since it opened; 1 for a state"),
    Column("detail", Text, nullable=False),
    Column("counter", Integer, comment="refusals.count or agents.dropped at the newest evidence; NULL: a state"),
    Index("alarms_open", "closed_at"),
    Index("alarms_subject", "kind", "agent_id"),
)

refusals = _table(
    "refusals",
    "Counters of refused messages by kind, and by agent if the MAC was valid.",
    Column("kind", Text, primary_key=True),
    Column("agent_id", Text, primary_key=True, comment="empty: unknown sender"),
    Column("count", Integer, nullable=False),
    Column("first_at", Integer, nullable=False),
    Column("last_at", Integer, nullable=False),
    Column("detail", Text, nullable=False, comment="detail of the newest refusal"),
)

receivers = _table(
    "receivers",
    "Heartbeats of the server's workers. Without a recent one, all agents are unheard.",
    Column("worker", Integer, primary_key=True, comment="process id"),
    Column("up_since", Integer, nullable=False),
    Column("alive_at", Integer, nullable=False),
)
