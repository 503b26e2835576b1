"""Where the marks of a plot lie. The template draws them; every plot brings the table that it shows.

Coordinates are those of an SVG viewBox 360 wide, so that its letters can be read on a narrow screen too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.learning.metrics import Interval

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


@dataclass(frozen=True)
class Table:
    """What a table shows: the first column names its rows.

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
    """A line of the grid: its place, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A horizontal bar from the left edge of the plot, and the ends of its interval if it has one."""

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
    """A mark, with the ends of its interval where it has one."""

    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Series:
    """Points joined by a line."""

    name: str
    css: str
    shape: str
    points: list[Point]

    @property
    def path(self) -> str:
        """The line, as SVG has it."""
        return "M" + " L".join(f"{point.x:.1f} {point.y:.1f}" for point in self.points)


@dataclass(frozen=True)
class Lines:
    """Series over a common axis; perhaps a diagonal, and columns of a histogram below."""

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
    columns: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, y, width, height
    columns_label: str = ""
    kind: str = "lines"
    width: float = WIDTH


@dataclass(frozen=True)
class Dots:
    """A pair of marks a row: what is, and what it is compared with."""

    title: str
    description: str
    left: float
    right: float
    bottom: float
    height: float
    ticks: list[Tick]
    rows: list[tuple[str, float, float, float]]  # label, y, x of the first mark, x of the second
    names: tuple[str, str]
    table: Table
    kind: str = "dots"
    width: float = WIDTH


def number(value: float | None, digits: int = 3) -> str:
    """As .417; a dash for what is not there."""
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


def steps(most: float) -> list[float]:
    """About four round numbers from 0 to at least `most`."""
    if not math.isfinite(most) or most <= 0:
        most = 1.0
    rough = most / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    return [step * place for place in range(math.ceil(most / step - 1e-9) + 1)]


def bars(
    title: str,
    description: str,
    groups: Sequence[tuple[str, Sequence[tuple[str, Interval, str]]]],
    *,
    measure: str,
    digits: int = 3,
) -> Bars:
    """Bars in groups of a heading and of (label, interval, CSS class); NaN means are left out."""
    left, right = LABELS, WIDTH - VALUES
    shown = [(heading, [one for one in its if math.isfinite(one[1].mean)]) for heading, its in groups if its]
    ends = [_finite(interval.high, interval.mean) for _, its in shown for _, interval, _ in its]
    scale = steps(max(ends, default=1.0))

    def at(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), scale[-1]) / scale[-1]

    y, drawn, headings = 4.0, list[Bar](), list[Tick]()
    for heading, its in shown:
        if heading:
            headings.append(Tick(y + HEADING / 2 + 4, heading))
            y += HEADING
        for label, interval, css in its:
            certain = math.isfinite(interval.high)
            drawn.append(
                Bar(
                    shortened(label),
                    y + ROW / 2,
                    at(interval.mean),
                    at(interval.low) if certain else None,
                    at(interval.high) if certain else None,
                    words_of(interval, digits),
                    css,
                )
            )
            y += ROW
    grouped = any(heading for heading, _ in shown)
    rows = [
        [*([heading] if grouped else []), label, words_of(interval, digits)]
        for heading, its in shown
        for label, interval, _ in its
    ]
    return Bars(
        title,
        description,
        left,
        right,
        y,
        y + AXIS,
        [Tick(at(value), _axis(value)) for value in scale],
        headings,
        drawn,
        Table(title, [*(["slice"] if grouped else []), "", measure], rows, 1 + grouped),
    )


def lines(
    title: str,
    description: str,
    positions: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[Interval]]],
    *,
    x_label: str,
    y_label: str,
) -> Lines:
    """Series of (name, CSS class, an interval at each position), the positions at equal distances."""
    left, right, top, bottom = 40.0, WIDTH - 12, 12.0, 220.0
    ends = [_finite(one.high, one.mean) for _, _, its in series for one in its if math.isfinite(one.mean)]
    scale = steps(max(ends, default=1.0))
    step = (right - left) / len(positions)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * min(max(value, 0.0), scale[-1]) / scale[-1]

    def x_of(place: int) -> float:
        return left + step * (place + 0.5)

    drawn = [
        Series(
            name,
            css,
            SHAPES[css],
            [
                Point(
                    x_of(place) + (turn - (len(series) - 1) / 2) * 3,  # side by side, or they hide each other
                    y_of(one.mean),
                    y_of(one.low) if math.isfinite(one.high) else None,
                    y_of(one.high) if math.isfinite(one.high) else None,
                )
                for place, one in enumerate(its)
                if math.isfinite(one.mean)
            ],
        )
        for turn, (name, css, its) in enumerate(series)
    ]
    return Lines(
        title,
        description,
        left,
        right,
        top,
        bottom,
        bottom + 40,
        [Tick(x_of(place), words) for place, words in enumerate(positions)],
        [Tick(y_of(value), f"{value:g}") for value in scale],
        x_label,
        y_label,
        drawn,
        Table(title, ["", *positions], [[name, *(words_of(one) for one in its)] for name, _, its in series]),
    )


def reliability(
    title: str,
    description: str,
    series: Sequence[tuple[str, str, Sequence[tuple[float, Interval, float]]]],
    histogram: Sequence[float],
) -> Lines:
    """Curves of (predicted, observed, ratings) over the diagonal, and how often each probability is given."""
    left, right, top, bottom = 40.0, WIDTH - 12, 12.0, 308.0
    floor, base = (
        bottom + 62,
        bottom + 22,
    )  # of the histogram: its lower edge and the top of its highest column

    def x_of(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), 1.0)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * min(max(value, 0.0), 1.0)

    ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    most = max(histogram, default=0.0) or 1.0
    share = (right - left) / max(len(histogram), 1)
    columns = [
        (left + share * place + 0.5, floor - (floor - base) * n / most, share - 1, (floor - base) * n / most)
        for place, n in enumerate(histogram)
    ]
    return Lines(
        title,
        description,
        left,
        right,
        top,
        bottom,
        floor + 22,
        [Tick(x_of(value), f"{value:g}") for value in ticks],
        [Tick(y_of(value), f"{value:g}") for value in ticks],
        "like_probability",
        "share liked",
        [
            Series(
                name,
                css,
                SHAPES[css],
                [
                    Point(
                        x_of(predicted),
                        y_of(observed.mean),
                        y_of(observed.low) if math.isfinite(observed.high) else None,
                        y_of(observed.high) if math.isfinite(observed.high) else None,
                    )
                    for predicted, observed, _ in its
                ],
            )
            for name, css, its in series
        ],
        Table(
            title,
            ["", "mean like_probability", "share liked", "test ratings"],
            [
                [name, number(predicted), words_of(observed), f"{n:,.0f}"]
                for name, _, its in series
                for predicted, observed, n in its
            ],
        ),
        diagonal=True,
        columns=columns,
        columns_label=f"ratings by like_probability; the highest column has {most:,.0f}",
    )


def dots(
    title: str, description: str, rows: Sequence[tuple[str, float, float]], names: tuple[str, str]
) -> Dots:
    """Rows of (label, first value, second value), all from 0 up."""
    left, right = LABELS, WIDTH - 14
    values = [value for _, one, other in rows for value in (one, other) if math.isfinite(value)]
    scale = steps(max(values, default=1.0))

    def at(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), scale[-1]) / scale[-1]

    shown = [row for row in rows if math.isfinite(row[1]) and math.isfinite(row[2])]
    bottom = 4 + ROW * len(shown)
    return Dots(
        title,
        description,
        left,
        right,
        bottom,
        bottom + AXIS,
        [Tick(at(value), f"{100 * value:g} %") for value in scale],
        [
            (shortened(label), 4 + ROW * (place + 0.5), at(one), at(other))
            for place, (label, one, other) in enumerate(shown)
        ],
        names,
        Table(
            title,
            ["", *names],
            [[label, f"{100 * one:.1f} %", f"{100 * other:.1f} %"] for label, one, other in shown],
        ),
    )


def _axis(value: float) -> str:
    """A number beside an axis, with thousands and millions as k and M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def shortened(label: str) -> str:
    """What fits beside a bar; the table has it in full."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise
