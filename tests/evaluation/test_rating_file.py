"""Files of ratings and movies as the evaluation reads them."""

from pathlib import Path

import numpy as np
import pytest

from app.errors import InvalidInput
from app.evaluation.rating_file import Shape, read_movies, read_ratings
from app.settings import Settings
from tests.evaluation.ratings import tastes


def test_the_newest_rating_of_each_pair_counts(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\nb,x,1,20\na,x,2,10\nb,x,3,30\na,y,4,10\na,y,5,10\n")
    data = read_ratings(path, Settings())
    rows = data.rows
    pairs = zip(rows.indices.tolist(), rows.stars.tolist(), strict=True)
    assert {(data.vocabulary.movie_ids[movie], stars) for movie, stars in pairs} == {
        ("x", 2.0),
        ("x", 3.0),
        ("y", 5.0),
    }
    assert rows.n_users == 2
    assert sorted((data.rated_at // 1_000_000).tolist()) == [10, 10, 30]
    assert data.rated_at[rows.stars == 3].tolist() == [30_000_000]


def test_columns_are_in_the_order_of_ids_not_of_appearance(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating\na,z,5\na,b,1\nb,m,3\n")
    data = read_ratings(path, Settings())
    assert data.vocabulary.movie_ids == ("b", "m", "z")
    assert data.rows.indices.tolist() == [0, 2, 1]
    assert data.rows.stars.tolist() == [1, 5, 3]


def test_a_file_with_a_bad_row_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("userId,movieId,rating\na,x,1\na,y,many\n")
    with pytest.raises(InvalidInput, match="line 3"):
        read_ratings(path, Settings())
    path.write_text("movieId,title\na/b,Slash\n")
    with pytest.raises(InvalidInput, match="line 2"):
        read_movies(path, Settings())


def test_movies_of_a_file_have_titles_and_genres(tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    path.write_text("movieId,title,genres\neven0,First (1990),Even|Odd\nodd1,Second,Odd\n")
    movies = read_movies(path, Settings())
    assert (movies["even0"].title, movies["even0"].year) == ("First", 1990)
    assert movies["even0"].genres == ("Even", "Odd")
    data = tastes(movies)
    assert {name: int(chosen.sum()) for name, chosen in data.genres().items()} == {"Even": 1, "Odd": 2}


def test_the_shape_counts_users_movies_and_stars() -> None:
    shape = Shape.of(tastes().rows)
    assert (shape.n_users, shape.n_movies, shape.n_ratings, shape.of_user) == (60, 30, 720, (12, 12, 12))
    assert [stars for stars, _ in shape.stars] == ["1", "1.5", "2", "4", "4.5", "5"]
    assert sum(n for _, n in shape.stars) == 720
    rows = tastes().rows
    rows.stars[:] = np.linspace(1, 5, rows.n_ratings)
    assert [stars for stars, _ in Shape.of(rows).stars][:2] == ["1 to 1.4", "1.4 to 1.8"]
