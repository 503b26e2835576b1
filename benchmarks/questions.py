"""What asking is worth: held-out users answer five questions, and their lists are compared.

    python -m benchmarks.questions u.data [--seeds 5] [--asked 5] [--json OUT]

An eighth of the users never train. Half of the ratings of each is what they can answer, the other half is
what their lists are looked for in, whoever asks. A movie among the answerable ones is answered with their
stars; any other is "not seen", and the next question comes. Those who ask:

- questions: `learning.questions`, one at a time, each after the answers before it;
- popular: the most popular movies in their order;
- random popular: movies drawn from the hundred most popular.

Each asks five movies, and, in a second table, as many as it takes to get five answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from app.learning import splitting
from app.learning.configuration import TrainingConfiguration
from app.learning.crowd import Crowd
from app.learning.evaluation import ranking_quality
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.questions import questions
from benchmarks.negative_sample import read, trained

LEAST_RATINGS = 40  # of a held-out user: twenty can be answered, twenty are looked for
RELEVANT_AT_LEAST = 4.0
POPULAR = 100  # movies that random questions are drawn from
PATIENCE = 100  # questions after which nobody goes on to five answers

Asker = Callable[[RatingRows, NDArray[np.bool_], np.random.Generator], int]


@dataclass(frozen=True, eq=False)
class Interview:
    """What came of one user's questions."""

    told: RatingRows
    n_asked: int


def askers(machines: Machines) -> dict[str, Asker]:
    """Who asks, by name: what is told so far and what has not been asked -> the column asked next."""
    crowd = Crowd.of(machines)
    by_popularity = np.argsort(-machines.popularity, kind="stable")

    def most_telling(told: RatingRows, open_: NDArray[np.bool_], _: np.random.Generator) -> int:
        return questions(machines, crowd, told, limit=1, allowed=open_)[0].column

    def most_popular(_: RatingRows, open_: NDArray[np.bool_], __: np.random.Generator) -> int:
        return int(by_popularity[open_[by_popularity]][0])

    def any_popular(_: RatingRows, open_: NDArray[np.bool_], rng: np.random.Generator) -> int:
        popular = by_popularity[:POPULAR]
        return int(rng.choice(popular[open_[popular]]))

    return {"questions": most_telling, "popular": most_popular, "random popular": any_popular}


def interview(
    ask: Asker, answers: RatingRows, rng: np.random.Generator, *, asked: int, answered: int
) -> Interview:
    """Ask until so many movies are asked, or so many answered."""
    stars = dict(zip(answers.indices.tolist(), answers.stars.tolist(), strict=True))
    told: dict[int, float] = {}
    open_ = np.ones(answers.n_movies, np.bool_)
    n_asked = 0
    while n_asked < asked and len(told) < min(answered, len(stars)):
        row = RatingRows.single(list(told), list(told.values()), answers.n_movies)
        column = ask(row, open_, rng)
        open_[column] = False
        n_asked += 1
        if column in stars:
            told[column] = stars[column]
    return Interview(RatingRows.single(list(told), list(told.values()), answers.n_movies), n_asked)


def stacked(rows: Sequence[RatingRows]) -> RatingRows:
    """Rows of several users as one."""
    lengths = [row.n_ratings for row in rows]
    return RatingRows(
        np.concatenate(([0], np.cumsum(lengths))),
        np.concatenate([row.indices for row in rows]),
        np.concatenate([row.stars for row in rows]),
        rows[0].n_movies,
    )


def measured(
    rows: RatingRows, seed: int, n: int, machines: Machines | None = None
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """For each count and each asker: mean nDCG@10 any and relevant, answers and questions of a user."""
    training, held_out = splitting.new_users(rows, np.random.default_rng(seed))
    machines = machines or trained(training, TrainingConfiguration(seed=seed))
    held_out = held_out.rows(np.flatnonzero(held_out.lengths >= LEAST_RATINGS))
    answerable, test = splitting.given(held_out, np.random.default_rng([seed, 1]), None)
    for count, limits in (
        (f"{n} asked", {"asked": n, "answered": n}),
        (f"{n} answered", {"asked": PATIENCE, "answered": n}),
    ):
        for name, ask in askers(machines).items():
            rng = np.random.default_rng([seed, 2])
            interviews = [
                interview(ask, answerable.rows([user]), rng, **limits) for user in range(test.n_users)
            ]
            told = stacked([one.told for one in interviews])
            yield (
                count,
                name,
                {
                    "any": ranking_quality(machines.blended_scores, told, test).means()["ndcg"],
                    "relevant": ranking_quality(
                        machines.blended_scores, told, test, relevant_at_least=RELEVANT_AT_LEAST
                    ).means()["ndcg"],
                    "answers": float(told.lengths.mean()),
                    "asked": float(np.mean([one.n_asked for one in interviews])),
                },
            )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and half the width of its 95 % interval, by Student's t."""
    n = len(values)
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("inf")
    return float(np.mean(values)), half


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--asked", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    rows = read(given.file)
    figures: dict[str, dict[str, dict[str, list[float]]]] = {}
    for seed in range(given.seeds):
        for count, name, found in measured(rows, seed, given.asked):
            for figure, value in found.items():
                figures.setdefault(count, {}).setdefault(name, {}).setdefault(figure, []).append(value)
    for count, by_name in figures.items():
        print(f"\n{count}: nDCG@10 any, relevant; answers of a user, questions asked")
        for name, by_figure in by_name.items():
            (any_, half), (relevant, half_relevant) = (
                interval(by_figure["any"]),
                interval(by_figure["relevant"]),
            )
            print(
                f"{name:16} {any_:.3f} ± {half:.3f}  {relevant:.3f} ± {half_relevant:.3f}  "
                f"{np.mean(by_figure['answers']):5.2f} {np.mean(by_figure['asked']):6.2f}"
            )
        ours = by_name["questions"]
        for name in ("popular", "random popular"):
            pairs = [
                interval(np.subtract(ours[kind], by_name[name][kind]).tolist())
                for kind in ("any", "relevant")
            ]
            print(
                f"  questions beside {name}: "
                + ", ".join(f"{mean:+.3f} ± {half:.3f}" for mean, half in pairs)
            )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
