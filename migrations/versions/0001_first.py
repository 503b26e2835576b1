"""ratings, movies, jobs, model versions, keys.

Revision: 0001, after None
"""

import sqlalchemy as sa
from alembic import op

# SQLite numbers rows by itself only in a column of type INTEGER.
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.BigInteger()  # microseconds since 1970, UTC

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", KEY, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.CheckConstraint("role IN ('read', 'write', 'admin')", name=op.f("ck_api_keys_role")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_keys_sha256")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("dedupe_key", sa.String(length=128), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("heartbeat", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("worker", sa.String(length=128), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("run_after", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_jobs_state")
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_state_run_after", "jobs", ["state", "run_after"], unique=False)
    op.create_index(
        "uq_jobs_queued_dedupe_key",
        "jobs",
        ["dedupe_key"],
        unique=True,
        sqlite_where=sa.text("state = 'queued' AND dedupe_key IS NOT NULL"),
        postgresql_where=sa.text("state = 'queued' AND dedupe_key IS NOT NULL"),
    )

    op.create_table(
        "movies",
        sa.Column("movie_key", KEY, nullable=False),
        sa.Column("movie_id", sa.String(length=128), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("folded_title", sa.Text(), nullable=False),
        sa.Column("year", sa.Integer(), nullable=True),
        sa.Column("genres", sa.Text(), nullable=False),
        sa.Column("imdb_id", sa.String(length=32), nullable=True),
        sa.Column("tmdb_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("movie_key", name=op.f("pk_movies")),
        sa.UniqueConstraint("movie_id", name=op.f("uq_movies_movie_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_movies_folded_title"), "movies", ["folded_title"], unique=False)
    op.create_index(op.f("ix_movies_year"), "movies", ["year"], unique=False)

    op.create_table(
        "users",
        sa.Column("user_key", KEY, nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("user_key", name=op.f("pk_users")),
        sa.UniqueConstraint("user_id", name=op.f("uq_users_user_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "imports",
        sa.Column("import_id", KEY, nullable=False),
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("file_name", sa.Text(), nullable=True),
        sa.Column("spool_path", sa.Text(), nullable=False),
        sa.Column("file_bytes", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("format", sa.String(length=32), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("inserted", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("unchanged", sa.BigInteger(), nullable=False),
        sa.Column("superseded", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_imports_job_id_jobs")),
        sa.PrimaryKeyConstraint("import_id", name=op.f("pk_imports")),
        sa.UniqueConstraint("job_id", name=op.f("uq_imports_job_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job_log_lines",
        sa.Column("line_id", KEY, nullable=False),
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("logged_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.job_id"], name=op.f("fk_job_log_lines_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("line_id", name=op.f("pk_job_log_lines")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_job_log_lines_job_id"), "job_log_lines", ["job_id"], unique=False)

    op.create_table(
        "ratings",
        sa.Column("user_key", KEY, autoincrement=False, nullable=False),
        sa.Column("movie_key", KEY, autoincrement=False, nullable=False),
        sa.Column("stars", sa.Double(), nullable=False),
        sa.Column("rated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["movie_key"], ["movies.movie_key"], name=op.f("fk_ratings_movie_key_movies")
        ),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_ratings_user_key_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_key", "movie_key", name=op.f("pk_ratings")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "training_runs",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("overrides", sa.JSON(), nullable=False),
        sa.Column("configuration", sa.JSON(), nullable=True),
        sa.Column("snapshot", sa.JSON(), nullable=True),
        sa.Column("environment", sa.JSON(), nullable=True),
        sa.Column("evaluation", sa.JSON(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_training_runs_job_id_jobs")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_training_runs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_training_runs_job_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "epoch_reports",
        sa.Column("run_id", KEY, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("reported_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["training_runs.run_id"],
            name=op.f("fk_epoch_reports_run_id_training_runs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "attempt", "epoch", name=op.f("pk_epoch_reports")),
    )
    op.create_table(
        "model_versions",
        sa.Column("version", KEY, nullable=False),
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("parent_version", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("n_movies", sa.Integer(), nullable=False),
        sa.Column("configuration", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("trained_user_keys", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_runs.run_id"], name=op.f("fk_model_versions_run_id_training_runs")
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("run_id", name=op.f("uq_model_versions_run_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "active_version",
        sa.Column("pointer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", KEY, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("activated_at", INSTANT, nullable=False),
        sa.CheckConstraint("pointer = 1", name=op.f("ck_active_version_single_row")),
        sa.ForeignKeyConstraint(
            ["version"], ["model_versions.version"], name=op.f("fk_active_version_version_model_versions")
        ),
        sa.PrimaryKeyConstraint("pointer", name=op.f("pk_active_version")),
    )
    op.create_table(
        "model_version_chunks",
        sa.Column("version", KEY, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version"],
            ["model_versions.version"],
            name=op.f("fk_model_version_chunks_version_model_versions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version", "number", name=op.f("pk_model_version_chunks")),
    )


def downgrade() -> None:
    op.drop_table("model_version_chunks")
    op.drop_table("active_version")
    op.drop_table("model_versions")
    op.drop_table("epoch_reports")
    op.drop_table("training_runs")
    op.drop_table("ratings")
    op.drop_index(op.f("ix_job_log_lines_job_id"), "job_log_lines")

    op.drop_table("job_log_lines")
    op.drop_table("imports")
    op.drop_table("users")
    op.drop_index(op.f("ix_movies_year"), "movies")
    op.drop_index(op.f("ix_movies_folded_title"), "movies")

    op.drop_table("movies")
    op.drop_index(
        "uq_jobs_queued_dedupe_key",
        "jobs",
        sqlite_where=sa.text("state = 'queued' AND dedupe_key IS NOT NULL"),
        postgresql_where=sa.text("state = 'queued' AND dedupe_key IS NOT NULL"),
    )
    op.drop_index("ix_jobs_state_run_after", "jobs")

    op.drop_table("jobs")
    op.drop_table("api_keys")
