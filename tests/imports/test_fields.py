"""Fields: ids, stars, times and titles as files spell them."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.imports import fields as file_fields
from app.ratings.batch import UNTIMED
from app.storage.identifiers import clean_id
from app.storage.tables import to_microseconds
from tests.imports.files import errors_of, recognise, rows_of, written


def test_times_are_seconds_or_iso_and_may_be_missing(tmp_path: Path) -> None:
    moment = to_microseconds(datetime(2020, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC))
    text = "user,movie,rating,time\n" + "".join(
        f"u,m{number},4,{time}\n"
        for number, time in enumerate(
            [
                "", "0", "-1.5", "1582979415.25", "2020-02-29T12:30:15.250Z", "2020-02-29 12:30:15.25",
                "2020-02-29T14:30:15.250+02:00", "2020-02-29",
            ]
        )
    )  # fmt: skip
    times = [row[3] for row in rows_of(recognise(written(tmp_path, text)))]
    day = to_microseconds(datetime(2020, 2, 29, tzinfo=UTC))
    assert times == [UNTIMED, 0, -1_500_000, moment, moment, moment, moment, day]


@pytest.mark.parametrize(
    ("stars", "message"),
    [
        ("", "stars are missing"),
        ("NA", "stars 'NA' are not a number"),
        ("null", "not a number"),
        ("nan", "not a number"),
        ("inf", "not a number"),
        ("True", "not a number"),
        ("1_0", "not a number"),
        ("0x4", "not a number"),
        ("٤", "not a number"),
        ("4,0", "4 fields expected, 5 found"),
        ("1e999", "must lie between 0.5 and 5, not inf"),
        ("-1", "not -1"),
        ("5.01", "not 5.01"),
        ("0", "not 0"),
        ("1.2.3", "not a number"),
        ("..", "not a number"),
    ],
)
def test_stars_that_are_none_are_refused(stars: str, message: str, tmp_path: Path) -> None:
    data = recognise(written(tmp_path, f"user,movie,rating,time\n1,1,4,9\n1,2,{stars},9\n1,3,4,9\n"))
    [(location, error)] = errors_of(data)
    assert location == "line 3"
    assert message in error
    assert [row[1] for row in rows_of(data)] == ["1", "3"]


@pytest.mark.parametrize("stars", ["4", "4.", " 4 ", "+4", "4.0000", "04", "4e0", "40E-1"])
def test_stars_may_be_spelled_in_several_ways(stars: str, tmp_path: Path) -> None:
    assert rows_of(recognise(written(tmp_path, f"user,movie,rating\n1,2,{stars}\n")))[0][2] == 4.0


@pytest.mark.parametrize(
    "time",
    ["yesterday", "now", "NaT", "1582979415250", "1e9", "99999999999999999999999", "2020-13-01", "True"],
)
def test_times_that_are_none_are_refused(time: str, tmp_path: Path) -> None:
    data = recognise(written(tmp_path, f"user,movie,rating,time\n1,1,4,{time}\n1,2,4,9\n"))
    [(location, message)] = errors_of(data)
    assert location == "line 2"
    assert message.startswith(f"time '{time[:39]}")


@pytest.mark.parametrize(
    "line",
    [
        b"\t5\t3\t9", b"a/b\t5\t3\t9", b"..\t5\t3\t9", b"x" * 129 + b"\t5\t3\t9", b"a\x01\t5\t3\t9",
        b"5\t\x00\t3\t9", b"5\t5\t3", b"5\t5\t3\t9\t9", b"5", b" ",
    ],
)  # fmt: skip
def test_bad_ids_and_wrong_numbers_of_fields_are_row_errors(line: bytes, tmp_path: Path) -> None:
    data = recognise(written(tmp_path, b"1\t1\t3\t9\n2\t2\t4\t9\n" + line + b"\n"))
    assert [location for location, _ in errors_of(data)] == ["line 3"]
    assert len(rows_of(data)) == 2


def test_ids_come_back_exactly(tmp_path: Path) -> None:
    ids = [
        "007",
        "0",
        "-0",
        "1.0",
        "NA",
        "null",
        "nan",
        "True",
        "1e5",
        " a",
        "é",
        "9" * 30,
        "9223372036854775808",
        "+1",
    ]
    text = "user,movie,rating\n" + "".join(f"{id_},{id_},3\n" for id_ in ids)
    assert [row[:2] for row in rows_of(recognise(written(tmp_path, text)))] == [(id_, id_) for id_ in ids]
    # Each by itself, so that no other id keeps the block from the path of pure numbers.
    for id_ in ids:
        data = recognise(written(tmp_path, f"user,movie,rating\n{id_},5,3\n5,{id_},3\n"))
        assert [row[:2] for row in rows_of(data)] == [(id_, "5"), ("5", id_)]


def test_ids_are_stored_in_nfc(tmp_path: Path) -> None:
    rows = rows_of(recognise(written(tmp_path, "user,movie,rating\ne\u0301,1,3\n\u00e9,2,3\n")))
    assert [row[0] for row in rows] == ["\u00e9", "\u00e9"]


@pytest.mark.parametrize(
    ("written_as", "title", "year"),
    [
        ("Matrix, The (1999)", "The Matrix", 1999),
        ("Lord of the Rings: The Two Towers, The (2002)", "The Lord of the Rings: The Two Towers", 2002),
        ("City of Lost Children, The (Cité des enfants perdus, La) (1995)",
         "The City of Lost Children (La Cité des enfants perdus)", 1995),
        ("Queen Margot (Reine Margot, La) (1994)", "Queen Margot (La Reine Margot)", 1994),
        ("Seven (a.k.a. Se7en) (1995)", "Seven (a.k.a. Se7en)", 1995),
        ("Hidden Hand, The (a.k.a. Hand, The) (1960)", "The Hidden Hand (a.k.a. The Hand)", 1960),
        ("Enfer, L' (1994)", "L'Enfer", 1994),
        ("Maybe, Maybe Not (Bewegte Mann, Der) (1994)", "Maybe, Maybe Not (Der Bewegte Mann)", 1994),
        ("Bye Bye, Love (1995)", "Bye Bye, Love", 1995),
        ("Shadow and Light (1996) ", "Shadow and Light", 1996),
        ("Time of Giving (1995) (V)", "Time of Giving", 1995),
        ("Babylon (1993-1998) (TV)", "Babylon", 1993),
        ("Going On (2016\u2013)", "Going On", 2016),
        ("2001 (1968)", "2001", 1968),
        ("1984 (1984)", "1984", 1984),
        ("(1995)", "(1995)", None),
        ("Far Future (3001)", "Far Future (3001)", None),
        ("Half (open (1995", "Half (open (1995", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_titles_are_written_as_people_say_them(written_as: str, title: str, year: int | None) -> None:
    assert file_fields.title(written_as) == (title, year)


def test_titles_with_control_characters_or_without_end_are_refused() -> None:
    assert file_fields.title("a\tb\nc") == ("a b c", None)
    with pytest.raises(ValueError, match="control characters"):
        file_fields.title("a\x07b")
    with pytest.raises(ValueError, match="more than 1000"):
        file_fields.title("a" * 1001)


@pytest.mark.parametrize(
    ("scale", "marks", "stars"),
    [
        ("", [0.5, 3.7, 5], [0.5, 3.7, 5]),
        ("10", [1, 2, 7, 9, 10], [0.5, 1, 3.5, 4.5, 5]),
        ("100", [0, 50, 100], [0.5, 2.75, 5]),
        ("0 - 20", [0, 10, 20], [0.5, 2.75, 5]),
        ("1-5", [1, 3, 5], [0.5, 2.75, 5]),
        ("0-0.7", [0, 0.7], [0.5, 5]),
    ],
)
def test_marks_of_other_scales_become_stars(
    scale: str, marks: list[float], stars: list[float], tmp_path: Path
) -> None:
    numbers = "".join(f"1,{n},{mark}\n" for n, mark in enumerate(marks))
    for ids in (numbers, numbers.replace("1,", "a,", 1)):  # clean numbers, and text, are read by other ways
        data = recognise(written(tmp_path, "user,movie,rating\n" + ids), scale=scale)
        assert [row[2] for row in rows_of(data)] == stars
    objects = "".join(json.dumps({"user_id": 1, "movie_id": 1, "stars": mark}) + "\n" for mark in marks)
    assert [row[2] for row in rows_of(recognise(written(tmp_path, objects), scale=scale))] == stars


def test_marks_outside_the_scale_are_bad_rows(tmp_path: Path) -> None:
    data = recognise(written(tmp_path, "user,movie,rating\n1,1,0\n1,2,11\n1,3,10\n"), scale="10")
    assert [row[1:3] for row in rows_of(data)] == [("3", 5.0)]
    assert errors_of(data)[0] == ("line 2", "stars must lie between 1 and 10, not 0")
    for wrong in ("7", "5-1", "a-b", "-1-1", "1-"):
        with pytest.raises(InvalidInput, match="LOW-HIGH") as caught:
            file_fields.parse_scale(wrong)
        assert caught.value.errors[0].location == "scale"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=140))
def test_the_quick_look_at_ids_agrees_with_the_rule(text: str) -> None:
    try:
        expected = clean_id(text)
    except ValueError:
        with pytest.raises(ValueError, match="user id: "):
            file_fields.user_id(text)
    else:
        assert file_fields.user_id(text) == expected
