"""Positions of the marks of each plot, which the template draws, and the plot's table.

Coordinates are those of an SVG viewBox 360 wide, whose letters can be read on a narrow
screen, too.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from app.evaluation.tables import ReliabilityBin
from app.learning.evaluation.metrics import Interval

WIDTH = 360.0
LABELS = 112.0  # left of horizontal bars
VALUES = 80.0  # right of them
ROW = 20.0
HEADING = 24.0
AXIS = 22.0
LONGEST_LABEL = 17  # letters

# By CSS class: colour is not the only thing that tells lines apart.
SHAPES = {
    "machine": "circle",
    "popular": "square",
    "other-1": "triangle",
    "other-2": "diamond",
    "other-3": "cross",
    "other-4": "square",
}


# The figures of a plot


@dataclass(frozen=True)
class Value:
    """A labelled figure, in the colour of a CSS class."""

    label: str
    interval: Interval
    css: str


@dataclass(frozen=True)
class Group:
    """Values under a heading, which may be empty."""

    heading: str
    values: Sequence[Value]


@dataclass(frozen=True)
class Curve:
    """A method's figures at each position of a line plot."""

    name: str
    css: str
    intervals: Sequence[Interval]


@dataclass(frozen=True)
class CalibrationCurve:
    """A method's reliability bins."""

    name: str
    css: str
    bins: Sequence[ReliabilityBin]


@dataclass(frozen=True)
class Pair:
    """Two shares under one label."""

    label: str
    first: float
    second: float


# What the template draws


@dataclass(frozen=True)
class Table:
    """A table of words.

    Attributes:
        n_names: columns, from the left, that name a row.
        best: (row, column) of cells that are the best of their column.
        strong: the name of the row that the page is about.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]
    n_names: int = 1
    best: frozenset[tuple[int, int]] = frozenset()
    strong: str = ""


@dataclass(frozen=True)
class Tick:
    """A line of the grid: its place and label."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A horizontal bar from the left edge, with the ends of its interval, if any."""

    label: str
    y: float
    end: float
    low: float | None
    high: float | None
    words: str
    css: str


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, in groups with a heading or in one without."""

    title: str
    description: str
    left: float
    right: float
    bottom: float
    height: float
    ticks: list[Tick]
    headings: list[Tick]
    bars: list[Bar]
    table: Table
    kind: str = "bars"
    width: float = WIDTH


@dataclass(frozen=True)
class Point:
    """A mark, with the ends of its interval, if any."""

    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Series:
    """Points joined by a line."""

    name: str
    css: str
    points: list[Point]

    @property
    def shape(self) -> str:
        """The mark of a point."""
        return SHAPES[self.css]

    @property
    def path(self) -> str:
        """The line, as an SVG path."""
        return "M" + " L".join(f"{point.x:.1f} {point.y:.1f}" for point in self.points)


@dataclass(frozen=True)
class Column:
    """A column of a histogram."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Lines:
    """Series over a common axis; optionally a diagonal, and a histogram below."""

    title: str
    description: str
    left: float
    right: float
    top: float
    bottom: float
    height: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_label: str
    y_label: str
    series: list[Series]
    table: Table
    diagonal: bool = False
    columns: list[Column] = field(default_factory=list)
    columns_label: str = ""
    kind: str = "lines"
    width: float = WIDTH


@dataclass(frozen=True)
class PairOfDots:
    """Two marks in one row."""

    label: str
    y: float
    first: float
    second: float


@dataclass(frozen=True)
class Dots:
    """A pair of marks a row: a share, and the share that it is compared with."""

    title: str
    description: str
    left: float
    right: float
    bottom: float
    height: float
    ticks: list[Tick]
    rows: list[PairOfDots]
    names: tuple[str, str]
    table: Table
    kind: str = "dots"
    width: float = WIDTH


Plot = Bars | Lines | Dots


# Words


def number(value: float | None, digits: int = 3) -> str:
    """As .417; a dash for a missing number."""
    if value is None or not math.isfinite(value):
        return "–"
    words = f"{value:,.{digits}f}".replace("-", "−")
    return words.replace("0.", ".", 1) if words.startswith(("0.", "−0.")) else words


def words_of(interval: Interval | None, digits: int = 3) -> str:
    """As .417 ± .012."""
    if interval is None or not math.isfinite(interval.mean):
        return "–"
    words, half = number(interval.mean, digits), interval.high - interval.mean
    if math.isfinite(half):
        words += f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{number(half, digits)}"
    return words


def shortened(label: str) -> str:
    """The label as it fits beside a bar; the table has it in full."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _axis_label(value: float) -> str:
    """A number beside an axis, with thousands and millions as k and M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


# Positions


def steps(most: float) -> list[float]:
    """About four round numbers from 0 to at least `most`."""
    if not math.isfinite(most) or most <= 0:
        most = 1.0
    rough = most / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    return [step * place for place in range(math.ceil(most / step - 1e-9) + 1)]


@dataclass(frozen=True)
class _Scale:
    """Values from 0 to the last tick, along an axis from `start` to `end`."""

    start: float
    end: float
    values: list[float]

    @classmethod
    def of(cls, start: float, end: float, values: Iterable[float]) -> "_Scale":
        return cls(start, end, steps(max((value for value in values if math.isfinite(value)), default=1.0)))

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * min(max(value, 0.0), self.values[-1]) / self.values[-1]

    def ends(self, interval: Interval) -> tuple[float | None, float | None]:
        if not math.isfinite(interval.high):
            return None, None
        return self.at(interval.low), self.at(interval.high)

    def point(self, x: float, interval: Interval) -> Point:
        return Point(x, self.at(interval.mean), *self.ends(interval))


def _reach(interval: Interval) -> float:
    """The upper end of the interval, or the mean without one."""
    return interval.high if math.isfinite(interval.high) else interval.mean


# Plots


def bars(title: str, description: str, groups: Sequence[Group], *, measure: str, digits: int = 3) -> Bars:
    """Bars in groups, without NaN means and empty groups."""
    drawn = [
        Group(group.heading, [value for value in group.values if math.isfinite(value.interval.mean)])
        for group in groups
        if group.values
    ]
    ends = [_reach(value.interval) for group in drawn for value in group.values]
    scale = _Scale.of(LABELS, WIDTH - VALUES, ends)
    grouped = any(group.heading for group in drawn)
    y, marks, headings, rows = 4.0, list[Bar](), list[Tick](), list[list[str]]()
    for group in drawn:
        if group.heading:
            headings.append(Tick(y + HEADING / 2 + 4, group.heading))
            y += HEADING
        for value in group.values:
            words = words_of(value.interval, digits)
            ends_at = scale.ends(value.interval)
            end = scale.at(value.interval.mean)
            marks.append(Bar(shortened(value.label), y + ROW / 2, end, *ends_at, words, value.css))
            rows.append([*([group.heading] if grouped else []), value.label, words])
            y += ROW
    return Bars(
        title,
        description,
        scale.start,
        scale.end,
        y,
        y + AXIS,
        [Tick(scale.at(value), _axis_label(value)) for value in scale.values],
        headings,
        marks,
        Table(title, [*(["slice"] if grouped else []), "", measure], rows, 1 + grouped),
    )


def lines(
    title: str,
    description: str,
    positions: Sequence[str],
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
) -> Lines:
    """Curves with an interval at each position, the positions at equal distances."""
    left, right, top, bottom = 40.0, WIDTH - 12, 12.0, 220.0
    scale = _Scale.of(bottom, top, [_reach(interval) for curve in curves for interval in curve.intervals])
    step = (right - left) / len(positions)
    x_of = [left + step * (place + 0.5) for place in range(len(positions))]
    series = []
    for turn, curve in enumerate(curves):
        offset = (turn - (len(curves) - 1) / 2) * 3  # side by side, or they hide each other
        points = [
            scale.point(x + offset, interval)
            for x, interval in zip(x_of, curve.intervals, strict=True)
            if math.isfinite(interval.mean)
        ]
        series.append(Series(curve.name, curve.css, points))
    return Lines(
        title,
        description,
        left,
        right,
        top,
        bottom,
        bottom + 40,
        [Tick(x, words) for x, words in zip(x_of, positions, strict=True)],
        [Tick(scale.at(value), f"{value:g}") for value in scale.values],
        x_label,
        y_label,
        series,
        Table(
            title,
            ["", *positions],
            [[curve.name, *(words_of(interval) for interval in curve.intervals)] for curve in curves],
        ),
    )


def calibration(
    title: str, description: str, curves: Sequence[CalibrationCurve], histogram: Sequence[float]
) -> Lines:
    """Observed over predicted shares with the diagonal, and ratings by probability."""
    left, right, top, bottom = 40.0, WIDTH - 12, 12.0, 308.0
    ceiling, floor = bottom + 22, bottom + 62  # of the highest column of the histogram
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    across, up = _Scale(left, right, ticks), _Scale(bottom, top, ticks)
    most = max(histogram, default=0.0) or 1.0
    width = (right - left) / max(len(histogram), 1)
    columns = []
    for place, n in enumerate(histogram):
        height = (floor - ceiling) * n / most
        columns.append(Column(left + width * place + 0.5, floor - height, width - 1, height))
    rows = [
        [curve.name, number(piece.predicted), words_of(piece.observed), f"{piece.n:,.0f}"]
        for curve in curves
        for piece in curve.bins
    ]
    return Lines(
        title,
        description,
        left,
        right,
        top,
        bottom,
        floor + 22,
        [Tick(across.at(value), f"{value:g}") for value in ticks],
        [Tick(up.at(value), f"{value:g}") for value in ticks],
        "like_probability",
        "share liked",
        [
            Series(
                curve.name,
                curve.css,
                [up.point(across.at(piece.predicted), piece.observed) for piece in curve.bins],
            )
            for curve in curves
        ],
        Table(title, ["", "mean like_probability", "share liked", "test ratings"], rows),
        diagonal=True,
        columns=columns,
        columns_label=f"ratings by like_probability; the highest column has {most:,.0f}",
    )


def dots(title: str, description: str, pairs: Sequence[Pair], names: tuple[str, str]) -> Dots:
    """A row for each pair of finite shares."""
    pairs = [pair for pair in pairs if math.isfinite(pair.first) and math.isfinite(pair.second)]
    scale = _Scale.of(LABELS, WIDTH - 14, [share for pair in pairs for share in (pair.first, pair.second)])
    bottom = 4 + ROW * len(pairs)
    return Dots(
        title,
        description,
        scale.start,
        scale.end,
        bottom,
        bottom + AXIS,
        [Tick(scale.at(value), f"{100 * value:g} %") for value in scale.values],
        [
            PairOfDots(
                shortened(pair.label), 4 + ROW * (place + 0.5), scale.at(pair.first), scale.at(pair.second)
            )
            for place, pair in enumerate(pairs)
        ],
        names,
        Table(
            title,
            ["", *names],
            [[pair.label, f"{100 * pair.first:.1f} %", f"{100 * pair.second:.1f} %"] for pair in pairs],
        ),
    )
