"""ratings without foreign keys; words and popularity of movies.

Revision: 0005, after 0004
"""

import re
import unicodedata

import sqlalchemy as sa
from alembic import op

# SQLite numbers rows by itself only in a column of type INTEGER.
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FOREIGN_KEYS = (("movie_key", "movies", None), ("user_key", "users", "CASCADE"))


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_ratings()
    else:
        for column, table, _ in FOREIGN_KEYS:
            op.drop_constraint(op.f(f"fk_ratings_{column}_{table}"), "ratings", type_="foreignkey")

    op.add_column("movies", sa.Column("n_ratings", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("movies", sa.Column("title_words", sa.Text(), nullable=False, server_default=""))
    op.create_index("ix_movies_popularity", "movies", ["n_ratings", "movie_key"])
    words = op.create_table(
        "movie_words",
        sa.Column("word", sa.String(length=64, collation=_bytewise()), nullable=False),
        sa.Column("movie_key", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["movie_key"],
            ["movies.movie_key"],
            name=op.f("fk_movie_words_movie_key_movies"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("word", "movie_key", name=op.f("pk_movie_words")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_movie_words_movie_key"), "movie_words", ["movie_key"])
    _fill(words)


def downgrade() -> None:
    op.drop_table("movie_words")
    op.drop_index("ix_movies_popularity", "movies")
    op.drop_column("movies", "title_words")
    op.drop_column("movies", "n_ratings")
    constraints = [
        sa.ForeignKeyConstraint(
            [column], [f"{table}.{column}"], name=op.f(f"fk_ratings_{column}_{table}"), ondelete=on_delete
        )
        for column, table, on_delete in FOREIGN_KEYS
    ]
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_ratings(*constraints)
    else:
        for column, table, on_delete in FOREIGN_KEYS:
            op.create_foreign_key(
                op.f(f"fk_ratings_{column}_{table}"), "ratings", table, [column], [column], ondelete=on_delete
            )


def _bytewise() -> str:
    """The collation in which a prefix is a range."""
    return "BINARY" if op.get_bind().dialect.name == "sqlite" else "C"


def _rebuild_ratings(*constraints: sa.Constraint) -> None:
    """SQLite changes no constraint of a table that is there."""
    op.rename_table("ratings", "old_ratings")
    op.create_table(
        "ratings",
        sa.Column("user_key", KEY, autoincrement=False, nullable=False),
        sa.Column("movie_key", KEY, autoincrement=False, nullable=False),
        sa.Column("stars", sa.Double(), nullable=False),
        sa.Column("rated_at", sa.BigInteger(), nullable=False),
        *constraints,
        sa.PrimaryKeyConstraint("user_key", "movie_key", name=op.f("pk_ratings")),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO ratings SELECT user_key, movie_key, stars, rated_at FROM old_ratings")
    op.drop_table("old_ratings")


def _fill(words: sa.Table) -> None:
    """The words and the popularity of the movies that are there."""
    connection = op.get_bind()
    movies = sa.table(
        "movies",
        sa.column("movie_key"),
        sa.column("title"),
        sa.column("title_words"),
        sa.column("n_ratings"),
    )
    rows, folded = [], []
    for movie_key, title in connection.execute(sa.select(movies.c.movie_key, movies.c.title)).all():
        found = _words(title)
        rows += [{"word": word, "movie_key": movie_key} for word in found]
        folded.append({"key": movie_key, "words": "".join(f" {word}" for word in found)})
    if rows:
        connection.execute(words.insert(), rows)
    if folded:
        statement = movies.update().where(movies.c.movie_key == sa.bindparam("key"))
        connection.execute(statement.values(title_words=sa.bindparam("words")), folded)
    connection.execute(
        sa.text(
            "UPDATE movies SET n_ratings = counted.n FROM "
            "(SELECT movie_key, count(*) AS n FROM ratings GROUP BY movie_key) AS counted "
            "WHERE counted.movie_key = movies.movie_key"
        )
    )


def _words(title: str) -> list[str]:
    decomposed = unicodedata.normalize("NFKD", title.casefold())
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    found: dict[str, None] = {}
    for word in plain.split():
        for part in (word, *re.findall(r"[^\W_]+", word)):
            found[part[:64]] = None
    return list(found)
