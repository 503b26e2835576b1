"""Lists of a few users, to look at."""

from dataclasses import dataclass

import numpy as np

from app.catalogue.movies import MovieEntry
from app.evaluation.protocols import Task
from app.evaluation.rating_file import RatingData
from app.evaluation.scoreboard import DEPTHS
from app.learning.evaluation.quality import ranked_lists, relevant_rows
from app.learning.trained_model import TrainedModel

EXAMPLE_TASKS = ("", "with training ratings", "5 ratings")  # titles of the tasks that examples are taken from
PROFILE_RATINGS = 5  # of the profile that are listed


@dataclass(frozen=True)
class Film:
    """A movie in an example.

    Attributes:
        movie_id: its id.
        title, year, genres: empty or None where no file of movies has them.
        stars: the user's; None without a test rating.
        like_probability: None for a movie of the profile.
    """

    movie_id: str
    title: str
    year: int | None
    genres: tuple[str, ...]
    stars: float | None
    like_probability: float | None = None


@dataclass(frozen=True)
class Example:
    """The model's list for one user of the first seed's test.

    Attributes:
        n_given: ratings of the profile.
        given: its movies with the most stars.
        n_test: test ratings.
        n_relevant: those that reach `relevant_at_least`.
        shown: the list, best first.
    """

    n_given: int
    given: list[Film]
    n_test: int
    n_relevant: int
    shown: list[Film]


def example_task(tasks: list[Task]) -> Task:
    """The task that examples are taken from."""
    known = [task for task in tasks if task.title in EXAMPLE_TASKS]
    return min(known, key=lambda task: EXAMPLE_TASKS.index(task.title), default=tasks[0])


def examples(model: TrainedModel, task: Task, data: RatingData, relevant_at_least: float) -> list[Example]:
    """Lists of the users in the middle of each third by length of the profile."""
    by_length = np.argsort(task.profiles.lengths, kind="stable")
    places = dict.fromkeys(len(by_length) * sixth // 6 for sixth in (1, 3, 5))
    return [_example(model, task, data, relevant_at_least, user) for user in by_length[list(places)].tolist()]


def _example(
    model: TrainedModel, task: Task, data: RatingData, relevant_at_least: float, user: int
) -> Example:
    def film(column: int, stars: float | None, probability: float | None = None) -> Film:
        movie_id = data.vocabulary.movie_ids[column]
        entry = data.movies.get(movie_id, MovieEntry(movie_id))
        return Film(movie_id, entry.title or "", entry.year, entry.genres or (), stars, probability)

    profile, test = task.profiles.rows([user]), task.test.rows([user])
    ranked = ranked_lists(model.scores, profile, DEPTHS[0])[0]
    ranked = ranked[ranked >= 0]
    probability = model.like_probability(profile, ranked)[0]
    test_stars = dict(zip(test.indices.tolist(), test.stars.tolist(), strict=True))
    best = np.argsort(-profile.stars, kind="stable")[:PROFILE_RATINGS]
    return Example(
        profile.n_ratings,
        [film(int(profile.indices[place]), float(profile.stars[place])) for place in best],
        test.n_ratings,
        relevant_rows(test, relevant_at_least).n_ratings,
        [
            film(column, test_stars.get(column), likely)
            for column, likely in zip(ranked.tolist(), probability.tolist(), strict=True)
        ],
    )
