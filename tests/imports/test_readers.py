"""Readers: rows out of every format and encoding; what is wrong, and on which line.

All rows are invented.
"""

import gzip
import math
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.catalogue.movies import MovieEntry
from app.errors import InvalidInput
from app.imports import compression, layouts, readers
from app.imports import fields as file_fields
from app.imports.readers import RatingChunk
from app.ratings.batch import UNTIMED
from app.storage.identifiers import clean_id
from tests.imports.files import (
    FLAGS,
    WRITERS,
    Row,
    errors_of,
    movies_of,
    n_rejected,
    recognise,
    rows_of,
    written,
    zipped,
)


@pytest.mark.parametrize("place", [0, 1, 999, 1_998, 1_999])
@pytest.mark.parametrize("name", ["u.data", "ratings.csv", "export", "jsonl"])
def test_a_bad_row_is_reported_with_its_line(
    name: str, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "BLOCK_BYTES", 10_000)
    lines = WRITERS[name]([(str(n % 997), str(n), 3.5, n * 1_000_000) for n in range(2_000)]).split("\n")
    header = int(name in ("ratings.csv", "export"))
    lines[place + header] = lines[place + header].replace("3.5", "x")
    data = recognise(written(tmp_path, "\n".join(lines)))
    assert len(list(data.chunks())) > 1
    [(location, _)] = errors_of(data)
    assert location == f"line {place + header + 1}"
    assert len(rows_of(data)) == 1_999


def test_a_hundred_errors_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    text = "user,movie,rating\n" + "".join(f"{n},1,{3 if n % 2 else 'x'}\n" for n in range(1000))
    data = recognise(written(tmp_path, text))
    assert n_rejected(data) == 500
    assert len(errors_of(data)) == 100
    assert errors_of(data)[99][0] == "line 200"


def test_blank_lines_count_as_lines_but_are_no_rows(tmp_path: Path) -> None:
    data = recognise(written(tmp_path, "\n\nuser,movie,rating\n\n1,1,3\n\n\n1,2,9\n"))
    assert errors_of(data) == [("line 8", "stars must lie between 0.5 and 5, not 9")]
    assert sum(chunk.n_rows for chunk in data.chunks()) == 2


def test_quoted_newlines_span_lines_and_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'movieId,title\n1,"Two\nlines (1999)"\n2,"a ""quoted"", title"\n3,"x\n\ny\nz"\n'
    text += "4,last\n5,one,too many\n"
    for size in (24, 25, 31, 40, 47, 2**20):
        monkeypatch.setattr(compression, "BLOCK_BYTES", size)
        data = recognise(written(tmp_path, text))
        assert [(movie.title, movie.year) for movie in movies_of(data)] == [
            ("Two lines", 1999), ('a "quoted", title', None), ("x y z", None), ("last", None),
        ]  # fmt: skip
        assert errors_of(data) == [("line 10", "2 fields expected, 3 found")]


def test_a_quote_left_open_spoils_its_own_line_only(tmp_path: Path) -> None:
    lines = ["user,movie,rating", '1,"open,3', *(f'2,"{n}",3' if n % 2 else f"2,{n},3" for n in range(300))]
    data = recognise(written(tmp_path, "\n".join(lines)))
    [(location, message)] = errors_of(data)
    assert location == "line 2"
    assert "not valid CSV" in message
    assert len(rows_of(data)) == 300
    data = recognise(written(tmp_path, '1,"a\n'.join(["user,movie,rating\n", ""]) + "2,3,4\n" * 300))
    assert errors_of(data) == [("line 2", "not valid CSV: a quotation mark is opened and not closed")]
    assert len(rows_of(data)) == 300


def test_latin_1_and_windows_lines_are_read_among_utf_8_ones(tmp_path: Path) -> None:
    content = b"movieId,title\n" + "1,Amélie\n".encode() + "2,Léon\n".encode("latin-1") + b"3,It\x92s\n"
    titles = [movie.title for movie in movies_of(recognise(written(tmp_path, content)))]
    assert titles == ["Amélie", "Léon", "It\u2019s"]


def test_u_item(tmp_path: Path) -> None:
    text = (
        f"1|Invented, The (1995)|01-Jan-1996||http://x|{FLAGS}\n"
        f"2|Café|26-Apr-1986||http://x|1|{'|'.join('0' * 18)}\n"
        f"3|unknown||||1|{'|'.join('0' * 18)}\n"
    )
    data = recognise(written(tmp_path, text.encode("latin-1")))
    assert (data.kind, data.format) == ("movies", "u.item")
    assert movies_of(data) == [
        MovieEntry("1", "The Invented", 1995, ("Action", "Children", "Sci-Fi")),
        MovieEntry("2", "Café", 1986, ()),
        MovieEntry("3", "unknown", None, ()),
    ]


def test_movies_dat_movies_csv_and_links_csv(tmp_path: Path) -> None:
    dat = recognise(
        written(tmp_path, "1::Léon (1994)::Children's|Drama\n2::Plain::Drama\n".encode("latin-1"))
    )
    assert movies_of(dat) == [
        MovieEntry("1", "Léon", 1994, ("Children", "Drama")),
        MovieEntry("2", "Plain", None, ("Drama",)),
    ]
    movies = recognise(
        written(
            tmp_path,
            'movieId,title,genres\r\n1,"Matrix, The (1999)",Action|Sci-Fi\r\n2,None yet (2009\u2013 ),'
            "(no genres listed)\r\n3,,\r\n",
        )
    )
    assert movies_of(movies) == [
        MovieEntry("1", "The Matrix", 1999, ("Action", "Sci-Fi")),
        MovieEntry("2", "None yet", 2009, ()),
        MovieEntry("3"),
    ]
    links = recognise(
        written(tmp_path, "movieId,imdbId,tmdbId\n1,0133093,603\n2,tt0133094,\n3,1,603.0\n4,x,1\n")
    )
    assert movies_of(links) == [
        MovieEntry("1", imdb_id="tt0133093", tmdb_id="603"),
        MovieEntry("2", imdb_id="tt0133094"),
        MovieEntry("3", imdb_id="tt0000001", tmdb_id="603"),
    ]
    assert [location for location, _ in errors_of(links)] == ["line 5"]


def test_a_year_column_wins_over_the_title(tmp_path: Path) -> None:
    data = recognise(
        written(tmp_path, 'item,title,year,genre\na,X (1990),1991,"Drama, War"\nb,Y,99,\nc,Z,,\n')
    )
    assert movies_of(data) == [MovieEntry("a", "X", 1991, ("Drama", "War")), MovieEntry("c", "Z")]
    assert errors_of(data) == [("line 3", "year '99' is not between 1870 and 2100")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "1", "movie_id": "2", "stars": "5"}', "stars must be a number"),
        ('{"user_id": "1", "movie_id": "2", "stars": true}', "stars must be a number"),
        ('{"user_id": "1", "movie_id": "2", "stars": null}', "stars is missing"),
        ('{"user_id": "1", "movie_id": "2", "stars": NaN}', "not valid JSON: NaN is no JSON number"),
        ('{"user_id": "1", "movie_id": "2", "stars": 1e999}', "not inf"),
        ('{"user_id": "1", "movie_id": "2", "stars": 1' + "0" * 400 + "}", "not inf"),
        ('{"user_id": true, "movie_id": "2", "stars": 4}', "user id: an id is a string or an integer"),
        ('{"user_id": 1' + "0" * 400 + ', "movie_id": "2", "stars": 4}', "user id: an id has at most 128"),
        ('{"user_id": "\\ud800", "movie_id": "2", "stars": 4}', "lone surrogates"),
        ('{"user_id": "1", "movie_id": {}, "stars": 4}', "movie id: an id is"),
        ('{"user_id": "1", "movie_id": "2", "stars": 4, "rated_at": "soon"}', "time 'soon' is neither"),
        ('{"user_id": "1", "movie_id": "2", "stars": 4, "rated_at": 1e300}', "not within the years"),
        ('{"user_id": "1", "movie_id": "2", "stars": 4, "rated_at": 1582979415250}', "not within the years"),
        ('{"user_id": "1", "movie_id": "2", "stars": 4, "rated_at": false}', "rated_at must be a number"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_json_lines(line: str, message: str, tmp_path: Path) -> None:
    good = '{"user_id": 1, "movie_id": "é", "stars": 4, "rated_at": null, "more": []}\n'
    data = recognise(written(tmp_path, good + line + "\n" + good))
    [(location, error)] = errors_of(data)
    assert location == "line 2"
    assert message in error
    assert rows_of(data) == [("1", "é", 4.0, UNTIMED)] * 2


def reference(text: str) -> tuple[list[Row], list[int]]:
    """Rows and bad lines by the plainest code: split, int, float."""
    rows: list[Row] = []
    bad: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        try:
            user, movie, stars, time = line.split(",")
            value = file_fields.number(stars)
            if not 0.5 <= value <= 5:
                raise ValueError
            rows.append((clean_id(user), clean_id(movie), value, file_fields.instant(time)))
        except ValueError:
            if number > 1:
                bad.append(number)
    return rows, bad


fields = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "1",
            "3",
            "4.5",
            "5",
            "5.5",
            "007",
            "-1",
            "-0",
            "1.0",
            ".",
            "a",
            "NA",
            " 2",
            "9" * 18,
            "9" * 19,
        ]
    ),
    st.integers(0, 10**12).map(str),
    st.floats(0.5, 5).map(repr),
)

lines = st.lists(st.lists(fields, min_size=3, max_size=5).map(",".join), max_size=12)

clean_lines = st.lists(
    st.tuples(st.integers(0, 999), st.integers(0, 999), st.floats(0.5, 5), st.integers(0, 10**9)).map(
        lambda row: ",".join(map(str, row))
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(lines, clean_lines), clean_lines, st.sampled_from([2**21, 128, 200]))
def test_both_readers_read_equal_rows(tmp_path: Path, some: list[str], more: list[str], block: int) -> None:
    text = "\n".join(["user,movie,rating,time", *some, *more])
    expected, bad = reference(text)
    path = written(tmp_path, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "BLOCK_BYTES", block)
        data = recognise(path)
        assert rows_of(data) == expected
        assert [int(location.removeprefix("line ")) for location, _ in errors_of(data)] == bad
        patch.setattr(readers, "read_numbers", lambda *_: None)
        assert rows_of(recognise(path)) == expected
        assert [int(location.removeprefix("line ")) for location, _ in errors_of(data)] == bad


def is_clean(text: str) -> bool:
    try:
        return clean_id(text) == text
    except ValueError:
        return False


# What a `::` or a tab would tear apart has no place in those formats.
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(is_clean)

plain_ids = ids.filter(lambda text: ":" not in text and text.strip() == text and "\u00a0" not in text)

rating_rows = st.lists(
    st.tuples(
        plain_ids, plain_ids, st.floats(0.5, 5), st.integers(-(10**9), 10**10).map(lambda s: s * 1_000_000)
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rating_rows, st.sampled_from(sorted(WRITERS)), st.sampled_from(["plain", "gzip", "zip"]))
def test_rows_written_in_any_format_read_back_equal(
    tmp_path: Path, rows: list[Row], name: str, packing: str
) -> None:
    content = WRITERS[name](rows).encode()
    if packing == "gzip":
        content = gzip.compress(content)
    elif packing == "zip":
        content = zipped({"data": content})
    data = recognise(written(tmp_path, content))
    assert errors_of(data) == []
    assert rows_of(data) == rows


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from(layouts.FORMATS), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, format_: str, headed: bool) -> None:
    if headed:
        content = b"user,movie,rating,title\n" + content
    try:
        data = recognise(written(tmp_path, content), format=format_)
        for _, movie, stars, _ in rows_of(data):
            assert movie
            assert math.isfinite(stars)
    except InvalidInput:
        pass


def test_chunks_can_be_cut_anywhere(tmp_path: Path) -> None:
    text = "user,movie,rating\n" + "".join(f"u,{n},{'x' if n % 3 == 0 else 3}\n" for n in range(20))
    [chunk] = recognise(written(tmp_path, text)).chunks()
    assert isinstance(chunk, RatingChunk)
    pieces = [chunk.batch(start, start + 7) for start in (0, 7, 14)]
    assert [movie for piece in pieces for movie in piece.movie_ids] == [str(n) for n in range(20) if n % 3]
    assert [len(piece) for piece in pieces] == [4, 5, 4]


def test_reading_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    line = b"123456,65432,3.5,1000000000\n"
    squeeze = zlib.compressobj(wbits=31)
    with (tmp_path / "file").open("wb") as file:
        file.write(squeeze.compress(b"userId,movieId,rating,timestamp\n"))
        for _ in range(40):
            file.write(squeeze.compress(line * 50_000))
        file.write(squeeze.flush())
    tracemalloc.start()
    n_rows = sum(chunk.n_rows for chunk in recognise(tmp_path / "file").chunks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_rows == 2_000_000
    assert peak < 60_000_000
