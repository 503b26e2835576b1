"""how long imports took.

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("imports", sa.Column("seconds", sa.Double(), nullable=False, server_default="0"))
    # Of imports of before, the last attempt's time is known, which nearly always was the only one.
    op.execute(
        "UPDATE imports SET seconds = (jobs.finished_at - jobs.started_at) / 1000000.0 FROM jobs "
        "WHERE jobs.job_id = imports.job_id AND jobs.finished_at > jobs.started_at"
    )


def downgrade() -> None:
    op.drop_column("imports", "seconds")
