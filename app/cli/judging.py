"""`harmonium evaluate`: what a machine is worth."""

import importlib.metadata
import json
import math
import re
import shlex
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from threadpoolctl import threadpool_limits

from app import evaluation, training_runs
from app.benchmarks.machine import describe_machine
from app.cli.terminal import (
    out,
    progress,
    read_settings,
    tell,
)
from app.errors import InvalidInput
from app.evaluation import Evaluation, ProtocolName
from app.evaluation_page import page
from app.learning.metrics import Interval
from app.scoreboard import Section
from app.worker import usable_cores

app = typer.Typer()


@app.command()
def evaluate(
    ratings_file: Annotated[Path, typer.Option("--ratings", help="A file of ratings.")],
    movies_file: Annotated[
        Path | None, typer.Option("--movies", help="A file of movies: titles, and slices by genre.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Splits, seeded 0, 1, …")] = 5,
    first_seed: Annotated[int, typer.Option(min=0)] = 0,
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="Test a share of everyone's ratings, the newest ratings, or new users."),
    ] = "stratified",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page with plots and all tables here.")
    ] = None,
) -> None:
    """Split a file of ratings, train, rank the full catalogue, and compare with baselines."""
    settings = read_settings()
    for written in (json_file, html_file):
        # Not after minutes of work.
        if written is not None and (written.is_dir() or not written.parent.is_dir()):
            raise InvalidInput(f"{written} cannot be written: give a file in a folder that exists.")
    data = evaluation.read_rows(ratings_file, settings)
    if movies_file is not None:
        data = replace(data, movies=evaluation.read_movies(movies_file, settings))
    configuration = training_runs.configuration_of({}, settings)
    started = time.perf_counter()
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
    machine = describe_machine()
    options = ["--ratings", ratings_file.name]
    options += ["--movies", movies_file.name] if movies_file is not None else []
    options += ["--protocol", protocol, "--seeds", str(seeds)]
    options += ["--first-seed", str(first_seed)] if first_seed else []
    origin = page.Origin(
        command=shlex.join(["harmonium", "evaluate", *options]),
        at=datetime.now(UTC),
        seconds=time.perf_counter() - started,
        harmonium=importlib.metadata.version("harmonium"),
        python=machine["python"],
        numpy=machine["numpy"],
        processor=machine["processor"],
    )
    if json_file is not None:
        figures = {"origin": asdict(origin) | {"at": origin.at.isoformat()}} | evaluation.as_json(found)
        json_file.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if html_file is not None:
        html_file.write_text(page.render(found, origin), encoding="utf-8")
    for section in found.sections:
        _print_section(found, section)
        if section.title == found.example_section:
            _print_lists(section)
    for reason in sorted(
        {row.skipped for section in found.sections for row in section.rows if row.skipped is not None}
    ):
        tell(f"left out: {reason}")


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


def _print_lists(section: Section) -> None:
    """Whom the lists serve and what they show; users who have all told as much are not divided."""
    users, movies = ({one.name: one for one in section.slices_of(kind)} for kind in ("users", "movies"))
    asked = [("few", users.get("few"), "any_ndcg"), ("many", users.get("many"), "any_ndcg")]
    asked = [*asked, ("tail", movies.get("tail"), "any_recall_at_20")]
    asked = [one for one in asked if one[1] is not None]
    words = []
    if users:
        words.append(
            f"nDCG@10 any of users with few (up to {users['few'].most:.0f}) and many "
            f"({users['many'].fewest:.0f} or more) ratings"
        )
    words.append("recall@20 any of test movies in the tail of the catalogue")
    words.append("coverage@10 of the catalogue; novelty@10 in bits")
    shown = Table(caption="; ".join(words))
    for column in ("", *(name for name, _, _ in asked), "coverage", "novelty"):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in section.rows:
        if "novelty" not in row.figures:
            continue
        cells = [
            _figure(part.row(row.name).figures.get(figure)) for _, part, figure in asked if part is not None
        ]
        shown.add_row(
            row.name, *cells, _figure(row.figures["coverage"]), f"{row.figures['novelty'].mean:.2f}"
        )
    out.print(shown)


def _figure(interval: Interval | None) -> str:
    """As .417±.012, so that a row fits into 80 columns; a dash for what is not measured."""
    if interval is None or math.isnan(interval.mean):
        return "-"
    half = interval.high - interval.mean
    words = f"{interval.mean:.3f}" + (f"±{half:.3f}" if math.isfinite(half) else "")
    return re.sub(r"\b0\.", ".", words)
