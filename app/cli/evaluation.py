"""`harmonium evaluate`: metrics on a file of ratings, beside baselines."""

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

from app.cli.terminal import out, print_result, progress, read_settings
from app.cli.training import SETTINGS_HELP, SettingsOption, overrides_of
from app.errors import InvalidInput
from app.evaluation import rating_file, run
from app.evaluation.machine import describe_machine
from app.evaluation.protocols import ProtocolName
from app.evaluation.report import page
from app.evaluation.run import Evaluation
from app.evaluation.tables import Section
from app.learning.evaluation.metrics import Interval
from app.training import requests
from app.training.costs import usable_cores

app = typer.Typer()


@app.command(epilog=SETTINGS_HELP)
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
    assignments: SettingsOption = None,
) -> None:
    """Split a file of ratings, train, rank the catalogue, compare with baselines."""
    settings = read_settings()
    _refuse_unwritable(json_file, html_file)  # now, not after minutes of work
    data = rating_file.read_ratings(ratings_file, settings)
    if movies_file is not None:
        data = replace(data, movies=rating_file.read_movies(movies_file, settings))
    configuration = requests.configuration_of(overrides_of(assignments), settings)
    started = time.perf_counter()
    with (
        progress("evaluating") as on_progress,
        threadpool_limits(settings.training_threads or usable_cores(), user_api="blas"),
    ):
        evaluation = run.evaluate(
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
    options += [word for assignment in assignments or () for word in ("--set", assignment)]
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
        figures = {"origin": asdict(origin) | {"at": origin.at.isoformat()}} | evaluation.as_json()
        json_file.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if html_file is not None:
        html_file.write_text(page.render(evaluation, origin), encoding="utf-8")
    _print_evaluation(evaluation)


def _refuse_unwritable(*files: Path | None) -> None:
    for file in files:
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise InvalidInput(f"{file} cannot be written: name a file in a folder that exists.")


def _print_evaluation(evaluation: Evaluation) -> None:
    for section in evaluation.sections:
        _print_section(evaluation, section)
        if section.title == evaluation.example_section:
            _print_lists(section)
    for reason in sorted(
        {row.skipped for section in evaluation.sections for row in section.rows if row.skipped is not None}
    ):
        print_result(f"left out: {reason}")


def _print_section(evaluation: Evaluation, section: Section) -> None:
    """nDCG@10 of rankings and the calibration of like_probability, a row a method."""
    seeds = f"{len(evaluation.seeds)} seed{'s'[: len(evaluation.seeds) > 1]}"
    size = f"{section.n_users:,.0f} users, {section.n_test_ratings:,.0f} test ratings, {seeds}"
    table = Table(
        title=": ".join(part for part in (evaluation.protocol, section.title, size) if part),
        caption=f"nDCG@10 (relevant: >= {evaluation.relevant_at_least:g}) and like_probability "
        f"(>= {evaluation.liked_at_least:g}), ± half the 95 % interval over {evaluation.interval}",
    )
    names = ("any_ndcg", "relevant_ndcg", "auc", "brier", "calibration_error")
    for column in ("", "any", "relevant", "AUC", "Brier", "ECE"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in section.rows:
        table.add_row(row.name, *(_figure(row.figures.get(name)) for name in names))
    out.print(table)


def _print_lists(section: Section) -> None:
    """Figures of short and long profiles, the tail, coverage and novelty."""
    users, movies = ({part.name: part for part in section.slices_of(kind)} for kind in ("users", "movies"))
    slices = [("few", users.get("few"), "any_ndcg"), ("many", users.get("many"), "any_ndcg")]
    slices = [*slices, ("tail", movies.get("tail"), "any_recall_at_20")]
    slices = [row for row in slices if row[1] is not None]
    words = []
    if users:
        words.append(
            f"nDCG@10 any of users with few (up to {users['few'].most:.0f}) and many "
            f"({users['many'].fewest:.0f} or more) ratings"
        )
    words.append("recall@20 any of test movies in the tail of the catalogue")
    words.append("coverage@10 of the catalogue; novelty@10 in bits")
    table = Table(caption="; ".join(words))
    for column in ("", *(name for name, _, _ in slices), "coverage", "novelty"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in section.rows:
        if "novelty" not in row.figures:
            continue
        cells = [
            _figure(part.row(row.name).figures.get(figure)) for _, part, figure in slices if part is not None
        ]
        table.add_row(
            row.name, *cells, _figure(row.figures["coverage"]), f"{row.figures['novelty'].mean:.2f}"
        )
    out.print(table)


def _figure(interval: Interval | None) -> str:
    """As .417±.012, to fit a row into 80 columns; a dash if not measured."""
    if interval is None or math.isnan(interval.mean):
        return "-"
    half = interval.high - interval.mean
    words = f"{interval.mean:.3f}" + (f"±{half:.3f}" if math.isfinite(half) else "")
    return re.sub(r"\b0\.", ".", words)
