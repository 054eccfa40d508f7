"""Mark late samples, and record how many samples wait on the agents' disks.

Revision 0002. Earlier reports count as having arrived in order, because agents had no spool.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, and the index of late samples."""
    op.add_column("reports", sa.Column("sampled_at", sa.Integer))
    late = sa.text("sampled_at IS NOT NULL")
    op.create_index("reports_late", "reports", ["agent_ref", "sampled_at"], sqlite_where=late)
    for name in ("waiting", "dropped", "dropped_at", "dropped_after"):
        op.add_column("agents", sa.Column(name, sa.Integer))
