"""Record each agent's report interval, and the address that its direct reports come from.

Revision 0005. Both are unknown until the agent's next report.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("agents", sa.Column("interval_seconds", sa.Integer))
    op.add_column("agents", sa.Column("source_address", sa.Text))
