"""The bundled films: enough of every kind, each once, under ids that never change."""

from collections import Counter

import pytest

from app.demo.catalogue import GENRES, films, movie_id


def test_there_are_enough_films_and_none_twice() -> None:
    catalogue = films()
    assert len(catalogue) >= 400
    assert len({film.movie_id for film in catalogue}) == len(catalogue)
    assert len({(film.title.lower(), film.year) for film in catalogue}) == len(catalogue)


def test_every_film_is_well_formed() -> None:
    for film in films():
        assert film.title == film.title.strip() != "", film
        assert not film.title.endswith(f"({film.year})"), film
        assert 1900 <= film.year <= 2026, film
        assert 1 <= film.fame <= 5, film
        assert film.genres, film
        assert set(film.genres) <= set(GENRES), film
        assert list(film.genres) == sorted(set(film.genres)), film
        assert film.movie_id == movie_id(film.title, film.year), film


def test_every_id_is_one_that_the_service_takes() -> None:
    for film in films():
        assert film.movie_id.isascii()
        assert film.movie_id.startswith("demo-")
        assert len(film.movie_id) <= 128
        assert film.movie_id.replace("-", "").isalnum()
        assert film.movie_id == film.movie_id.lower()
        assert "--" not in film.movie_id


@pytest.mark.parametrize(
    ("title", "year", "expected"),
    [
        ("Blade Runner", 1982, "demo-blade-runner-1982"),
        ("WALL-E", 2008, "demo-wall-e-2008"),
        ("Amélie", 2001, "demo-amelie-2001"),
        ("L.A. Confidential", 1997, "demo-la-confidential-1997"),
        ("M*A*S*H", 1970, "demo-mash-1970"),
        ("It's a Wonderful Life", 1946, "demo-its-a-wonderful-life-1946"),
        ("Lilo & Stitch", 2002, "demo-lilo-and-stitch-2002"),
        ("8½", 1963, "demo-8-1-2-1963"),
        ("[Rec]", 2007, "demo-rec-2007"),
        ("1917", 2019, "demo-1917-2019"),
    ],
)
def test_an_id_is_read_off_title_and_year(title: str, year: int, expected: str) -> None:
    assert movie_id(title, year) == expected


def test_remakes_of_one_title_are_distinguished_by_their_year() -> None:
    assert [film.year for film in films() if film.title == "Dune"] == [1984, 2021]


@pytest.mark.parametrize(
    ("genre", "least"),
    [
        ("Sci-Fi", 60),
        ("Romance", 60),
        ("Animation", 50),
        ("Children", 50),
        ("Horror", 40),
        ("Crime", 60),
        ("War", 30),
        ("Musical", 40),
        ("Western", 20),
        ("Documentary", 12),
        ("Film-Noir", 12),
    ],
)
def test_every_taste_finds_enough(genre: str, least: int) -> None:
    assert sum(genre in film.genres for film in films()) >= least


def test_the_films_come_from_a_century() -> None:
    decades = Counter(film.year // 10 * 10 for film in films())
    assert all(decades[decade] >= 10 for decade in range(1920, 2030, 10))


def test_the_caller_may_change_the_list() -> None:
    films().clear()
    assert films()
