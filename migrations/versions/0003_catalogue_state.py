"""a number that rises with every change of the catalogue.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    state = op.create_table(
        "catalogue_state",
        sa.Column("state", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state = 1", name=op.f("ck_catalogue_state_single_row")),
        sa.PrimaryKeyConstraint("state", name=op.f("pk_catalogue_state")),
    )
    op.bulk_insert(state, [{"state": 1, "generation": 1}])


def downgrade() -> None:
    op.drop_table("catalogue_state")
