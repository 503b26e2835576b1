"""Layouts: recognised by content, with columns of any name; what is no known format."""

import bz2
import zipfile
from pathlib import Path

import pytest

from app.errors import InvalidInput
from app.imports import layouts
from app.ratings.batch import UNTIMED
from tests.imports.files import (
    ROWS,
    WRITERS,
    errors_of,
    recognise,
    rows_of,
    u_data,
    written,
    zipped,
)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_recognised_by_its_content_and_read(name: str, tmp_path: Path) -> None:
    data = recognise(written(tmp_path, WRITERS[name](ROWS)))
    assert data.kind == "ratings"
    assert data.format == (name if name in layouts.FORMATS else "csv")
    assert rows_of(data) == ROWS
    assert errors_of(data) == []
    assert rows_of(data) == ROWS, "a second pass says the same"


def test_columns_may_stand_in_any_order_and_others_are_passed_over(tmp_path: Path) -> None:
    text = ',rating,note,movieId,user,userId\n0,4,good,10,Ann,1\n1,3.5,"so, so",20,Bob,2\n'
    assert rows_of(recognise(written(tmp_path, text))) == [
        ("1", "10", 4.0, UNTIMED),
        ("2", "20", 3.5, UNTIMED),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "1,10,4,978300760\n1,20,3,978300761\n",
        "1 10 4 978300760\n",
        "userId,movieId,tag,timestamp\n1,2,funny,3\n",
        "a,b,c\n1,2,3\n",
        "Dear reader,\nthis is no table.\n",
        '[{"user_id": "1"}]',
        "<html></html>",
        "1|24|M|technician|85711\n",
        "1::F::1::10::48067\n",
        b"\x89PNG\r\n\x1a\n\x00\x00",
        bz2.compress(b"userId,movieId,rating\n1,1,1\n"),
    ],
)
def test_unknown_content_is_refused_with_its_first_line_and_the_formats(
    content: str | bytes, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput) as caught:
        recognise(written(tmp_path, content))
    first = (content.encode() if isinstance(content, str) else content).split(b"\n")[0]
    assert first[:6].decode("latin-1").strip("\r")[1:4] in caught.value.detail
    assert "u.item" in caught.value.detail
    assert len(caught.value.detail) < 700


def test_other_refusals_say_what_to_do(tmp_path: Path) -> None:
    text = "userId,movieId,rating\n1,1,1\n"
    for content, message in (
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n\n", "empty"),
        (text.encode("utf-16"), "UTF-16"),
        (b"user,movie,rating,rating\n1,2,3,4\n", "two columns"),
        (zipped({}), "holds no file"),
        (zipped({f"{n}.txt": b"x" for n in range(101)}), "too many files"),
        (zipped({"a.txt": b"x", "b.txt": b"y"}), "no file of ratings or movies"),
        (zipped({"a.csv": text.encode()}, compression=zipfile.ZIP_BZIP2), "Use deflate"),
    ):
        with pytest.raises(InvalidInput, match=message):
            recognise(written(tmp_path, content))
    path = written(tmp_path, text)
    with pytest.raises(InvalidInput, match="holds ratings, not movies"):
        recognise(path, kind="movies")
    with pytest.raises(InvalidInput, match="no kind"):
        recognise(path, kind="songs")
    with pytest.raises(InvalidInput, match="no format"):
        recognise(path, format="xlsx")
    with pytest.raises(InvalidInput, match="There is no file"):
        recognise(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="There is no file"):
        recognise(tmp_path)


def test_a_format_that_the_sender_states_is_believed(tmp_path: Path) -> None:
    data = recognise(written(tmp_path, "x\ty\n1\t2\t3\t4\n"), format="u.data")
    assert errors_of(data) == [("line 1", "4 fields expected, 2 found")]
    assert rows_of(data) == [("1", "2", 3.0, 4_000_000)]
    with pytest.raises(InvalidInput, match="no known format"):
        recognise(written(tmp_path, u_data(ROWS)), format="csv")


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_columns_may_be_named(delimiter: str, tmp_path: Path) -> None:
    text = "when,Who?,what,Mark,user\n9,1,10,4,x\n8,2,20,2.5,y\n".replace(",", delimiter)
    path = written(tmp_path, text)
    with pytest.raises(InvalidInput, match="no known format"):
        recognise(path)
    data = recognise(path, columns="user=Who?, movie=what,stars=mark,time=when")
    assert data.format == "csv"
    assert rows_of(data) == [("1", "10", 4.0, 9_000_000), ("2", "20", 2.5, 8_000_000)]


def test_a_named_column_comes_before_the_spelling_of_another(tmp_path: Path) -> None:
    path = written(tmp_path, "userId,movieId,rating,score\n1,10,9,4\n")
    assert rows_of(recognise(path, columns="stars=score"))[0][:3] == ("1", "10", 4.0)
    # The column that spells a user is a movie here, so that it is no user any more.
    swapped = recognise(path, columns="user=movieId,movie=userId,stars=score")
    assert rows_of(swapped)[0][:3] == ("10", "1", 4.0)


def test_members_of_json_lines_may_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, '{"u": 1, "film": "x", "stars": 3, "rated_at": 9}\n{"u": 2, "film": "y"}\n')
    data = recognise(path, columns="user=u,movie=film")
    assert rows_of(data) == [("1", "x", 3.0, 9_000_000)]
    assert errors_of(data) == [("line 2", "stars is missing")]
    with pytest.raises(InvalidInput, match="not title"):
        recognise(path, columns="title=t")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("user", "'user' is not like user=uid"),
        ("user=", "'user=' is not like user=uid"),
        ("users=uid", "there is no 'users'; before the = stands one of user, movie, stars, time"),
        ("user=a,user=b", "'user' occurs twice"),
        ("user=a,movie=a", "'a' occurs twice"),
    ],
)
def test_columns_wrongly_written_are_refused(columns: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        layouts.parse_columns(columns)
    assert message in caught.value.detail
    assert caught.value.errors[0].location == "columns"


def test_columns_that_are_not_there_are_named_with_those_that_are(tmp_path: Path) -> None:
    path = written(tmp_path, "who,what,mark\n1,10,4\n")
    with pytest.raises(InvalidInput, match=r"no column 'uid'; its columns are 'who', 'what', 'mark'"):
        recognise(path, columns="user=uid,movie=what,stars=mark")
    with pytest.raises(InvalidInput, match="neither ratings"):
        recognise(path, columns="user=who")
    with pytest.raises(InvalidInput, match=r"columns of u\.data are known"):
        recognise(written(tmp_path, u_data(ROWS)), columns="user=who", format="u.data")
