"""Record which agents were forgotten.

Revision 0003. The table is separate, so that nothing changes for the processes that file reports.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "forgotten",
        sa.Column("agent_ref", sa.Integer, sa.ForeignKey("agents.ref", ondelete="CASCADE"), primary_key=True),
        sa.Column("forgotten_at", sa.Integer, nullable=False),
        sa.Column("highest_tick", sa.Integer, nullable=False),
        sa.Column("latest_report_id", sa.Integer),
        sqlite_strict=True,
    )
