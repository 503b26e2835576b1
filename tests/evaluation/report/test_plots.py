"""Positions of the marks of plots, and numbers in words."""

import math

import pytest

from app.evaluation.report import plots
from app.evaluation.report.plots import CalibrationCurve, Curve, Group, Pair, Value
from app.evaluation.tables import ReliabilityBin
from app.learning.evaluation.metrics import Interval


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [
        (0.4166, 3, ".417"),
        (-0.004, 3, "−.004"),
        (2.206, 2, "2.21"),
        (12_345.4, 0, "12,345"),
        (0.0, 0, "0"),
        (math.nan, 3, "–"),
        (None, 3, "–"),
    ],
)
def test_numbers_in_words(value: float | None, digits: int, words: str) -> None:
    assert plots.number(value, digits) == words


def test_intervals_in_words() -> None:
    assert plots.words_of(Interval(0.4, 0.388, 0.412, 5)).split() == [".400", "±", ".012"]
    assert plots.words_of(Interval(0.4, -math.inf, math.inf, 1)) == ".400"
    assert plots.words_of(Interval(0.4, math.nan, math.nan, 1)) == ".400"
    assert plots.words_of(None) == plots.words_of(Interval(math.nan, math.nan, math.nan, 0)) == "–"


@pytest.mark.parametrize("most", [0.0003, 0.04, 0.41, 0.5, 1.0, 2.21, 34_174.0])
def test_axes_have_few_round_steps_and_hold_all(most: float) -> None:
    scale = plots.steps(most)
    assert scale[0] == 0
    assert scale[-1] >= most * (1 - 1e-9)
    assert scale[-2] < most
    assert 3 <= len(scale) <= 6
    assert plots.steps(0.41) == pytest.approx([0, 0.2, 0.4, 0.6])
    assert plots.steps(math.nan) == plots.steps(0.0) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_bars_are_as_long_as_their_values() -> None:
    drawn = plots.bars(
        "t",
        "d",
        [
            Group(
                "first",
                [
                    Value("a", Interval(0.2, 0.1, 0.3, 9), "machine"),
                    Value("b", Interval(math.nan, 0, 0, 0), "x"),
                ],
            ),
            Group("second", [Value("c", Interval(0.4, -math.inf, math.inf, 1), "plain")]),
            Group("empty", []),
        ],
        measure="m",
    )
    assert [bar.label for bar in drawn.bars] == ["a", "c"]
    assert [heading.label for heading in drawn.headings] == ["first", "second"]
    one, other = drawn.bars
    assert (other.end - drawn.left) == pytest.approx(2 * (one.end - drawn.left))
    assert other.end == pytest.approx(drawn.right)
    assert one.low == pytest.approx((drawn.left + one.end) / 2)
    assert (other.low, other.high) == (None, None)
    assert one.y < other.y < drawn.bottom < drawn.height
    assert drawn.table.rows[1] == ["second", "c", ".400"]


def test_on_the_diagonal_predicted_is_observed() -> None:
    values = (0.0, 0.3, 1.0)
    bins = [ReliabilityBin(value, Interval(value, value - 0.1, value + 0.1, 9), 7.0) for value in values]
    drawn = plots.calibration("t", "d", [CalibrationCurve("m", "machine", bins)], [1, 0, 4])
    for point, value in zip(drawn.series[0].points, values, strict=True):
        assert point.x == pytest.approx(drawn.left + value * (drawn.right - drawn.left))
        assert point.y == pytest.approx(drawn.bottom - value * (drawn.bottom - drawn.top))
        assert point.low is not None
        assert point.high is not None
        assert drawn.top <= point.high <= point.y <= point.low <= drawn.bottom
    heights = [column.height for column in drawn.columns]
    assert heights[0] == pytest.approx(heights[2] / 4)
    assert heights[1] == 0
    assert len({column.y + column.height for column in drawn.columns}) == 1
    assert drawn.table.rows[1] == ["m", ".300", ".300\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}.100", "7"]


def test_lines_leave_out_missing_figures() -> None:
    curves = [Curve("m", "machine", [Interval(0.2, 0.1, 0.3, 5), Interval(math.nan, 0, 0, 0)])]
    drawn = plots.lines("t", "d", ["1", "3"], curves, x_label="x", y_label="y")
    (point,) = drawn.series[0].points
    assert drawn.left < point.x < drawn.x_ticks[1].at
    assert drawn.series[0].path.count("L") == 0
    assert drawn.table.rows == [["m", ".200\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}.100", "–"]]


def test_long_labels_are_cut_in_the_plot_only() -> None:
    drawn = plots.dots("t", "d", [Pair("x" * 40, 0.1, 0.2), Pair("none", math.nan, 0.1)], ("one", "other"))
    (row,) = drawn.rows
    assert len(row.label) == plots.LONGEST_LABEL
    assert drawn.left < row.first < row.second <= drawn.right
    assert drawn.table.rows == [["x" * 40, "10.0 %", "20.0 %"]]
