"""Lists after five questions: held-out users answer them, and their lists are compared.

    python -m benchmarks.questions u.data [--seeds 5] [--asked 5] [--json FILE]

An eighth of the users never train. Half of the ratings of each is what they can answer,
the other half is what their lists are compared with. A movie among the answerable ones
is answered with their stars; any other is "not seen", and the next question comes.
Questions come from

- questions: `learning.inference.questions`, one at a time, each after the answers
  before it;
- popular: the most popular movies in their order;
- random popular: movies drawn from the hundred most popular.

One table is for five questions, a second one for as many as it takes to get five
answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.evaluation.scoreboard import over_seeds
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import splitting
from app.learning.evaluation.metrics import Interval
from app.learning.evaluation.quality import ranking_quality
from app.learning.inference.popularity_prior import PopularityPrior
from app.learning.inference.questions import questions
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from benchmarks.ratings import RELEVANT_AT_LEAST, read, trained
from benchmarks.report import markdown, parser, seeds_of, write_json

LEAST_RATINGS = 40  # of a held-out user: twenty can be answered, twenty test
POPULAR = 100  # movies that random questions are drawn from
PATIENCE = 100  # questions after which no user goes on to five answers

Asker = Callable[[RatingRows, NDArray[np.bool_], np.random.Generator], int]
"""(answers so far, movies open to ask, rng) -> the column to ask next."""
Figures = dict[str, dict[str, dict[str, list[float]]]]
"""Table -> asker -> figure -> a value a seed."""


@dataclass(frozen=True, eq=False)
class Interview:
    """The answers of one user, and the number of questions."""

    answers: RatingRows
    n_questions: int


def askers(model: TrainedModel) -> dict[str, Asker]:
    """The three ways of asking, by name."""
    popularity_prior = PopularityPrior.of(model)
    by_popularity = np.argsort(-model.popularity, kind="stable")

    def most_informative(answers: RatingRows, open_: NDArray[np.bool_], _: np.random.Generator) -> int:
        return questions(model, popularity_prior, answers, limit=1, allowed=open_)[0].column

    def most_popular(_: RatingRows, open_: NDArray[np.bool_], __: np.random.Generator) -> int:
        return int(by_popularity[open_[by_popularity]][0])

    def any_popular(_: RatingRows, open_: NDArray[np.bool_], rng: np.random.Generator) -> int:
        popular = by_popularity[:POPULAR]
        return int(rng.choice(popular[open_[popular]]))

    return {"questions": most_informative, "popular": most_popular, "random popular": any_popular}


def interview(
    ask: Asker, answerable: RatingRows, rng: np.random.Generator, *, most_questions: int, most_answers: int
) -> Interview:
    """Ask until so many questions, or so many answers."""
    stars = dict(zip(answerable.indices.tolist(), answerable.stars.tolist(), strict=True))
    answers: dict[int, float] = {}
    open_ = np.ones(answerable.n_movies, np.bool_)
    n_questions = 0
    while n_questions < most_questions and len(answers) < min(most_answers, len(stars)):
        row = RatingRows.single(list(answers), list(answers.values()), answerable.n_movies)
        column = ask(row, open_, rng)
        open_[column] = False
        n_questions += 1
        if column in stars:
            answers[column] = stars[column]
    return Interview(
        RatingRows.single(list(answers), list(answers.values()), answerable.n_movies), n_questions
    )


def stacked(rows: Sequence[RatingRows]) -> RatingRows:
    """Rows of several users as one block."""
    lengths = [row.n_ratings for row in rows]
    return RatingRows(
        np.concatenate(([0], np.cumsum(lengths))),
        np.concatenate([row.indices for row in rows]),
        np.concatenate([row.stars for row in rows]),
        rows[0].n_movies,
    )


def measured(rows: RatingRows, seed: int, n: int) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Table, asker and figures: mean nDCG@10, answers and questions of a user."""
    training, held_out = splitting.new_users(rows, np.random.default_rng(seed))
    model = trained(training, TrainingConfiguration(seed=seed))
    held_out = held_out.rows(np.flatnonzero(held_out.lengths >= LEAST_RATINGS))
    answerable, test = splitting.profiles(held_out, np.random.default_rng([seed, 1]), None)
    for table, limits in (
        (f"{n} asked", {"most_questions": n, "most_answers": n}),
        (f"{n} answered", {"most_questions": PATIENCE, "most_answers": n}),
    ):
        for name, ask in askers(model).items():
            rng = np.random.default_rng([seed, 2])
            interviews = [
                interview(ask, answerable.rows([user]), rng, **limits) for user in range(test.n_users)
            ]
            answers = stacked([done.answers for done in interviews])
            ndcg = [
                ranking_quality(model.scores, answers, test, relevant_at_least=least).means()["ndcg"]
                for least in (None, RELEVANT_AT_LEAST)
            ]
            n_questions = float(np.mean([done.n_questions for done in interviews]))
            n_answers = float(answers.lengths.mean())
            yield (
                table,
                name,
                {"any": ndcg[0], "relevant": ndcg[1], "answers": n_answers, "asked": n_questions},
            )


def table_of(title: str, by_asker: Mapping[str, Mapping[str, list[float]]]) -> str:
    """The figures of each asker, and in pairs the lead of `questions`."""
    lines = [
        [
            name,
            *(_words(over_seeds(figures[kind])) for kind in ("any", "relevant")),
            *(f"{np.mean(figures[count]):.2f}" for count in ("answers", "asked")),
        ]
        for name, figures in by_asker.items()
    ]
    for name in ("popular", "random popular"):
        pairs = [
            over_seeds(np.subtract(by_asker["questions"][kind], by_asker[name][kind]).tolist())
            for kind in ("any", "relevant")
        ]
        lines.append([f"questions less {name}", *(_words(pair) for pair in pairs), "", ""])
    return markdown(title, ["", "nDCG@10 any", "relevant", "answers of a user", "asked"], lines)


def _words(interval: Interval) -> str:
    return f"{interval.mean:.3f} ± {interval.high - interval.mean:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__, ratings=True, seeds=5)
    options_of.add_argument("--asked", type=int, default=5)
    options = options_of.parse_args(arguments)
    rows = read(options.ratings)
    figures: Figures = {}
    for seed in seeds_of(options):
        for table, name, values in measured(rows, seed, options.asked):
            by_figure = figures.setdefault(table, {}).setdefault(name, {})
            for figure, value in values.items():
                by_figure.setdefault(figure, []).append(value)
    for table, by_asker in figures.items():
        print(table_of(table, by_asker))
    write_json(figures, options.json)


if __name__ == "__main__":
    main()
