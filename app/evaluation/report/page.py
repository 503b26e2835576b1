"""The page of an evaluation: plots and tables by chapter, rendered by `page.html`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2

from app.evaluation.report import plots
from app.evaluation.report.figures import LIKES, LOW_IS_GOOD, full_tables, mean_of, rows_with
from app.evaluation.report.findings import findings
from app.evaluation.report.plots import (
    Bars,
    CalibrationCurve,
    Curve,
    Group,
    Pair,
    Plot,
    Table,
    Value,
    number,
    words_of,
)
from app.evaluation.run import Evaluation
from app.evaluation.tables import Row, Section, Slice
from app.learning.evaluation.metrics import Interval

CURVES = 4  # of a plot: the model, popularity and the best others
GENRES_DRAWN = 20

CSS_OF = {"machine": "machine", "popularity": "popular"}
OTHER_CSS = ("other-1", "other-2", "other-3", "other-4")


@dataclass(frozen=True)
class Origin:
    """Where the figures come from.

    Attributes:
        command: repeats them, with file names for paths.
        at: end of the evaluation.
        seconds: its length.
        harmonium, python, numpy: versions.
        processor: of the computer.
    """

    command: str
    at: datetime
    seconds: float
    harmonium: str
    python: str
    numpy: str
    processor: str


@dataclass(frozen=True)
class Chapter:
    """Plots and tables under a heading, which the template knows by the name.

    Attributes:
        bounds: sizes of the slices in words, by kind.
    """

    name: str
    bounds: dict[str, str]
    plots: list[Plot]
    tables: list[Table]


def render(evaluation: Evaluation, origin: Origin) -> str:
    """The page as HTML without outside resources; all data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"px": lambda value: f"{value:.1f}", "figure": number}
    main = next(section for section in evaluation.sections if section.title == evaluation.example_section)
    chapters = [_ranking(evaluation), _slices(main), _contents(main), _calibration(main)]
    stars = [
        Value(label, Interval(float(n), math.nan, math.nan, 1), "plain")
        for label, n in evaluation.shape.stars
    ]
    skipped = {
        (row.name, row.skipped)
        for section in evaluation.sections
        for row in section.rows
        if row.skipped is not None
    }
    configuration = evaluation.configuration.items()
    return environment.get_template("page.html").render(
        evaluation=evaluation,
        origin=origin,
        findings=findings(evaluation, main),
        chapters=[chapter for chapter in chapters if chapter.plots or chapter.tables],
        stars=plots.bars(
            "Ratings by stars",
            "Number of ratings of each number of stars.",
            [Group("", stars)],
            measure="ratings",
            digits=0,
        ),
        full=[(section.title, full_tables(evaluation, section)) for section in evaluation.sections],
        main_title=main.title,
        skipped=sorted(skipped),
        configuration=[(name, "–" if value is None else str(value)) for name, value in sorted(configuration)],
    )


def _leading(sections: Sequence[Section], name: str) -> list[str]:
    """The model, popularity, and the best others by their mean over the sections."""
    first = sections[0].rows[0].name
    means: dict[str, list[float]] = {}
    for section in sections:
        for row in rows_with(section.rows, name):
            means.setdefault(row.name, []).append(mean_of(row, name))
    others = [method for method in means if method not in (first, "popularity")]
    others.sort(key=lambda method: -sum(means[method]) / len(means[method]))
    leading = [method for method in (first, "popularity") if method in means]
    return leading + others[: CURVES - len(leading)]


def _css(names: Sequence[str]) -> dict[str, str]:
    """A class for each name; those of the model and of popularity are fixed."""
    others = iter(OTHER_CSS)
    return {name: CSS_OF.get(name) or next(others, OTHER_CSS[-1]) for name in names}


def _sorted_bars(
    title: str, rows: Sequence[Row], name: str, measure: str, order: str = "the best first", digits: int = 3
) -> Bars:
    """A bar for each row, the best first (the highest, where neither end is good)."""
    sign = 1 if name in LOW_IS_GOOD else -1
    ordered = sorted(rows_with(rows, name), key=lambda row: sign * mean_of(row, name))
    values = [Value(row.name, row.figures[name], CSS_OF.get(row.name, "plain")) for row in ordered]
    return plots.bars(
        title, f"A bar for each method, {order}.", [Group("", values)], measure=measure, digits=digits
    )


def _ranking(evaluation: Evaluation) -> Chapter:
    sections = evaluation.sections
    kinds = {
        "any_ndcg": "any: every test rating counts",
        "relevant_ndcg": f"relevant: stars of at least {evaluation.relevant_at_least:g}",
    }
    leading = {name: _leading(sections, name) for name in kinds}
    # One colour for a baseline in both plots.
    css = _css(list(dict.fromkeys(method for methods in leading.values() for method in methods)))
    drawn: list[Plot] = []
    for name, kind in kinds.items():
        if len(sections) > 2:
            curves = [
                Curve(method, css[method], [section.row(method).figures[name] for section in sections])
                for method in leading[name]
            ]
            drawn.append(
                plots.lines(
                    f"nDCG@10 by number of ratings folded in; {kind}",
                    "A line for the model, for popularity and for the two best other baselines.",
                    [section.title.split(" ")[0] for section in sections],
                    curves,
                    x_label="ratings folded in",
                    y_label="nDCG@10",
                )
            )
            continue
        for section in sections:
            if rows_with(section.rows, name):
                where = f" ({section.title})" if section.title else ""
                drawn.append(_sorted_bars(f"nDCG@10, {kind}{where}", section.rows, name, "nDCG@10"))
    return Chapter("ranking", {}, drawn, [])


def _slices(main: Section) -> Chapter:
    users, movies = main.slices_of("users"), main.slices_of("movies")
    leading = _leading([main], "any_ndcg")
    drawn: list[Plot] = []
    for kind in ("any", "relevant") if users else ():
        drawn.append(_sliced(f"nDCG@10 {kind}, by user", users, f"{kind}_ndcg", leading))
    for kind in ("any", "relevant") if movies else ():
        title = f"Recall@20 {kind}, by popularity of the movie"
        drawn.append(_sliced(title, movies, f"{kind}_recall_at_20", leading))
    bounds = {
        kind: "; ".join(
            f"{piece.name}: {piece.n:,.0f} with {piece.fewest:,.0f} to {piece.most:,.0f}" for piece in slices
        )
        for kind, slices in (("users", users), ("movies", movies))
        if slices
    }
    return Chapter("slices", bounds, drawn, [])


def _sliced(title: str, slices: Sequence[Slice], name: str, leading: Sequence[str]) -> Bars:
    groups = []
    for piece in slices:
        rows = {row.name: row for row in piece.rows}
        values = [
            Value(method, rows[method].figures[name], "machine" if method == "machine" else "plain")
            for method in leading
            if method in rows and name in rows[method].figures
        ]
        heading = f"{piece.name} ({100 * piece.test_share:.0f} % of the test ratings)"
        groups.append(Group(heading, values))
    description = "A group of bars for each slice: the model, popularity and the two best other baselines."
    return plots.bars(title, description, groups, measure=title.split(",")[0])


def _contents(main: Section) -> Chapter:
    drawn: list[Plot] = []
    for name, title, measure, digits in (
        ("coverage", "Catalogue coverage@10: movies on any list", "share of the catalogue", 3),
        ("novelty", "Novelty@10 of the lists", "bits", 2),
    ):
        if rows_with(main.rows, name):
            drawn.append(_sorted_bars(title, main.rows, name, measure, "the highest first", digits))
    genres = sorted(main.slices_of("genre"), key=lambda piece: (-piece.test_share, piece.name))
    if not genres:
        return Chapter("contents", {}, drawn, [])
    first = main.rows[0].name
    # The first row alone has lists for certain.
    of_first = [(piece, piece.row(first).figures) for piece in genres[:GENRES_DRAWN]]
    drawn.append(
        plots.dots(
            "Genres: what users rate, and what the model lists",
            "For each genre its share of the test ratings, and of the first ten ranks.",
            [Pair(piece.name, piece.test_share, figures["shown"].mean) for piece, figures in of_first],
            ("test ratings", "first ten ranks"),
        )
    )
    covered = [Value(piece.name, figures["coverage"], "machine") for piece, figures in of_first]
    drawn.append(
        plots.bars(
            "Coverage@10 by genre: the genre's movies on any list of the model",
            "A bar for each genre, in the order of their test ratings.",
            [Group("", covered)],
            measure="coverage@10",
        )
    )
    table = _genre_table(genres, _leading([main], "any_ndcg")[:2])
    return Chapter("contents", {"genre": f"{len(genres)} genres"}, drawn, [table])


def _genre_table(genres: Sequence[Slice], leading: Sequence[str]) -> Table:
    rows = []
    for genre in genres:
        figures = {row.name: row.figures for row in genre.rows}
        rows.append(
            [
                genre.name,
                f"{genre.n:,.0f}",
                f"{100 * genre.test_share:.1f} %",
                words_of(figures[leading[0]].get("shown")),
                words_of(figures[leading[0]].get("relevant_recall_at_20")),
                *(words_of(figures[name].get("coverage")) for name in leading),
            ]
        )
    header = ["genre", "movies", "test ratings", "share of ranks", "recall@20 relevant"]
    return Table(
        f"By genre: the {leading[0]}'s share of the first ten ranks, its recall, and coverage@10",
        [*header, *(f"coverage {name}" for name in leading)],
        rows,
    )


def _calibration(main: Section) -> Chapter:
    rows = [row for row in main.rows if row.reliability]
    if not rows:
        return Chapter("calibration", {}, [], [])
    first = rows[0]
    compared = [first, *[row for row in rows[1:] if row.name != "biases"][:1]]
    css = _css([row.name for row in compared])
    drawn: list[Plot] = [
        plots.calibration(
            "Reliability of like_probability",
            "Share of liked test ratings against the mean predicted probability, with the diagonal; below, "
            f"how often the {first.name} gives each probability.",
            [CalibrationCurve(row.name, css[row.name], row.reliability) for row in compared],
            first.histogram,
        ),
        _sorted_bars(
            "AUC: probability that a liked movie is above a disliked one; .5 is chance",
            rows,
            "auc",
            LIKES["auc"],
        ),
        _sorted_bars("Brier score: less is better", rows, "brier", LIKES["brier"]),
        _sorted_bars(
            "Calibration error (ECE): less is better", rows, "calibration_error", LIKES["calibration_error"]
        ),
    ]
    of_slices = [
        [f"{piece.kind}: {piece.name}", row.name, *(words_of(row.figures.get(name)) for name in LIKES)]
        for piece in main.slices
        if piece.kind != "genre"
        for row in piece.rows
        if "brier" in row.figures
    ]
    tables = []
    if of_slices:
        header = ["slice", "", *LIKES.values()]
        tables.append(Table("like_probability by slice", header, of_slices, n_names=2))
    return Chapter("calibration", {}, drawn, tables)
