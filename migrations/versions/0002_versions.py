"""the history of activations.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    activations = op.create_table(
        "activations",
        sa.Column("generation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("activated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("cause IN ('gate', 'request', 'rollback')", name=op.f("ck_activations_cause")),
        sa.PrimaryKeyConstraint("generation", name=op.f("pk_activations")),
    )
    # Of what was active before, only the present pointer is known; who moved it is not.
    pointer = sa.table(
        "active_version",
        sa.column("generation", sa.BigInteger()),
        sa.column("version", sa.BigInteger()),
        sa.column("activated_at", sa.BigInteger()),
    )
    known = sa.select(pointer.c.generation, pointer.c.version, sa.literal("request"), pointer.c.activated_at)
    op.execute(sa.insert(activations).from_select(["generation", "version", "cause", "activated_at"], known))


def downgrade() -> None:
    op.drop_table("activations")
