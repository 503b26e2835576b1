"""From an evaluation to the page: what is said in words, which plots are drawn, which tables stand below."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2

from app.evaluation import Evaluation
from app.evaluation_page import plots
from app.evaluation_page.plots import Bars, Dots, Lines, Table, number, words_of
from app.learning.metrics import Interval
from app.scoreboard import Row, Section, Slice

SERIES = 4  # lines of a plot: the machine, popularity and the best others
GENRES_DRAWN = 20

CSS_OF = {"machine": "machine", "popularity": "popular"}
OTHER_CSS = ("other-1", "other-2", "other-3", "other-4")

METRICS = {
    "ndcg": "nDCG",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "MAP",
    "reciprocal_rank": "MRR",
}
JUDGING = {
    "auc": "AUC",
    "auc_relevant": "AUC (relevant)",
    "brier": "Brier",
    "calibration_error": "ECE",
    "absolute_difference": "|v − v'|",
}
LOW_IS_GOOD = frozenset({"brier", "calibration_error", "absolute_difference"})


@dataclass(frozen=True)
class Origin:
    """Where the figures come from.

    Attributes:
        command: repeats them, with file names for paths.
        at: when it ended.
        seconds: how long it took.
        harmonium, python, numpy: versions.
        processor: of the machine.
    """

    command: str
    at: datetime
    seconds: float
    harmonium: str
    python: str
    numpy: str
    processor: str


@dataclass(frozen=True)
class Part:
    """Plots and tables under a heading, which the template finds by the name.

    Attributes:
        bounds: what the slices hold, in words, by kind.
    """

    name: str
    bounds: dict[str, str]
    plots: list[Bars | Lines | Dots]
    tables: list[Table]


def render(found: Evaluation, origin: Origin) -> str:
    """The page: HTML that asks for nothing from outside. Whatever comes from the data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"px": lambda value: f"{value:.1f}", "figure": number}
    main = _main_section(found)
    parts = [
        _ranking(found),
        _served(main),
        _shown(main),
        _honesty(found, main),
    ]
    return environment.get_template("page.html").render(
        found=found,
        origin=origin,
        findings=_findings(found, main),
        parts=[part for part in parts if part.plots or part.tables],
        stars=plots.bars(
            "Ratings by stars",
            "How many ratings there are of each number of stars.",
            [("", [(label, _exactly(n), "plain") for label, n in found.shape.stars])],
            measure="ratings",
            digits=0,
        ),
        full=[(section.title, _full_tables(found, section)) for section in found.sections],
        main_title=main.title,
        skipped=_skipped(found),
        configuration=[(name, _value(value)) for name, value in sorted(found.configuration.items())],
    )


def _main_section(found: Evaluation) -> Section:
    """The section that the page shows most of: the one its examples are of."""
    return next(section for section in found.sections if section.title == found.example_section)


def _value(value: object) -> str:
    return "–" if value is None else str(value)


def _exactly(value: float) -> Interval:
    return Interval(float(value), math.nan, math.nan, 1)


def _mean(row: Row, name: str) -> float:
    interval = row.figures.get(name)
    return math.nan if interval is None else interval.mean


def _with(rows: Sequence[Row], name: str) -> list[Row]:
    """Rows that have the figure."""
    return [row for row in rows if math.isfinite(_mean(row, name))]


def _leading(sections: Sequence[Section], name: str, *, low: bool = False) -> list[str]:
    """The machine, popularity, and the best others by their mean over the sections."""
    first = sections[0].rows[0].name
    sums: dict[str, list[float]] = {}
    for section in sections:
        for row in _with(section.rows, name):
            sums.setdefault(row.name, []).append(_mean(row, name))
    others = [one for one in sums if one not in (first, "popularity")]
    others.sort(key=lambda one: sum(sums[one]) / len(sums[one]), reverse=not low)
    chosen = [one for one in (first, "popularity") if one in sums]
    return chosen + others[: SERIES - len(chosen)]


def _css(names: Sequence[str]) -> dict[str, str]:
    """A class for each name; the machine's and popularity's are always the same."""
    others = iter(OTHER_CSS)
    return {name: CSS_OF.get(name) or next(others, OTHER_CSS[-1]) for name in names}


def _findings(found: Evaluation, main: Section) -> list[str]:
    """What the figures say, in sentences; nothing is called better that its interval does not bear out."""
    first = main.rows[0]
    where = f" ({main.title} folded in)" if found.protocol == "new-users" else f" {main.title}".rstrip()
    said = (
        f"For {main.n_users:,.0f} users{where} the machine's first ten have an nDCG of "
        f"{words_of(first.figures.get('any_ndcg'))} when every test rating counts, and of "
        f"{words_of(first.figures.get('relevant_ndcg'))} when only those of at least "
        f"{found.relevant_at_least:g} stars do."
    )
    result = [said]
    for name, kind in (("any_ndcg", "any"), ("relevant_ndcg", "relevant")):
        baselines = _with(main.rows[1:], name)
        if not baselines:
            continue
        best = max(baselines, key=lambda row: _mean(row, name))
        result.append(
            f"Against the best baseline for “{kind}”, {best.name} ({number(_mean(best, name))}), "
            f"{found.interval.removesuffix('s')} by {found.interval.removesuffix('s')}: "
            f"{_compared(best.behind.get(name))}."
        )
    judges = [row for row in _with(main.rows[1:], "auc") if row.name != "biases"]
    if "auc" in first.figures:
        said = (
            f"like_probability has an AUC of {words_of(first.figures['auc'])}, a Brier score of "
            f"{words_of(first.figures['brier'])} and a calibration error of "
            f"{words_of(first.figures['calibration_error'])}"
        )
        if judges:
            said += (
                f"; {judges[0].name} has {number(_mean(judges[0], 'auc'))}, "
                f"{number(_mean(judges[0], 'brier'))} and {number(_mean(judges[0], 'calibration_error'))}"
            )
        result.append(said + ".")
    if "coverage" in first.figures:
        said = (
            f"Its lists of ten show {100 * _mean(first, 'coverage'):.0f} % of the catalogue; a movie shown "
            f"was rated by {100 * _mean(first, 'popularity'):.0f} % of the training users on average"
        )
        popular = next((row for row in main.rows if row.name == "popularity"), None)
        if popular is not None and "coverage" in popular.figures:
            said += (
                f" (lists by popularity: {100 * _mean(popular, 'coverage'):.0f} % and "
                f"{100 * _mean(popular, 'popularity'):.0f} %)"
            )
        result.append(said + ".")
    return result


def _compared(difference: Interval | None) -> str:
    """In words, with the interval of the paired difference."""
    if difference is None or not math.isfinite(difference.mean):
        return "no comparison"
    if not math.isfinite(difference.high):
        return f"a difference of {number(difference.mean)}, of which one seed says nothing more"
    half = number(difference.high - difference.mean)
    words = f"{number(abs(difference.mean))} ± {half}"
    if difference.low > 0:
        return f"the machine is above by {words}"
    if difference.high < 0:
        return f"the machine is below by {words}"
    return f"no certain difference ({number(difference.mean)} ± {half})"


def _ranking(found: Evaluation) -> Part:
    drawn: list[Bars | Lines | Dots] = []
    relevant = f"relevant: stars of at least {found.relevant_at_least:g}"
    # One colour for a baseline in both plots.
    both = [one for name in ("any_ndcg", "relevant_ndcg") for one in _leading(found.sections, name)]
    css = _css(list(dict.fromkeys(both)))
    for name, kind in (
        ("any_ndcg", "any: every test rating counts"),
        ("relevant_ndcg", relevant),
    ):
        if len(found.sections) > 2:
            leading = _leading(found.sections, name)
            drawn.append(
                plots.lines(
                    f"nDCG@10 by number of ratings folded in; {kind}",
                    "A line for the machine, for popularity and for the two best other baselines.",
                    [section.title.split(" ")[0] for section in found.sections],
                    [
                        (one, css[one], [section.row(one).figures[name] for section in found.sections])
                        for one in leading
                    ],
                    x_label="ratings folded in",
                    y_label="nDCG@10",
                )
            )
            continue
        for section in found.sections:
            rows = _with(section.rows, name)
            if rows:
                where = f" ({section.title})" if section.title else ""
                drawn.append(
                    plots.bars(
                        f"nDCG@10, {kind}{where}",
                        "A bar for each method, the best first.",
                        [("", _bars_of(rows, name))],
                        measure="nDCG@10",
                    )
                )
    return Part("ranking", {}, drawn, [])


def _bars_of(rows: Sequence[Row], name: str) -> list[tuple[str, Interval, str]]:
    """Labels, intervals and classes, the best first (the highest, where neither end is good)."""
    sign = 1 if name in LOW_IS_GOOD else -1
    ordered = sorted(_with(rows, name), key=lambda row: sign * _mean(row, name))
    return [(row.name, row.figures[name], CSS_OF.get(row.name, "plain")) for row in ordered]


def _served(main: Section) -> Part:
    drawn: list[Bars | Lines | Dots] = []
    users, movies = main.slices_of("users"), main.slices_of("movies")
    leading = _leading([main], "any_ndcg")
    css = _css(leading)
    if users:
        for name, kind in (("any_ndcg", "any"), ("relevant_ndcg", "relevant")):
            drawn.append(_sliced(f"nDCG@10 {kind}, by user", users, name, leading, css))
    if movies:
        for name, kind in (("any_recall_at_20", "any"), ("relevant_recall_at_20", "relevant")):
            drawn.append(_sliced(f"Recall@20 {kind}, by popularity of the movie", movies, name, leading, css))
    bounds = {kind: _bounds(its) for kind, its in (("users", users), ("movies", movies)) if its}
    return Part("served", bounds, drawn, [])


def _bounds(slices: Sequence[Slice]) -> str:
    said = [f"{one.name}: {one.n:,.0f} with {one.fewest:,.0f} to {one.most:,.0f}" for one in slices]
    return "; ".join(said)


def _sliced(
    title: str, slices: Sequence[Slice], name: str, leading: Sequence[str], css: dict[str, str]
) -> Bars:
    groups = []
    for one in slices:
        rows = {row.name: row for row in one.rows}
        its = [
            (method, rows[method].figures[name], "machine" if css[method] == "machine" else "plain")
            for method in leading
            if method in rows and name in rows[method].figures
        ]
        groups.append((f"{one.name} ({100 * one.test_share:.0f} % of the test ratings)", its))
    return plots.bars(
        title,
        "A group of bars for each slice: the machine, popularity and the two best other baselines.",
        groups,
        measure=title.split(",")[0],
    )


def _shown(main: Section) -> Part:
    drawn: list[Bars | Lines | Dots] = []
    tables = []
    for name, title, measure in (
        ("coverage", "Catalogue coverage@10: movies that anybody is shown", "share of the catalogue"),
        ("novelty", "Novelty@10 of what is shown", "bits"),
    ):
        rows = _bars_of(main.rows, name)
        if rows:
            drawn.append(
                plots.bars(
                    title,
                    "A bar for each method, the highest first.",
                    [("", rows)],
                    measure=measure,
                    digits=3 if name == "coverage" else 2,
                )
            )
    genres = main.slices_of("genre")
    first = main.rows[0].name
    by_genre = sorted(genres, key=lambda one: (-one.test_share, one.name))
    lists = {one.name: row.figures["shown"].mean for one in genres for row in one.rows if row.name == first}
    if by_genre:
        drawn.append(
            plots.dots(
                "Genres: what users rate, and what the machine shows",
                "For each genre its share of the test ratings, and of the first ten ranks.",
                [
                    (one.name, one.test_share, lists.get(one.name, math.nan))
                    for one in by_genre[:GENRES_DRAWN]
                ],
                ("test ratings", "first ten ranks"),
            )
        )
        covered = [
            (one.name, row.figures["coverage"], "machine")
            for one in by_genre[:GENRES_DRAWN]
            for row in one.rows
            if row.name == first
        ]
        drawn.append(
            plots.bars(
                "Coverage@10 by genre: the genre's movies that the machine shows anybody",
                "A bar for each genre, in the order of their test ratings.",
                [("", covered)],
                measure="coverage@10",
            )
        )
        tables.append(_genre_table(by_genre, _leading([main], "any_ndcg")[:2]))
    return Part("shown", {"genre": f"{len(genres)} genres"} if genres else {}, drawn, tables)


def _genre_table(genres: Sequence[Slice], leading: Sequence[str]) -> Table:
    rows = []
    for one in genres:
        its = {row.name: row.figures for row in one.rows}
        rows.append(
            [
                one.name,
                f"{one.n:,.0f}",
                f"{100 * one.test_share:.1f} %",
                words_of(its[leading[0]].get("shown")),
                words_of(its[leading[0]].get("relevant_recall_at_20")),
                *(words_of(its[name].get("coverage")) for name in leading),
            ]
        )
    header = ["genre", "movies", "test ratings", "share of ranks", "recall@20 relevant"]
    return Table(
        f"By genre: the {leading[0]}'s share of the first ten ranks, its recall, and coverage@10",
        [*header, *(f"coverage {name}" for name in leading)],
        rows,
    )


def _honesty(found: Evaluation, main: Section) -> Part:
    judges = [row for row in main.rows if row.reliability]
    if not judges:
        return Part("honesty", {}, [], [])
    chosen = [judges[0], *[row for row in judges[1:] if row.name != "biases"][:1]]
    css = _css([row.name for row in chosen])
    drawn: list[Bars | Lines | Dots] = [
        plots.reliability(
            "Reliability of like_probability",
            "Share of liked test ratings against the mean predicted probability, with the diagonal; below, "
            f"how often the {judges[0].name} gives each probability.",
            [
                (
                    row.name,
                    css[row.name],
                    [(one.predicted, one.observed, one.n) for one in row.reliability],
                )
                for row in chosen
            ],
            judges[0].histogram,
        ),
    ]
    for name, title in (
        ("auc", "AUC: a liked movie is given more than a disliked one; .5 is chance"),
        ("brier", "Brier score: less is better"),
        ("calibration_error", "Calibration error (ECE): less is better"),
    ):
        drawn.append(
            plots.bars(
                title,
                "A bar for each method, the best first.",
                [("", _bars_of(judges, name))],
                measure=JUDGING[name],
            )
        )
    slices = [one for one in main.slices if one.kind != "genre" and one.rows]
    rows = []
    for one in slices:
        for row in one.rows:
            if "brier" in row.figures:
                what = f"{one.kind}: {one.name}"
                rows.append([what, row.name, *(words_of(row.figures.get(name)) for name in JUDGING)])
    tables = []
    if rows:
        tables.append(Table("like_probability by slice", ["slice", "", *JUDGING.values()], rows, n_names=2))
    return Part("honesty", {}, drawn, tables)


def _full_tables(found: Evaluation, section: Section) -> list[Table]:
    """Every figure of a section."""
    result = []
    for kind, words in (
        ("any", "any: every test rating counts"),
        ("relevant", f"relevant: stars of at least {found.relevant_at_least:g}"),
    ):
        for suffix, k in (("", 10), ("_at_20", 20)):
            names = [f"{kind}_{metric}{suffix}" for metric in METRICS]
            headers = [f"{label}@{k}" for label in METRICS.values()]
            result.append(_table(f"Lists at {k}, {words}", section.rows, names, headers))
        names = [f"{kind}_ndcg", f"{kind}_ndcg_at_20", f"{kind}_precision", f"{kind}_recall"]
        headers = ["nDCG@10", "nDCG@20", "precision@10", "recall@10"]
        first = section.rows[0].name
        behind = [Row(row.name, row.behind) for row in section.rows[1:] if row.behind]
        result.append(
            _table(
                f"The {first}'s figure less each baseline's, in pairs, {kind}",
                behind,
                names,
                headers,
                best=False,
            )
        )
    names = [f"{name}{suffix}" for name in ("coverage", "novelty", "popularity") for suffix in ("", "_at_20")]
    headers = [f"{name}@{k}" for name in ("coverage", "novelty", "popularity") for k in (10, 20)]
    result.append(_table("What is shown", section.rows, names, headers, best=False))
    result.append(
        _table(
            f"like_probability, stars of at least {found.liked_at_least:g}",
            section.rows,
            list(JUDGING),
            list(JUDGING.values()),
        )
    )
    for kind, title, chosen in (
        ("users", "Users by number of ratings", ("any_ndcg", "relevant_ndcg", "any_recall_at_20")),
        (
            "movies",
            "Movies by popularity",
            ("any_recall_at_20", "relevant_recall_at_20", "shown", "coverage"),
        ),
    ):
        headers = [_label(name) for name in chosen]
        rows = [
            [f"{one.name} ({one.n:,.0f}: {one.fewest:,.0f} to {one.most:,.0f})", row.name]
            + [words_of(row.figures.get(name)) for name in chosen]
            for one in section.slices_of(kind)
            for row in one.rows
            if chosen[0] in row.figures
        ]
        if rows:
            result.append(Table(title, ["slice", "", *headers], rows, n_names=2))
    return [table for table in result if table.rows]


def _label(name: str) -> str:
    k = 20 if name.endswith("_at_20") else 10
    kind, _, metric = name.removesuffix("_at_20").partition("_")
    if not metric:
        return {"shown": "share of ranks"}.get(kind, kind) + f"@{k}"
    return f"{METRICS[metric]}@{k} {kind}"


def _table(
    caption: str, rows: Sequence[Row], names: Sequence[str], headers: Sequence[str], *, best: bool = True
) -> Table:
    """The rows that have any of these figures; the best of each column is marked."""
    shown = [row for row in rows if any(name in row.figures for name in names)]
    marked = set()
    for column, name in enumerate(names):
        values = [_mean(row, name) for row in shown]
        known = [value for value in values if math.isfinite(value)]
        if best and len(known) > 1:
            top = min(known) if name in LOW_IS_GOOD else max(known)
            marked |= {(place, column + 1) for place, value in enumerate(values) if value == top}
    return Table(
        caption,
        ["", *headers],
        [[row.name, *(words_of(row.figures.get(name)) for name in names)] for row in shown],
        best=frozenset(marked),
        strong="machine",
    )


def _skipped(found: Evaluation) -> list[tuple[str, str]]:
    """What was left out, and why."""
    said = {
        (row.name, row.skipped)
        for section in found.sections
        for row in section.rows
        if row.skipped is not None
    }
    return sorted(said)
