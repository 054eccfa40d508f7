"""The first schema.

Revision 0001. Written out in full, since it must stay as it was when later versions change schema.py.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "agents",
        sa.Column("ref", sa.Integer, primary_key=True),
        sa.Column("agent_id", sa.Text, nullable=False, unique=True),
        sa.Column("hostname", sa.Text, nullable=False),
        sa.Column("agent_version", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.Integer, nullable=False),
        sa.Column("last_seen_at", sa.Integer, nullable=False),
        sa.Column("highest_tick", sa.Integer, nullable=False),
        sa.Column("highest_sample", sa.Integer, nullable=False),
        sa.Column("latest_report_id", sa.Integer),
        sa.Column("window", sa.LargeBinary, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("clock_offset", sa.Integer, nullable=False),
        sa.Column("relay_path", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("boot_hardware", sa.Text, nullable=False),
        sa.Column("hardware", sa.Text, nullable=False),
        sa.Column("challenger_boot_id", sa.Text, nullable=False),
        sa.Column("reset_at", sa.Integer, nullable=False),
        sa.Column("instead_of", sa.Text),
        sqlite_strict=True,
    )
    op.create_table(
        "agent_boots",
        sa.Column("agent_ref", sa.Integer, sa.ForeignKey("agents.ref", ondelete="CASCADE"), primary_key=True),
        sa.Column("boot_id", sa.Text, primary_key=True),
        sa.Column("first_seen_at", sa.Integer, nullable=False),
        sa.Column("refused", sa.Integer, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("agent_ref", sa.Integer, sa.ForeignKey("agents.ref"), nullable=False),
        sa.Column("sample", sa.Integer, nullable=False),
        sa.Column("tick", sa.Integer, nullable=False),
        sa.Column("received_at", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("relay_path", sa.Text),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("base_id", sa.Integer),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("agent_ref", "sample", name="reports_sample"),
        sqlite_strict=True,
    )
    op.create_table(
        "agent_interfaces",
        sa.Column("agent_ref", sa.Integer, sa.ForeignKey("agents.ref", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("addresses", sa.Text, nullable=False),
        sa.Column("operstate", sa.Text, nullable=False),
        sa.Column("mtu", sa.Integer, nullable=False),
        sa.Column("report_id", sa.Integer, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "topology_edges",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("a_ref", sa.Integer, sa.ForeignKey("agents.ref", ondelete="CASCADE"), nullable=False),
        sa.Column("b_ref", sa.Integer, sa.ForeignKey("agents.ref", ondelete="CASCADE"), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.Integer, nullable=False),
        sa.Column("last_seen_at", sa.Integer, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "alarms",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text),
        sa.Column("opened_at", sa.Integer, nullable=False),
        sa.Column("closed_at", sa.Integer),
        sa.Column("last_at", sa.Integer, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("counter", sa.Integer),
        sqlite_strict=True,
    )
    op.create_index("alarms_open", "alarms", ["closed_at"])
    op.create_index("alarms_subject", "alarms", ["kind", "agent_id"])
    op.create_table(
        "refusals",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("first_at", sa.Integer, nullable=False),
        sa.Column("last_at", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "receivers",
        sa.Column("worker", sa.Integer, primary_key=True),
        sa.Column("up_since", sa.Integer, nullable=False),
        sa.Column("alive_at", sa.Integer, nullable=False),
        sqlite_strict=True,
    )
