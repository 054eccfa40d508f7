"""Late samples are marked, and agents tell what waits on their disks.

Revision 0002. What was filed before counts as having come in its order: there was no spool.
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
