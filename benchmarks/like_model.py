"""like_probability under other settings of the like model, beside two baselines.

    python -m benchmarks.like_model u.data --seeds 1 [--only NAME ...]

Every variant is fitted on the stratified split of each seed and measured on the test
ratings (AUC for stars >= 3 and >= 4; Brier and ECE at 3), then fitted without an eighth
of the users and measured on all but three ratings of each of them. Figures are means
over the seeds; seconds are those of the processor, for one fit with its calibration.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.evaluation import metrics, splitting
from app.learning.evaluation.baselines import BiasedFactorisation, LikeBiases
from app.learning.likes import ordinal_rbm
from app.learning.likes.calibration import LengthCalibration
from app.learning.likes.ordinal_rbm import OrdinalRBMSettings
from app.learning.rating_matrix import RatingRows
from benchmarks.ratings import read
from benchmarks.report import figure_table, parser, say, seeds_of, write_json

LIKED_AT_LEAST = 3.0
PROFILE = 3  # ratings of a new user
LEAST_RATINGS = 25  # of a new user, as in the new-users protocol

Predict = Callable[[RatingRows, RatingRows], NDArray[np.float32]]
"""(profiles, test) -> like_probability of the test ratings."""
Variant = Callable[[RatingRows, np.random.Generator], Predict]
"""(training ratings, rng) -> a fitted like model."""


def ordinal(*, calibrate: bool = True, **settings: Any) -> Variant:
    """The shipped like model with other settings, values or functions of defaults."""

    def variant(rows: RatingRows, rng: np.random.Generator) -> Predict:
        default = OrdinalRBMSettings.by_shape(rows.n_users, rows.n_movies, rows.n_ratings)
        changes = {
            name: value(getattr(default, name)) if callable(value) else value
            for name, value in settings.items()
        }
        chosen = dataclasses.replace(default, **changes)

        def fit(part: RatingRows) -> ordinal_rbm.OrdinalRBM:
            model = ordinal_rbm.untrained(part, LIKED_AT_LEAST, chosen, rng)
            for _ in ordinal_rbm.fit(model, part, chosen, rng):
                pass
            return model

        calibration = LengthCalibration()
        if calibrate:
            held_back = rng.random(rows.n_ratings) < ordinal_rbm.HELD_BACK_SHARE
            seen, unseen = rows.where(~held_back), rows.where(held_back)
            calibration, _ = ordinal_rbm.calibrated(fit(seen), seen, unseen, LIKED_AT_LEAST, rng)
        model = fit(rows)

        def predict(profiles: RatingRows, test: RatingRows) -> NDArray[np.float32]:
            log_odds = model.log_odds_of(profiles, test)
            return calibration.probability(log_odds[:, None], profiles.lengths[test.users])[:, 0]

        return predict

    return variant


def baseline(kind: type[LikeBiases] | type[BiasedFactorisation]) -> Variant:
    """A baseline as a variant."""

    def variant(rows: RatingRows, rng: np.random.Generator) -> Predict:
        fitted = kind(rows, liked_at_least=LIKED_AT_LEAST, rng=rng)
        return lambda profiles, test: fitted.like_probability(profiles)[test.users, test.indices]

    return variant


VARIANTS: dict[str, Variant] = {
    "as shipped": ordinal(),
    "not calibrated": ordinal(calibrate=False),
    "biases, logistic": baseline(LikeBiases),
    "biased matrix factorisation": baseline(BiasedFactorisation),
    "all levels weigh alike": ordinal(emphasis=1.0),
    "no short rows in training": ordinal(short_rows=0.0),
    "50 hidden units": ordinal(hidden_units=50),
    "300 hidden units": ordinal(hidden_units=300),
    "half the epochs": ordinal(epochs=lambda n: n // 2),
    "double the epochs": ordinal(epochs=lambda n: 2 * n),
    "half the decay": ordinal(weight_decay=lambda rate: rate / 2),
    "double the decay": ordinal(weight_decay=lambda rate: rate * 2),
}


def measured(variant: Variant, rows: RatingRows, seed: int) -> dict[str, float]:
    """The figures of both protocols."""
    training, test = splitting.stratified(rows, np.random.default_rng(seed))
    started = time.process_time()
    predict = variant(training, np.random.default_rng([seed, 2]))
    seconds = time.process_time() - started
    probability, liked = predict(training, test), test.stars >= LIKED_AT_LEAST
    training, held_out = splitting.new_users(rows, np.random.default_rng(seed))
    held_out = held_out.rows(np.flatnonzero(held_out.lengths >= LEAST_RATINGS))
    profiles, new_test = splitting.profiles(held_out, np.random.default_rng([seed, 1]), PROFILE)
    new = variant(training, np.random.default_rng([seed, 2]))(profiles, new_test)
    liked_by_new = new_test.stars >= LIKED_AT_LEAST
    return {
        "AUC >= 3": metrics.auc(liked, probability),
        "AUC >= 4": metrics.auc(test.stars >= LIKED_AT_LEAST + 1, probability),
        "Brier": metrics.brier(liked, probability),
        "ECE": metrics.expected_calibration_error(liked, probability),
        "new: AUC >= 3": metrics.auc(liked_by_new, new),
        "new: Brier": metrics.brier(liked_by_new, new),
        "new: ECE": metrics.expected_calibration_error(liked_by_new, new),
        "s": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__, ratings=True, seeds=2)
    options_of.set_defaults(first_seed=42)
    options_of.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    options = options_of.parse_args(arguments)
    rows, table = read(options.ratings), {}
    for name in options.only:
        say(name)
        by_seed = [measured(VARIANTS[name], rows, seed) for seed in seeds_of(options)]
        table[name] = {column: float(np.mean([row[column] for row in by_seed])) for column in by_seed[0]}
    print(figure_table("like_probability", table))
    write_json(table, options.json)


if __name__ == "__main__":
    main()
