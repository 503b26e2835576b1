"""Lists under other training settings, on splits that no published figure comes from.

    python -m benchmarks.ranking u.data --vary weighted_units=32,64
        --fix like_strength=0 --seeds 3

The first row of the table has the defaults and what is fixed, each further row one
other value. Figures are nDCG@10 any / relevant, means over the seeds (of the splits):
stratified, and for new users by number of ratings folded in. Rows of baselines come
with `harmonium evaluate`.

Other shapes than that of the file show whether the defaults carry over: `half-users`,
`few-users` (an eighth), `active` (users with 100 ratings), `popular` (the third of the
movies with the most ratings) and `thin` (a third of each user's ratings).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.evaluation.protocols import ProtocolName, trial
from app.evaluation.rating_file import RatingData
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation.quality import ranking_quality
from app.learning.rating_matrix import RatingRows
from app.learning.vocabulary import Vocabulary
from benchmarks.ratings import RELEVANT_AT_LEAST, read, trained
from benchmarks.report import markdown, parser, say, seeds_of, write_json

SHAPES = ("all", "half-users", "few-users", "active", "popular", "thin")
ACTIVE_RATINGS = 100


def shaped(rows: RatingRows, shape: str) -> RatingRows:
    """The part of the ratings that has this shape."""
    rng = np.random.default_rng(0)
    if shape == "active":
        return rows.rows(np.flatnonzero(rows.lengths >= ACTIVE_RATINGS))
    if shape in ("half-users", "few-users"):
        n = rows.n_users // (2 if shape == "half-users" else 8)
        return rows.rows(np.sort(rng.permutation(rows.n_users)[:n]))
    if shape == "popular":
        kept = np.sort(np.argsort(-rows.ratings_per_movie(), kind="stable")[: rows.n_movies // 3])
        rows = rows.where(np.isin(rows.indices, kept))
        columns = np.searchsorted(kept, rows.indices).astype(np.int32)
        return RatingRows(rows.indptr, columns, rows.stars, kept.size)
    return rows.where(rng.random(rows.n_ratings) < 1 / 3) if shape == "thin" else rows


def measured(
    data: RatingData, protocol: ProtocolName, configuration: TrainingConfiguration, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """nDCG@10 any and relevant of each task, means over the seeds."""
    figures: dict[str, list[list[float]]] = {}
    for seed in seeds:
        split = trial(data, protocol, seed)
        model = trained(split.training, configuration)
        for task in split.tasks:
            qualities = [
                ranking_quality(model.scores, task.profiles, task.test, relevant_at_least=least)
                for least in (None, RELEVANT_AT_LEAST)
            ]
            figures.setdefault(task.title or protocol, []).append(
                [each.means()["ndcg"] for each in qualities]
            )
    return {title: np.mean(values, axis=0).tolist() for title, values in figures.items()}


def variants(vary: Sequence[str], fix: Sequence[str]) -> dict[str, TrainingConfiguration]:
    """The configurations of NAME=VALUE,VALUE and NAME=VALUE, by row label."""
    fixed = dict(_setting(*text.split("=", 1)) for text in fix)
    result = {"as fixed" if fixed else "defaults": TrainingConfiguration.from_dict(fixed)}
    for text in vary:
        name, values = text.split("=", 1)
        for value in values.split(","):
            result[f"{name} = {value}"] = TrainingConfiguration.from_dict(
                fixed | dict([_setting(name, value)])
            )
    return result


def _setting(name: str, text: str) -> tuple[str, Any]:
    try:
        return name, json.loads(f"0{text}" if text.startswith(".") else text)
    except json.JSONDecodeError:
        return name, text


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__, ratings=True, seeds=3)
    options_of.set_defaults(first_seed=42)
    options_of.add_argument("--vary", action="append", default=[], metavar="NAME=VALUE,…")
    options_of.add_argument("--fix", action="append", default=[], metavar="NAME=VALUE")
    options_of.add_argument("--protocol", choices=("stratified", "new-users"), action="append")
    options_of.add_argument("--shape", choices=SHAPES, default="all")
    options = options_of.parse_args(arguments)
    rows = shaped(read(options.ratings), options.shape)
    vocabulary = Vocabulary([str(column) for column in range(rows.n_movies)])
    data = RatingData(rows, vocabulary, np.zeros(rows.n_ratings, np.int64))
    table: dict[str, dict[str, list[float]]] = {}
    for label, configuration in variants(options.vary, options.fix).items():
        say(label)
        for protocol in options.protocol or ("stratified", "new-users"):
            figures = measured(data, protocol, configuration, seeds_of(options))
            table.setdefault(label, {}).update(figures)
    columns = list(next(iter(table.values())))
    lines = [
        [label, *(f"{figures[column][0]:.4f} / {figures[column][1]:.4f}" for column in columns)]
        for label, figures in table.items()
    ]
    print(markdown(f"nDCG@10 any / relevant, {options.shape}, {options.seeds} seeds", ["", *columns], lines))
    write_json(table, options.json)


if __name__ == "__main__":
    main()
