"""What the demo is there to show: a machine trained on it tells tastes apart, after a handful of ratings.

It tests the data as much as the learner: should a change of either blur the tastes, a newcomer's first list
would be the first to show it.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from app.demo.catalogue import Film, films
from app.demo.raters import PERSONAS, ratings
from app.learning.configuration import TrainingConfiguration
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.training import completed, train
from app.learning.vocabulary import Vocabulary

FILMS = films()
COLUMN = {(film.title, film.year): column for column, film in enumerate(FILMS)}


def is_science_fiction(film: Film) -> bool:
    return "Sci-Fi" in film.genres


def is_romance(film: Film) -> bool:
    return "Romance" in film.genres


def is_family(film: Film) -> bool:
    return "Children" in film.genres or "Animation" in film.genres


def is_horror(film: Film) -> bool:
    return "Horror" in film.genres


@pytest.fixture(scope="module")
def machines() -> Machines:
    """Trained on the demo as `harmonium demo` does it: with every default."""
    made = ratings()
    vocabulary = Vocabulary([film.movie_id for film in FILMS])
    row_of = {user_id: row for row, user_id in enumerate(dict.fromkeys(rating.user_id for rating in made))}
    rows = RatingRows.from_coordinates(
        [row_of[rating.user_id] for rating in made],
        vocabulary.columns([rating.movie_id for rating in made]),
        [rating.stars for rating in made],
        len(row_of),
        len(vocabulary),
    )
    return completed(train(rows, vocabulary, TrainingConfiguration()))


def row(stars: dict[tuple[str, int], float]) -> RatingRows:
    return RatingRows.single([COLUMN[film] for film in stars], list(stars.values()), len(FILMS))


def best(machines: Machines, rated: RatingRows, limit: int = 10) -> list[Film]:
    scores: NDArray[np.float32] = machines.scores(rated)[0]
    scores[rated.indices] = -np.inf
    return [FILMS[column] for column in np.argsort(-scores)[:limit]]


def count(of: Iterable[Film], kind: Callable[[Film], bool]) -> int:
    return sum(map(kind, of))


SCIENCE_FICTION_FAN = {
    ("Blade Runner", 1982): 5.0,
    ("Arrival", 2016): 5.0,
    ("Alien", 1979): 5.0,
    ("The Notebook", 2004): 1.0,
    ("Pretty Woman", 1990): 1.0,
}
ROMANCE_FAN = {
    ("Casablanca", 1942): 5.0,
    ("Notting Hill", 1999): 5.0,
    ("Before Sunrise", 1995): 5.0,
    ("The Terminator", 1984): 1.0,
    ("Aliens", 1986): 1.0,
}
FAMILY_FAN = {
    ("Toy Story", 1995): 5.0,
    ("My Neighbor Totoro", 1988): 5.0,
    ("Coco", 2017): 5.0,
    ("The Shining", 1980): 1.0,
    ("Seven", 1995): 1.0,
}


def test_three_science_fiction_films_up_and_two_romances_down_give_science_fiction(
    machines: Machines,
) -> None:
    listed = best(machines, row(SCIENCE_FICTION_FAN))
    assert count(listed, is_science_fiction) >= 7, listed
    assert not [film for film in listed if is_romance(film) and not is_science_fiction(film)]


def test_the_converse_gives_romance(machines: Machines) -> None:
    listed = best(machines, row(ROMANCE_FAN))
    assert count(listed, is_romance) >= 7, listed
    assert not [film for film in listed if is_science_fiction(film) and not is_romance(film)]


def test_films_for_the_family_give_more_of_them(machines: Machines) -> None:
    listed = best(machines, row(FAMILY_FAN))
    assert count(listed, is_family) >= 7, listed
    assert not count(listed, is_horror)


def test_a_single_rating_already_says_something(machines: Machines) -> None:
    assert count(best(machines, row({("Blade Runner", 1982): 5.0})), is_science_fiction) >= 6


def test_without_ratings_no_taste_rules_the_list(machines: Machines) -> None:
    popular = np.argsort(-machines.popularity_scores())[:10]
    for kind in (is_science_fiction, is_romance, is_family):
        assert count((FILMS[column] for column in popular), kind) <= 7


@pytest.mark.parametrize(
    ("up", "down"),
    [(is_science_fiction, is_romance), (is_romance, is_science_fiction), (is_family, is_horror)],
    ids=["science fiction", "romance", "family"],
)
def test_it_is_not_about_which_films_one_happens_to_rate(
    machines: Machines, up: Callable[[Film], bool], down: Callable[[Film], bool]
) -> None:
    random = np.random.default_rng(0)
    liked = [column for column, film in enumerate(FILMS) if up(film) and not down(film) and film.fame >= 3]
    disliked = [column for column, film in enumerate(FILMS) if down(film) and not up(film) and film.fame >= 3]
    hits = []
    for _ in range(100):
        columns = [*random.choice(liked, 3, replace=False), *random.choice(disliked, 2, replace=False)]
        hits.append(count(best(machines, RatingRows.single(columns, [5, 5, 5, 1, 1], len(FILMS))), up))
    assert np.mean(hits) >= 8
    assert np.mean(np.array(hits) >= 6) >= 0.9


@pytest.mark.parametrize(
    ("user_id", "kind"),
    [
        ("demo-ada", is_science_fiction),
        ("demo-luis", is_romance),
        ("demo-mina", is_family),
        ("demo-noor", lambda film: bool({"Crime", "Film-Noir", "Mystery", "Thriller"} & set(film.genres))),
        ("demo-otto", lambda film: bool({"Western", "War"} & set(film.genres))),
    ],
)
def test_every_persona_is_understood(machines: Machines, user_id: str, kind: Callable[[Film], bool]) -> None:
    persona = next(persona for persona in PERSONAS if persona.user_id == user_id)
    listed = best(machines, row(dict(persona.stars)))
    assert count(listed, kind) >= 6, listed
