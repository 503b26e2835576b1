"""Counted rating changes, the retraining schedule, idempotency keys, more about training runs.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.BigInteger()  # microseconds since 1970, UTC

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rating_changes",
        sa.Column("change_id", KEY, nullable=False),
        sa.Column("inserted", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("removed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("change_id", name=op.f("pk_rating_changes")),
        sqlite_autoincrement=True,
    )
    # What is there counts as inserted once, so that inserted less removed is the number of ratings.
    op.execute("INSERT INTO rating_changes (inserted, updated, removed) SELECT count(*), 0, 0 FROM ratings")
    op.create_table(
        "retrain_schedule",
        sa.Column("schedule", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("refused_at", INSTANT, nullable=True),
        sa.CheckConstraint("schedule = 1", name=op.f("ck_retrain_schedule_single_row")),
        sa.PrimaryKeyConstraint("schedule", name=op.f("pk_retrain_schedule")),
    )
    op.execute("INSERT INTO retrain_schedule (schedule) VALUES (1)")
    op.create_table(
        "idempotency_keys",
        sa.Column("operation", sa.String(length=32), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("operation", "idempotency_key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)

    with op.batch_alter_table("training_runs") as batch:
        batch.add_column(sa.Column("trigger", sa.String(length=16), nullable=False, server_default="request"))
        batch.add_column(sa.Column("rating_changes", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("estimate", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("parent_version", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("is_warm_start", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch.add_column(sa.Column("rerun_of", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("sha256", sa.String(length=64), nullable=True))
    # Runs of before have seen at most what is there now.
    op.execute("UPDATE training_runs SET rating_changes = (SELECT sum(inserted) FROM rating_changes)")


def downgrade() -> None:
    with op.batch_alter_table("training_runs") as batch:
        for name in (
            "sha256",
            "rerun_of",
            "is_warm_start",
            "parent_version",
            "estimate",
            "rating_changes",
            "trigger",
        ):
            batch.drop_column(name)
    op.drop_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("retrain_schedule")
    op.drop_table("rating_changes")
