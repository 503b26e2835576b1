"""Names and order of figures, and the tables that hold all of them."""

import math
from collections.abc import Sequence

from app.evaluation.report.plots import Table, words_of
from app.evaluation.run import Evaluation
from app.evaluation.tables import Row, Section, SliceKind

RANKING = {
    "ndcg": "nDCG",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "MAP",
    "reciprocal_rank": "MRR",
}
LIKES = {
    "auc": "AUC",
    "auc_relevant": "AUC (relevant)",
    "brier": "Brier",
    "calibration_error": "ECE",
    "absolute_difference": "|v − v'|",
}
LOW_IS_GOOD = frozenset({"brier", "calibration_error", "absolute_difference"})

OF_SLICES: dict[SliceKind, tuple[str, tuple[str, ...]]] = {
    "users": ("Users by number of ratings", ("any_ndcg", "relevant_ndcg", "any_recall_at_20")),
    "movies": (
        "Movies by popularity",
        ("any_recall_at_20", "relevant_recall_at_20", "shown", "coverage"),
    ),
}


def mean_of(row: Row, name: str) -> float:
    """The figure's mean; NaN without the figure."""
    interval = row.figures.get(name)
    return math.nan if interval is None else interval.mean


def rows_with(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows that have the figure."""
    return [row for row in rows if math.isfinite(mean_of(row, name))]


def full_tables(evaluation: Evaluation, section: Section) -> list[Table]:
    """Every figure of a section."""
    result = []
    first = section.rows[0].name
    behind = [Row(row.name, row.behind) for row in section.rows[1:] if row.behind]
    for kind, words in (
        ("any", "any: every test rating counts"),
        ("relevant", f"relevant: stars of at least {evaluation.relevant_at_least:g}"),
    ):
        for suffix, k in (("", 10), ("_at_20", 20)):
            names = [f"{kind}_{metric}{suffix}" for metric in RANKING]
            headers = [f"{label}@{k}" for label in RANKING.values()]
            result.append(_table(f"Lists at {k}, {words}", section.rows, names, headers))
        names = [f"{kind}_ndcg", f"{kind}_ndcg_at_20", f"{kind}_precision", f"{kind}_recall"]
        headers = ["nDCG@10", "nDCG@20", "precision@10", "recall@10"]
        caption = f"The {first}'s figure less each baseline's, in pairs, {kind}"
        result.append(_table(caption, behind, names, headers, best=False))
    contents = ("coverage", "novelty", "popularity")
    names = [f"{name}{suffix}" for name in contents for suffix in ("", "_at_20")]
    headers = [f"{name}@{k}" for name in contents for k in (10, 20)]
    result.append(_table("Movies on the lists", section.rows, names, headers, best=False))
    caption = f"like_probability, stars of at least {evaluation.liked_at_least:g}"
    result.append(_table(caption, section.rows, list(LIKES), list(LIKES.values())))
    result += [_slice_table(section, kind) for kind in OF_SLICES]
    return [table for table in result if table.rows]


def _table(
    caption: str, rows: Sequence[Row], names: Sequence[str], headers: Sequence[str], *, best: bool = True
) -> Table:
    """The rows that have any of these figures; the best of each column is marked."""
    rows = [row for row in rows if any(name in row.figures for name in names)]
    marked = set()
    for column, name in enumerate(names):
        values = [mean_of(row, name) for row in rows]
        known = [value for value in values if math.isfinite(value)]
        if best and len(known) > 1:
            top = min(known) if name in LOW_IS_GOOD else max(known)
            marked |= {(place, column + 1) for place, value in enumerate(values) if value == top}
    return Table(
        caption,
        ["", *headers],
        [[row.name, *(words_of(row.figures.get(name)) for name in names)] for row in rows],
        best=frozenset(marked),
        strong="machine",
    )


def _slice_table(section: Section, kind: SliceKind) -> Table:
    title, names = OF_SLICES[kind]
    rows = [
        [f"{piece.name} ({piece.n:,.0f}: {piece.fewest:,.0f} to {piece.most:,.0f})", row.name]
        + [words_of(row.figures.get(name)) for name in names]
        for piece in section.slices_of(kind)
        for row in piece.rows
        if names[0] in row.figures
    ]
    return Table(title, ["slice", "", *(_label(name) for name in names)], rows, n_names=2)


def _label(name: str) -> str:
    k = 20 if name.endswith("_at_20") else 10
    kind, _, metric = name.removesuffix("_at_20").partition("_")
    if not metric:
        return {"shown": "share of ranks"}.get(kind, kind) + f"@{k}"
    return f"{RANKING[metric]}@{k} {kind}"
