"""Try other settings of the machine that ranks, on splits that no published figure comes from.

    python -m benchmarks.ranking_experiments u.data [--vary NAME=VALUE,VALUE ...] [--fix NAME=VALUE ...]
        [--splits 42 43 44] [--new-users 7] [--shape all]

NAME is a training setting, or a constant of a module of `app.learning` such as linear_units.RIDGE. The first
line has the defaults and what is fixed, each further line one other value. Printed is nDCG@10 any / relevant,
stratified (mean over splits) and for new users with 1, 3, 5, 10, 20 and half of their ratings. A machine is
trained once for all variants that differ in folding in only.

Shapes other than that of the file, to see whether the defaults carry over: `half-users`, `few-users` (an
eighth), `popular` (the third of the movies that most rated), `thin` (a third of each user's ratings) and
`wide` (synthetic: 610 users, 6,000 movies, 80,000 ratings by half stars; the file is not used).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.learning import weighted_units
from app.learning.baselines import EASE, Popularity, Scorer, Sum
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import ranking_quality
from app.learning.grading import Grading
from app.learning.linear_units import LinearUnits
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import Scores
from app.learning.splitting import given, new_users, stratified
from app.learning.synthetic import synthetic_ratings
from app.learning.training import completed, train
from app.learning.vocabulary import Vocabulary
from benchmarks.negative_sample import read

RELEVANT_AT_LEAST = 4.0
GIVEN = (1, 3, 5, 10, 20, None)
LEAST_RATINGS = 25  # of a held-out user
ACTIVE_RATINGS = 100  # of everybody in the shape `active`
AFTER_TRAINING = (
    *("linear_units", "linear_strength", "weighted_units", "weighted_strength", "like_strength"),
    *("grade_slope", "fold_in_length_power", "popularity_ratings"),
)

Settings = dict[str, Any]
Split = tuple[str, RatingRows, list[tuple[RatingRows, RatingRows]]]


def shaped(file: Path, shape: str) -> RatingRows:
    """The ratings of the file, or a part of them of another shape."""
    rng = np.random.default_rng(0)
    if shape == "wide":
        rows = synthetic_ratings(610, 6_000, 80_000)
        half = rng.choice(np.array([-0.5, 0, 0.5]), rows.n_ratings)
        stars = np.clip(rows.stars + half, 0.5, 5).astype(np.float32)
        return RatingRows(rows.indptr, rows.indices, stars, rows.n_movies)
    rows = read(file)
    if shape == "active":
        return rows.rows(np.flatnonzero(rows.lengths >= ACTIVE_RATINGS))
    if shape in ("half-users", "few-users"):
        n = rows.n_users // (2 if shape == "half-users" else 8)
        return rows.rows(np.sort(rng.permutation(rows.n_users)[:n]))
    if shape == "popular":
        kept = np.argsort(-rows.ratings_per_movie(), kind="stable")[: rows.n_movies // 3]
        rows = rows.where(np.isin(rows.indices, kept))
        place = np.searchsorted(np.sort(kept), rows.indices).astype(np.int32)
        return RatingRows(rows.indptr, place, rows.stars, kept.size)
    return rows.where(rng.random(rows.n_ratings) < 1 / 3) if shape == "thin" else rows


def splits_of(
    rows: RatingRows, stratified_seeds: Sequence[int], new_user_seeds: Sequence[int]
) -> list[Split]:
    """Name, training rows, and pairs of what is given and what is looked for."""
    result: list[Split] = []
    for seed in stratified_seeds:
        training, test = stratified(rows, np.random.default_rng(seed))
        result.append(("stratified", training, [(training, test)]))
    for seed in new_user_seeds:
        training, held_out = new_users(rows, np.random.default_rng(seed))
        held_out = held_out.rows(np.flatnonzero(held_out.lengths >= LEAST_RATINGS))
        asked = [given(held_out, np.random.default_rng([seed, 1]), n) for n in GIVEN]
        result.append(("new users", training, asked))
    return result


@contextmanager
def constants(settings: Settings) -> Iterator[Settings]:
    """With the constants among the settings set; the others come back."""
    before, others = [], {}
    for name, value in settings.items():
        module_name, _, constant = name.rpartition(".")
        if not module_name:
            others[name] = value
            continue
        module = importlib.import_module(f"app.learning.{module_name}")
        before.append((module, constant, getattr(module, constant)))
        setattr(module, constant, value)
    try:
        yield others
    finally:
        for module, constant, value in before:
            setattr(module, constant, value)


class Trainer:
    """Trains each machine once, whatever is made of it afterwards."""

    def __init__(self) -> None:
        self._trained: dict[str, Machines] = {}

    def __call__(self, split: int, rows: RatingRows, settings: Settings) -> Machines:
        """Machines with these settings; constants must be set already."""
        while_training = {name: value for name, value in settings.items() if name not in AFTER_TRAINING}
        key = json.dumps([split, while_training], sort_keys=True)
        if key not in self._trained:
            vocabulary = Vocabulary([str(column) for column in range(rows.n_movies)])
            configuration = TrainingConfiguration.from_dict(while_training)
            self._trained[key] = completed(train(rows, vocabulary, configuration))
        machines = self._trained[key]
        defaults = TrainingConfiguration().as_dict()
        afterwards = {name: settings.get(name, defaults[name]) for name in AFTER_TRAINING}
        for name, value in afterwards.items():
            if value is None:
                afterwards[name] = getattr(machines.configuration, name)
        configuration = dataclasses.replace(machines.configuration, **afterwards)
        grading = Grading.of(rows.stars, configuration.grade_slope)
        graded = grading.rows(rows)
        rng = np.random.default_rng(configuration.seed)
        linear = LinearUnits.fit(graded, configuration.linear_units or 0, rng)
        fitting = weighted_units.fitted(graded, configuration.weighted_units or 0, rng, linear.weights)
        while True:
            try:
                next(fitting)
            except StopIteration as end:
                return dataclasses.replace(
                    machines, configuration=configuration, grading=grading, linear=linear, weighted=end.value
                )


def measured(scores: Callable[[RatingRows], Scores], split: Split) -> np.ndarray:
    """nDCG@10 any and relevant of every question, shape (n_questions, 2)."""
    return np.array(
        [
            [
                ranking_quality(scores, told, test, relevant_at_least=least).means()["ndcg"]
                for least in (None, RELEVANT_AT_LEAST)
            ]
            for told, test in split[2]
        ]
    )


def line(name: str, splits: Sequence[Split], figures: Sequence[np.ndarray]) -> None:
    """Print the means over the splits of each protocol."""
    columns = []
    for protocol in ("stratified", "new users"):
        found = [one for split, one in zip(splits, figures, strict=True) if split[0] == protocol]
        if found:
            columns += [f"{any_:.4f}/{relevant:.4f}" for any_, relevant in np.mean(found, axis=0)]
    print(f"{name:40}", "  ".join(columns), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--vary", action="append", default=[])
    parser.add_argument("--fix", action="append", default=[])
    parser.add_argument("--splits", type=int, nargs="*", default=[42, 43, 44])
    parser.add_argument("--new-users", type=int, nargs="*", default=[7])
    shapes = ("all", "half-users", "few-users", "active", "popular", "thin", "wide")
    parser.add_argument("--shape", choices=shapes, default="all")
    parser.add_argument("--no-baselines", action="store_true")
    asked = parser.parse_args(arguments)

    def value_of(text: str) -> Any:
        try:
            return json.loads(f"0{text}" if text.startswith(".") else text)
        except json.JSONDecodeError:
            return text

    fixed = {name: value_of(text) for name, text in (one.split("=", 1) for one in asked.fix)}
    variants: list[Settings] = [{}]
    for one in asked.vary:
        name, texts = one.split("=", 1)
        variants += [{name: value_of(text)} for text in texts.split(",")]

    splits = splits_of(shaped(asked.file, asked.shape), asked.splits, asked.new_users)
    print(" " * 40, "stratified" if asked.splits else "", *GIVEN if asked.new_users else ())
    if not asked.no_baselines:
        fitted: dict[str, Callable[[RatingRows], Scorer]] = {
            "popularity": Popularity,
            "EASE rated": EASE,
            "EASE liked": lambda rows: EASE(rows, liked_at_least=RELEVANT_AT_LEAST),
            "EASE summed": lambda rows: Sum([EASE(rows), EASE(rows, liked_at_least=RELEVANT_AT_LEAST)]),
        }
        for name, fit in fitted.items():
            line(name, splits, [measured(fit(split[1]).scores, split) for split in splits])
    trainer = Trainer()
    for variant in variants:
        figures = []
        with constants(fixed | variant) as settings:
            for number, split in enumerate(splits):
                machines = trainer(number, split[1], settings)
                figures.append(measured(machines.blended_scores, split))
        label = ", ".join(f"{name} = {value}" for name, value in variant.items()) or "as fixed"
        line(label, splits, figures)


if __name__ == "__main__":
    main()
