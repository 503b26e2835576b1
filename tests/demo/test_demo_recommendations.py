"""A model trained on the demo tells tastes apart after a handful of ratings.

It tests the data as much as the learner: should a change of either blur the tastes, a
newcomer's first list would be the first to show it.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from app.demo.catalogue import Film, films
from app.demo.raters import PERSONAS, ratings
from app.learning.configuration import TrainingConfiguration
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
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
def model() -> TrainedModel:
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


def best(model: TrainedModel, rated: RatingRows, limit: int = 10) -> list[Film]:
    scores: NDArray[np.float32] = model.scores(rated)[0]
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


def test_three_science_fiction_films_up_and_two_romances_down_give_science_fiction(
    model: TrainedModel,
) -> None:
    listed = best(model, row(SCIENCE_FICTION_FAN))
    assert count(listed, is_science_fiction) >= 7, listed
    assert not [film for film in listed if is_romance(film) and not is_science_fiction(film)]


def test_a_single_rating_already_says_something(model: TrainedModel) -> None:
    assert count(best(model, row({("Blade Runner", 1982): 5.0})), is_science_fiction) >= 6


def test_without_ratings_no_taste_rules_the_list(model: TrainedModel) -> None:
    popular = np.argsort(-model.popularity_scores)[:10]
    for kind in (is_science_fiction, is_romance, is_family):
        assert count((FILMS[column] for column in popular), kind) <= 7


@pytest.mark.parametrize(
    ("up", "down"),
    [(is_science_fiction, is_romance), (is_romance, is_science_fiction), (is_family, is_horror)],
    ids=["science fiction", "romance", "family"],
)
def test_it_is_not_about_which_films_one_happens_to_rate(
    model: TrainedModel, up: Callable[[Film], bool], down: Callable[[Film], bool]
) -> None:
    random = np.random.default_rng(0)
    liked = [column for column, film in enumerate(FILMS) if up(film) and not down(film) and film.fame >= 3]
    disliked = [column for column, film in enumerate(FILMS) if down(film) and not up(film) and film.fame >= 3]
    hits = []
    for _ in range(100):
        columns = [*random.choice(liked, 3, replace=False), *random.choice(disliked, 2, replace=False)]
        hits.append(count(best(model, RatingRows.single(columns, [5, 5, 5, 1, 1], len(FILMS))), up))
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
def test_every_persona_is_understood(model: TrainedModel, user_id: str, kind: Callable[[Film], bool]) -> None:
    persona = next(persona for persona in PERSONAS if persona.user_id == user_id)
    listed = best(model, row(dict(persona.stars)))
    assert count(listed, kind) >= 6, listed
