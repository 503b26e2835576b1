"""The whole schema: catalogue, ratings, jobs, training, model versions, access.

Revision: 0001, after None
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

# SQLite numbers rows by itself only in a column of type INTEGER.
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.BigInteger()  # microseconds since 1970, UTC

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _catalogue_and_ratings()
    _jobs()
    _imports()
    _training()
    _model_versions()
    _access()
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_search()
    else:
        _postgresql_search()


def column(name: str, type_: Any, *arguments: Any, nullable: bool = False, **options: Any) -> sa.Column:
    """A column that is NOT NULL unless `nullable` says otherwise."""
    return sa.Column(name, type_, *arguments, nullable=nullable, **options)


def _catalogue_and_ratings() -> None:
    op.create_table(
        "users",
        column("user_key", KEY, primary_key=True),
        column("user_id", sa.String(128), unique=True),
        column("created_at", INSTANT),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "movies",
        column("movie_key", KEY, primary_key=True),
        column("movie_id", sa.String(128), unique=True),
        column("title", sa.Text()),
        column("folded_title", sa.Text(), index=True),
        column("title_words", sa.Text()),
        column("year", sa.Integer(), index=True, nullable=True),
        column("genres", sa.Text()),
        column("imdb_id", sa.String(32), nullable=True),
        column("tmdb_id", sa.String(32), nullable=True),
        column("n_ratings", sa.BigInteger()),
        column("created_at", INSTANT),
        column("updated_at", INSTANT),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_movies_popularity", "movies", ["n_ratings", "movie_key"])
    op.create_table(
        "catalogue_state",
        column("state", sa.Integer(), primary_key=True, autoincrement=False),
        column("generation", sa.BigInteger()),
        sa.CheckConstraint("state = 1", name="single_row"),
    )
    op.execute("INSERT INTO catalogue_state (state, generation) VALUES (1, 1)")
    op.create_table(
        "ratings",
        column("user_key", KEY, primary_key=True, autoincrement=False),
        column("movie_key", KEY, primary_key=True, autoincrement=False),
        column("stars", sa.Double()),
        column("rated_at", sa.BigInteger()),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rating_changes",
        column("change_id", KEY, primary_key=True),
        column("inserted", sa.BigInteger()),
        column("updated", sa.BigInteger()),
        column("removed", sa.BigInteger()),
        sqlite_autoincrement=True,
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        column("job_id", KEY, primary_key=True),
        column("kind", sa.String(32)),
        column("state", sa.String(16)),
        column("dedupe_key", sa.String(128), nullable=True),
        column("payload", sa.JSON()),
        column("attempt", sa.Integer()),
        column("failures", sa.Integer()),
        column("max_attempts", sa.Integer()),
        column("heartbeat", sa.BigInteger()),
        column("progress", sa.Double()),
        column("cancel_requested", sa.Boolean()),
        column("worker", sa.String(128), nullable=True),
        column("error", sa.Text(), nullable=True),
        column("result", sa.JSON(), nullable=True),
        column("run_after", INSTANT, nullable=True),
        column("created_at", INSTANT),
        column("started_at", INSTANT, nullable=True),
        column("finished_at", INSTANT, nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_state_run_after", "jobs", ["state", "run_after"])
    is_queued = sa.text("state = 'queued' AND dedupe_key IS NOT NULL")
    op.create_index(
        "uq_jobs_queued_dedupe_key",
        "jobs",
        ["dedupe_key"],
        unique=True,
        sqlite_where=is_queued,
        postgresql_where=is_queued,
    )
    op.create_table(
        "job_log_lines",
        column("line_id", KEY, primary_key=True),
        column("job_id", KEY, sa.ForeignKey("jobs.job_id", ondelete="CASCADE"), index=True),
        column("attempt", sa.Integer()),
        column("level", sa.String(16)),
        column("message", sa.Text()),
        column("logged_at", INSTANT),
        sqlite_autoincrement=True,
    )


def _imports() -> None:
    op.create_table(
        "imports",
        column("import_id", KEY, primary_key=True),
        column("job_id", KEY, sa.ForeignKey("jobs.job_id"), unique=True),
        column("file_name", sa.Text(), nullable=True),
        column("spool_path", sa.Text()),
        column("file_bytes", sa.BigInteger()),
        column("kind", sa.String(16)),
        column("format", sa.String(32)),
        column("rows", sa.BigInteger()),
        column("inserted", sa.BigInteger()),
        column("updated", sa.BigInteger()),
        column("unchanged", sa.BigInteger()),
        column("superseded", sa.BigInteger()),
        column("rejected", sa.BigInteger()),
        column("seconds", sa.Double()),
        column("errors", sa.JSON()),
        column("created_at", INSTANT),
        sqlite_autoincrement=True,
    )


def _training() -> None:
    op.create_table(
        "training_runs",
        column("run_id", KEY, primary_key=True),
        column("job_id", KEY, sa.ForeignKey("jobs.job_id"), unique=True),
        column("overrides", sa.JSON()),
        column("configuration", sa.JSON(), nullable=True),
        column("snapshot", sa.JSON(), nullable=True),
        column("environment", sa.JSON(), nullable=True),
        column("evaluation", sa.JSON(), nullable=True),
        column("note", sa.Text(), nullable=True),
        column("created_at", INSTANT),
        column("trigger", sa.String(16)),
        column("rating_changes", sa.BigInteger()),
        column("estimate", sa.JSON(), nullable=True),
        column("parent_version", sa.BigInteger(), nullable=True),
        column("is_warm_start", sa.Boolean()),
        column("rerun_of", sa.BigInteger(), nullable=True),
        column("sha256", sa.String(64), nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "epoch_reports",
        column(
            "run_id",
            KEY,
            sa.ForeignKey("training_runs.run_id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
        column("epoch", sa.Integer(), primary_key=True, autoincrement=False),
        column("report", sa.JSON()),
        column("reported_at", INSTANT),
    )
    op.create_table(
        "retrain_schedule",
        column("schedule", sa.Integer(), primary_key=True, autoincrement=False),
        column("refusal", sa.Text(), nullable=True),
        column("refused_at", INSTANT, nullable=True),
        sa.CheckConstraint("schedule = 1", name="single_row"),
    )
    op.execute("INSERT INTO retrain_schedule (schedule) VALUES (1)")


def _model_versions() -> None:
    op.create_table(
        "model_versions",
        column("version", KEY, primary_key=True),
        column("run_id", KEY, sa.ForeignKey("training_runs.run_id"), unique=True),
        column("parent_version", sa.BigInteger(), nullable=True),
        column("sha256", sa.String(64)),
        column("n_bytes", sa.BigInteger()),
        column("n_movies", sa.Integer()),
        column("configuration", sa.JSON()),
        column("metrics", sa.JSON()),
        column("verdict", sa.JSON()),
        column("note", sa.Text(), nullable=True),
        column("trained_user_keys", sa.LargeBinary()),
        column("created_at", INSTANT),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "model_version_chunks",
        column(
            "version",
            KEY,
            sa.ForeignKey("model_versions.version", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        column("number", sa.Integer(), primary_key=True, autoincrement=False),
        column("content", sa.LargeBinary()),
    )
    op.create_table(
        "active_version",
        column("pointer", sa.Integer(), primary_key=True, autoincrement=False),
        column("version", KEY, sa.ForeignKey("model_versions.version")),
        column("generation", sa.BigInteger()),
        column("activated_at", INSTANT),
        sa.CheckConstraint("pointer = 1", name="single_row"),
    )
    op.create_table(
        "activations",
        column("generation", sa.BigInteger(), primary_key=True, autoincrement=False),
        column("version", sa.BigInteger()),
        column("cause", sa.String(16)),
        column("activated_at", INSTANT),
        sa.CheckConstraint("cause IN ('gate', 'request', 'rollback')", name="cause"),
    )


def _access() -> None:
    op.create_table(
        "api_keys",
        column("key_id", KEY, primary_key=True),
        column("name", sa.String(128)),
        column("role", sa.String(16)),
        column("prefix", sa.String(16)),
        column("sha256", sa.String(64), unique=True),
        column("created_at", INSTANT),
        column("revoked_at", INSTANT, nullable=True),
        sa.CheckConstraint("role IN ('read', 'write', 'admin')", name="role"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "idempotency_keys",
        column("operation", sa.String(32), primary_key=True),
        column("idempotency_key", sa.String(255), primary_key=True),
        column("fingerprint", sa.String(64)),
        column("answer", sa.JSON(), nullable=True),
        column("created_at", INSTANT, index=True),
    )


def _sqlite_search() -> None:
    """The words of titles as they stand, split at blanks only; `movies` keeps the text."""
    op.execute(
        """
        CREATE VIRTUAL TABLE movie_search USING fts5(
            title_words, content = 'movies', content_rowid = 'movie_key', columnsize = 0, detail = none,
            prefix = '1 2 3',
            tokenize = "unicode61 remove_diacritics 0 categories 'L* M* N* P* S* C*'"
        )
        """
    )
    add = "INSERT INTO movie_search (rowid, title_words) VALUES (new.movie_key, new.title_words);"
    remove = (
        "INSERT INTO movie_search (movie_search, rowid, title_words) "
        "VALUES ('delete', old.movie_key, old.title_words);"
    )
    for event, statements in {
        "INSERT": add,
        "DELETE": remove,
        "UPDATE OF title_words": remove + add,
    }.items():
        name = f"movie_search_{event.split()[0].lower()}"
        op.execute(f"CREATE TRIGGER {name} AFTER {event} ON movies BEGIN {statements} END")


def _postgresql_search() -> None:
    """The words of titles in a table of their own, because `movies.n_ratings` changes all the time.

    Each new number would otherwise add a movie's words to the GIN index once more.
    """
    op.create_table(
        "movie_search",
        column("movie_key", KEY, sa.ForeignKey("movies.movie_key", ondelete="CASCADE"), primary_key=True),
        column("title_words", postgresql.TSVECTOR()),
    )
    # Without a list of pending entries, which searches would have to read from end to end.
    op.execute(
        "CREATE INDEX ix_movie_search_title_words ON movie_search USING gin (title_words) "
        "WITH (fastupdate = off)"
    )
    op.execute(
        """
        CREATE FUNCTION index_title_words() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO movie_search (movie_key, title_words)
            VALUES (new.movie_key, array_to_tsvector(string_to_array(ltrim(new.title_words), ' ')))
            ON CONFLICT (movie_key) DO UPDATE SET title_words = excluded.title_words;
            RETURN NULL;
        END
        $$
        """
    )
    # Movies that only ratings have named have no words, and there may be many of them in one import.
    for event, condition in {
        "INSERT": "new.title_words <> ''",
        "UPDATE OF title_words": "new.title_words <> old.title_words",
    }.items():
        op.execute(
            f"CREATE TRIGGER movie_search_{event.split()[0].lower()} AFTER {event} ON movies FOR EACH ROW "
            f"WHEN ({condition}) EXECUTE FUNCTION index_title_words()"
        )
