"""Write made-up ratings of any shape to a CSV file that `harmonium import` and `evaluate` read.

    python -m benchmarks.synthetic --users 6040 --movies 3706 --ratings 1000000 ratings.csv

The generator itself, with what it imitates, is `app.learning.synthetic`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.learning.preferences import RatingRows
from app.learning.synthetic import synthetic_ratings

LINES_AT_ONCE = 1_000_000


def write_csv(rows: RatingRows, path: Path) -> None:
    """One line a rating, `userId,movieId,rating`; users and movies count from 1."""
    with path.open("w", encoding="ascii") as file:
        file.write("userId,movieId,rating\n")
        users = rows.users
        for start in range(0, rows.n_ratings, LINES_AT_ONCE):
            part = slice(start, start + LINES_AT_ONCE)
            lines = np.column_stack(
                (users[part] + 1, rows.indices[part] + 1, rows.stars[part].astype(np.int64))
            )
            file.writelines(f"{user},{movie},{given}.0\n" for user, movie, given in lines.tolist())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--users", type=int, default=943)
    parser.add_argument("--movies", type=int, default=1_682)
    parser.add_argument("--ratings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    rows = synthetic_ratings(given.users, given.movies, given.ratings, given.seed)
    write_csv(rows, given.file)
    print(f"{given.file}: {rows.n_ratings} ratings by {rows.n_users} users of {rows.n_movies} movies")


if __name__ == "__main__":
    main()
