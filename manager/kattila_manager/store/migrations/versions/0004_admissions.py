"""Count new agents, and find a boot without reading all of them.

Revision 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table, and the index of boots."""
    op.create_table(
        "admissions",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("used_until", sa.Integer, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("agent_boots_boot", "agent_boots", ["boot_id"])
