"""What makes a good judge: variants of the machine behind like_probability, measured side by side.

    python -m benchmarks.judge_experiments u.data [--seeds 2] [--first 42] [--only NAME ...]

Every variant is fitted on the stratified split of each seed and measured on the test ratings (AUC for stars
>= 3 and >= 4; Brier and ECE at 3), then fitted without an eighth of the users and measured on all but three
of each one's ratings. Figures are means over the seeds; seconds are those of the processor, for one fit with
its calibration. docs/experiments-judge.md tells what came out.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from app.learning import judge as judging
from app.learning import metrics, splitting
from app.learning.baselines import BiasedFactorisation, LikeBiases
from app.learning.contrastive_divergence import Gradient
from app.learning.judge import Judge, JudgeSettings
from app.learning.like_probability import LengthCalibration, PlattScaling
from app.learning.ordinal_biases import Single, folded_in
from app.learning.preferences import RatingRows
from app.learning.rbm import bernoulli, sigmoid
from benchmarks.negative_sample import read

LIKED_AT_LEAST = 3.0
GIVEN = 3  # ratings of a new user
LEAST_RATINGS = 25  # of a new user, as in the new-users protocol

Judging = Callable[[RatingRows, RatingRows], Single]
"""(given, asked) -> like_probability of the asked ratings."""
Variant = Callable[[RatingRows, np.random.Generator], Judging]
"""(ratings, rng) -> what judges."""


def machine(
    calibration: str = "length",
    copies: int = 1,
    learning: Callable[[np.random.Generator], judging.GradientOf] | None = None,
    conditions: bool = True,
    level: float | None = None,
    **settings: Any,
) -> Variant:
    """The shipped machine with something changed.

    Args:
        calibration: length, platt (one for all lengths) or none.
        copies: number of machines whose log-odds are averaged.
        learning: another way of learning.
        conditions: whether what was rated conditions the hidden units.
        level: the only level that the machine sees; None for all levels of stars.
        settings: fields of `JudgeSettings`, a number or a function of the default.
    """

    def seen_as(rows: RatingRows) -> RatingRows:
        if level is None:
            return rows
        reached = (rows.stars >= np.float32(level)).astype(np.float32)
        return RatingRows(rows.indptr, rows.indices, reached, rows.n_movies)

    liked_at_least = LIKED_AT_LEAST if level is None else 1.0

    def fit(rows: RatingRows, chosen: JudgeSettings, rng: np.random.Generator) -> list[Judge]:
        found = []
        for _ in range(copies):
            judge = judging.untrained(rows, liked_at_least, chosen, rng)
            if not conditions:
                judge.rbm.weights[judge.n_movies :] = 0
            for _ in judging.fit(judge, rows, chosen, rng, None if learning is None else learning(rng)):
                if not conditions:
                    judge.rbm.weights[judge.n_movies :] = 0
            found.append(judge)
        return found

    def log_odds(judges: list[Judge], given: RatingRows, asked: RatingRows) -> Single:
        mean: Single = np.mean([judge.log_odds_of(given, asked) for judge in judges], axis=0)
        return mean

    def variant(rows: RatingRows, rng: np.random.Generator) -> Judging:
        rows = seen_as(rows)
        default = JudgeSettings.by_shape(rows.n_users, rows.n_movies, rows.n_ratings)
        changes = {
            name: value(getattr(default, name)) if callable(value) else value
            for name, value in settings.items()
        }
        chosen = dataclasses.replace(default, **changes)
        scaling: PlattScaling | LengthCalibration = PlattScaling()
        if calibration != "none":
            held_back = rng.random(rows.n_ratings) < judging.HELD_BACK_SHARE
            seen, unseen = rows.where(~held_back), rows.where(held_back)
            partly = fit(seen, chosen, rng)
            if calibration == "platt":
                x = log_odds(partly, seen, unseen).astype(np.float64)
                scaling = PlattScaling.fit(x, unseen.stars >= np.float32(liked_at_least))
            else:
                # The calibration of one of several is a calibration of them all, or near it.
                scaling, _ = judging.calibrated(partly[0], seen, unseen, liked_at_least, rng)
        judges = fit(rows, chosen, rng)

        def judge(given: RatingRows, asked: RatingRows) -> Single:
            x = log_odds(judges, seen_as(given), seen_as(asked))
            if isinstance(scaling, PlattScaling):
                return scaling.probability(x.astype(np.float64))
            return scaling.probability(x[:, None], given.lengths[asked.users])[:, 0]

        return judge

    return variant


def contrastive_divergence(rng: np.random.Generator) -> judging.GradientOf:
    """CD-1 of the same machine: what hidden units and residuals have in common, minus what they imagine."""

    def gradient(judge: Judge, rows: RatingRows) -> Gradient:
        rbm, levels, n = judge.rbm, judge.levels, np.float32(rows.n_users)
        user_bias, left = folded_in(levels, judge.movie_bias, rows)
        units, scale = judging.visible_units(rows, left), judge.scale(rows)
        users, movies = rows.users, rows.indices
        base = user_bias.astype(np.float32)[users] + judge.movie_bias[movies]
        hidden = rbm.hidden_probability(units, scale)
        state = bernoulli(hidden, rng) - np.float32(judging.AT_REST)
        location = base + np.einsum("nj,nj->n", state[users], rbm.weights[movies])
        imagined, expected = np.zeros_like(left), np.zeros_like(left)
        for log_odds, weight in zip(levels.log_odds.astype(np.float32), levels.weight, strict=True):
            imagined += np.float32(weight) * bernoulli(sigmoid(location + log_odds), rng)
            expected += np.float32(weight) * sigmoid(base + log_odds)
        dreamt = judging.visible_units(rows, imagined - expected)
        again = rbm.hidden_probability(dreamt, scale)
        change = (left - (imagined - expected)) / n
        both = sp.csc_array(sp.vstack([units, dreamt]).T)
        return Gradient(
            both @ (np.concatenate((hidden - judging.AT_REST, judging.AT_REST - again)) / n),
            np.bincount(movies, change, rbm.n_visible).astype(np.float32),
            (hidden - again).sum(axis=0) / n,
        )

    return gradient


def baseline(kind: type[LikeBiases] | type[BiasedFactorisation]) -> Variant:
    """What a machine has to beat."""

    def variant(rows: RatingRows, rng: np.random.Generator) -> Judging:
        fitted = kind(rows, liked_at_least=LIKED_AT_LEAST, rng=rng)
        return lambda given, asked: fitted.like_probability(given)[asked.users, asked.indices]

    return variant


VARIANTS: dict[str, Variant] = {
    "biases, logistic": baseline(LikeBiases),
    "biased matrix factorisation": baseline(BiasedFactorisation),
    "as shipped": machine(),
    "not calibrated": machine("none"),
    "one Platt scaling for all lengths": machine("platt"),
    "contrastive divergence (CD-1)": machine(learning=contrastive_divergence),
    "CD-1, four times the epochs": machine(
        learning=contrastive_divergence, epochs=lambda n: 4 * n, weight_decay=0.005
    ),
    "level 3 alone": machine(level=3.0),
    "level 4 alone": machine(level=4.0, calibration="none"),
    "all levels weigh alike": machine(emphasis=1.0),
    "two levels weigh double": machine(emphasis=2.0),
    "what was rated is no condition": machine(conditions=False),
    "no short rows in training": machine(short_rows=0.0),
    "short rows only": machine(short_rows=1.0),
    "50 hidden units": machine(hidden_units=50),
    "300 hidden units": machine(hidden_units=300),
    "half the epochs": machine(epochs=lambda n: n // 2),
    "double the epochs": machine(epochs=lambda n: 2 * n),
    "half the decay": machine(weight_decay=lambda rate: rate / 2),
    "double the decay": machine(weight_decay=lambda rate: rate * 2),
    "two machines averaged": machine(copies=2),
    "four machines averaged": machine(copies=4),
}


@dataclass(frozen=True)
class Figures:
    """Of one variant, means over the seeds."""

    auc: float
    auc_at_4: float
    brier: float
    calibration_error: float
    auc_new: float
    brier_new: float
    calibration_error_new: float
    seconds: float


def measured(variant: Variant, rows: RatingRows, seeds: Sequence[int]) -> Figures:
    """Both protocols, seed by seed."""
    found = []
    for seed in seeds:
        training, test = splitting.stratified(rows, np.random.default_rng(seed))
        started = time.process_time()
        judge = variant(training, np.random.default_rng([seed, 2]))
        seconds = time.process_time() - started
        probability, liked = judge(training, test), test.stars >= LIKED_AT_LEAST
        rng = np.random.default_rng(seed)
        training, held_out = splitting.new_users(rows, rng)
        held_out = held_out.rows(np.flatnonzero(held_out.lengths >= LEAST_RATINGS))
        told, asked = splitting.given(held_out, np.random.default_rng([seed, 1]), GIVEN)
        new = variant(training, np.random.default_rng([seed, 2]))(told, asked)
        liked_by_new = asked.stars >= LIKED_AT_LEAST
        found.append(
            [
                metrics.auc(liked, probability),
                metrics.auc(test.stars >= LIKED_AT_LEAST + 1, probability),
                metrics.brier(liked, probability),
                metrics.expected_calibration_error(liked, probability),
                metrics.auc(liked_by_new, new),
                metrics.brier(liked_by_new, new),
                metrics.expected_calibration_error(liked_by_new, new),
                seconds,
            ]
        )
    return Figures(*np.mean(found, axis=0).tolist())


def lines(path: Path, seeds: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    """The rows of a Markdown table, as they come."""
    rows = read(path)
    yield "| | AUC >= 3 | AUC >= 4 | Brier | ECE | new: AUC >= 3 | new: Brier | new: ECE | s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in names:
        of = measured(VARIANTS[name], rows, seeds)
        cells = [f"{value:.4f}".removeprefix("0") for value in dataclasses.astuple(of)[:-1]]
        yield f"| {name} | {' | '.join(cells)} | {of.seconds:.1f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=42, help="the first seed; others follow")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    given = parser.parse_args(arguments)
    for line in lines(given.file, range(given.first, given.first + given.seeds), given.only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
