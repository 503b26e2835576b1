"""`harmonium evaluate | recommend`: what a machine is worth, and what it says to one user."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from threadpoolctl import threadpool_limits

from app import evaluation, model_registry, recommendations, training_runs
from app.cli.terminal import (
    AsJson,
    open_database,
    out,
    print_json,
    progress,
    read_settings,
    tell,
)
from app.evaluation import Evaluation, ProtocolName, Section
from app.learning.metrics import Interval
from app.model_registry import Serving
from app.recommendations import RecommendationList, Wanted
from app.worker import usable_cores

app = typer.Typer()


@app.command()
def evaluate(
    ratings_file: Annotated[Path, typer.Option("--ratings", help="A file of ratings.")],
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Splits, seeded 0, 1, …")] = 1,
    first_seed: Annotated[int, typer.Option(min=0)] = 0,
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="Test a share of everyone's ratings, the newest ratings, or new users."),
    ] = "stratified",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Split a file of ratings, train, rank the full catalogue, and compare with baselines."""
    settings = read_settings()
    data = evaluation.read_rows(ratings_file, settings)
    configuration = training_runs.configuration_of({}, settings)
    with (
        progress("evaluating") as on_progress,
        threadpool_limits(settings.training_threads or usable_cores(), user_api="blas"),
    ):
        found = evaluation.evaluate(
            data,
            protocol,
            configuration,
            seeds=list(range(first_seed, first_seed + seeds)),
            relevant_at_least=settings.relevant_at_least,
            on_progress=on_progress,
        )
    if json_file is not None:
        json_file.write_text(json.dumps(evaluation.as_json(found), indent=2, allow_nan=False) + "\n")
    for section in found.sections:
        _print_section(found, section)


@app.command()
def recommend(
    user: Annotated[str, typer.Argument(help="A user's id.")],
    limit: Annotated[int, typer.Option(min=1, max=500)] = 10,
    genre: Annotated[str | None, typer.Option()] = None,
    as_json: AsJson = False,
) -> None:
    """Print a user's recommendations by the active version."""
    settings = read_settings()
    with open_database(settings) as database, database.reading() as session:
        pointer = model_registry.active(session)
        serving = None
        if pointer is not None:
            machines = model_registry.load(session, pointer.version)
            serving = Serving(pointer.version, pointer.generation, machines)
        found = recommendations.for_user(session, serving, user, Wanted(limit=limit, genre=genre))
    if as_json:
        print_json(asdict(found))
    else:
        _print_list(found)


def _print_section(found: Evaluation, section: Section) -> None:
    """The figures that say most: nDCG@10 of what ranks, the like_probability of what judges."""
    seeds = f"{len(found.seeds)} seed{'s'[: len(found.seeds) > 1]}"
    asked = f"{section.n_users:,.0f} users, {section.n_test_ratings:,.0f} test ratings, {seeds}"
    shown = Table(
        title=": ".join(part for part in (found.protocol, section.title, asked) if part),
        caption=f"nDCG@10 (relevant: >= {found.relevant_at_least:g}) and like_probability "
        f"(>= {found.liked_at_least:g}), ± half the 95 % interval over {found.interval}",
    )
    names = ("any_ndcg", "relevant_ndcg", "auc", "brier", "calibration_error")
    for column in ("", "any", "relevant", "AUC", "Brier", "ECE"):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in section.rows:
        shown.add_row(row.name, *(_figure(row.figures.get(name)) for name in names))
    out.print(shown)
    for reason in sorted({row.skipped for row in section.rows if row.skipped is not None}):
        tell(f"left out: {reason}")


def _figure(interval: Interval | None) -> str:
    """As .417±.012, so that a row fits into 80 columns; a dash for what is not measured."""
    if interval is None or math.isnan(interval.mean):
        return "-"
    half = interval.high - interval.mean
    words = f"{interval.mean:.3f}" + (f"±{half:.3f}" if math.isfinite(half) else "")
    return re.sub(r"\b0\.", ".", words)


def _print_list(found: RecommendationList) -> None:
    table = Table("", "movie", "title", "year", "score", "P(like)")
    for item in found.items:
        table.add_row(
            str(item.rank),
            item.movie_id,
            item.title,
            str(item.year or ""),
            f"{item.score:.2f}",
            "" if item.like_probability is None else f"{item.like_probability:.2f}",
        )
    out.print(table)
    tell(f"{found.strategy}, model version {found.model_version}")
