"""Recognising and reading files: every format, packing and encoding; what is wrong, and on which line.

All rows are invented; the real MovieLens set is read where it lies, if it does (`test_imports.py`).
"""

import bz2
import csv
import gzip
import io
import json
import math
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import file_fields, packed_files, rating_files
from app.catalogue import MovieEntry
from app.errors import InvalidInput, TooLarge
from app.identifiers import clean_id
from app.rating_files import DataFile, MovieChunk, RatingChunk
from app.ratings import UNTIMED
from app.tables import to_microseconds

GIB = 1024**3
Row = tuple[str, str, float, int]

ROWS: list[Row] = [
    ("1", "10", 4.0, 978300760_000_000),
    ("1", "20", 2.5, 978300761_000_000),
    ("2", "10", 5.0, 978300762_000_000),
    ("33", "7", 0.5, 978300763_000_000),
]


def recognise(path: Path, **options: object) -> DataFile:
    limits: dict[str, object] = {"stars_min": 0.5, "stars_max": 5.0, "unpacked_limit": GIB}
    return rating_files.recognise(path, **(limits | options))  # type: ignore[arg-type]


def rows_of(data: DataFile) -> list[Row]:
    rows: list[Row] = []
    for chunk in data.chunks():
        if isinstance(chunk, RatingChunk):
            batch = chunk.batch(0, chunk.n_rows)
            users = [batch.user_ids[code] for code in batch.user_codes.tolist()]
            movies = [batch.movie_ids[code] for code in batch.movie_codes.tolist()]
            rows += zip(users, movies, batch.stars.tolist(), batch.rated_at.tolist(), strict=True)
    return rows


def movies_of(data: DataFile) -> list[MovieEntry]:
    return [
        entry
        for chunk in data.chunks()
        if isinstance(chunk, MovieChunk)
        for entry in chunk.batch(0, chunk.n_rows)
    ]


def errors_of(data: DataFile) -> list[tuple[str, str]]:
    return [(error.location, error.message) for chunk in data.chunks() for error in chunk.errors]


def n_rejected(data: DataFile) -> int:
    return sum(chunk.n_rejected for chunk in data.chunks())


def written(tmp_path: Path, content: str | bytes, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zipped(members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# Writers: the rows in every format. Seconds, because most formats know no more.


def u_data(rows: list[Row]) -> str:
    return "".join(f"{u}\t{m}\t{s!r}\t{t // 1_000_000}\n" for u, m, s, t in rows)


def ratings_dat(rows: list[Row]) -> str:
    return "".join(f"{u}::{m}::{s!r}::{t // 1_000_000}\n" for u, m, s, t in rows)


def table(header: list[str], delimiter: str, quoting: int) -> Callable[[list[Row]], str]:
    def write(rows: list[Row]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\n")  # type: ignore[arg-type]
        writer.writerow(header)
        writer.writerows((u, m, repr(s), t // 1_000_000) for u, m, s, t in rows)
        return text.getvalue()

    return write


def export(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["user_id", "movie_id", "stars", "rated_at"])
    writer.writerows(
        (u, m, repr(s), datetime.fromtimestamp(t // 1_000_000, UTC).isoformat()) for u, m, s, t in rows
    )
    return text.getvalue()


def json_lines(rows: list[Row]) -> str:
    return "".join(
        json.dumps({"user_id": u, "movie_id": m, "stars": s, "rated_at": t // 1_000_000}) + "\n"
        for u, m, s, t in rows
    )


WRITERS: dict[str, Callable[[list[Row]], str]] = {
    "u.data": u_data,
    "ratings.dat": ratings_dat,
    "ratings.csv": table(["userId", "movieId", "rating", "timestamp"], ",", csv.QUOTE_MINIMAL),
    "tsv": table(["uid", "item_id", "Score", "Time"], "\t", csv.QUOTE_MINIMAL),
    "semicolons": table(["USER", "Movie", "stars", "date"], ";", csv.QUOTE_NONNUMERIC),
    "quoted": table(["user id", "film-id", "rating", "datetime"], ",", csv.QUOTE_ALL),
    "export": export,
    "jsonl": json_lines,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_recognised_by_its_content_and_read(name: str, tmp_path: Path) -> None:
    data = recognise(written(tmp_path, WRITERS[name](ROWS)))
    assert data.kind == "ratings"
    assert data.format == (name if name in rating_files.FORMATS else "csv")
    assert rows_of(data) == ROWS
    assert errors_of(data) == []
    assert rows_of(data) == ROWS, "a second pass says the same"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.rstrip("\r\n").encode(),
        lambda text: text.replace("\r\n", "\n").replace("\n", "\r\n").encode(),
        lambda text: text.replace("\r\n", "\n").replace("\n", "\r\n").rstrip("\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: (text + "\n\r\n\n").encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: gzip.compress(text[:20].encode()) + gzip.compress(text[20:].encode()),
        lambda text: zipped({"folder/": b"", "folder/any.name": text.encode()}),
        lambda text: zipped({"a": text.encode()}, compression=zipfile.ZIP_STORED),
    ],
    ids=[
        "no final newline",
        "CRLF",
        "CRLF cut",
        "BOM",
        "blank lines",
        "gzip",
        "gzip members",
        "zip",
        "stored zip",
    ],
)
def test_packing_and_line_ends_change_nothing(
    name: str, change: Callable[[str], bytes], tmp_path: Path
) -> None:
    data = recognise(written(tmp_path, change(WRITERS[name](ROWS))))
    assert rows_of(data) == ROWS
    assert errors_of(data) == []


def test_columns_may_stand_in_any_order_and_others_are_passed_over(tmp_path: Path) -> None:
    text = ',rating,note,movieId,user,userId\n0,4,good,10,Ann,1\n1,3.5,"so, so",20,Bob,2\n'
    assert rows_of(recognise(written(tmp_path, text))) == [
        ("1", "10", 4.0, UNTIMED),
        ("2", "20", 3.5, UNTIMED),
    ]


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
    [(location, found)] = errors_of(data)
    assert location == "line 3"
    assert message in found
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
    text = "user,movie,rating\n" + "".join(f"{one},{one},3\n" for one in ids)
    assert [row[:2] for row in rows_of(recognise(written(tmp_path, text)))] == [(one, one) for one in ids]
    # The same one by one, so that no other id keeps the block from the path of pure numbers.
    for one in ids:
        data = recognise(written(tmp_path, f"user,movie,rating\n{one},5,3\n5,{one},3\n"))
        assert [row[:2] for row in rows_of(data)] == [(one, "5"), ("5", one)]


def test_ids_are_stored_in_nfc(tmp_path: Path) -> None:
    rows = rows_of(recognise(written(tmp_path, "user,movie,rating\ne\u0301,1,3\n\u00e9,2,3\n")))
    assert [row[0] for row in rows] == ["\u00e9", "\u00e9"]


@pytest.mark.parametrize("place", [0, 1, 59_999, 119_998, 119_999])
@pytest.mark.parametrize("name", ["u.data", "ratings.csv", "export", "jsonl"])
def test_one_bad_row_is_found_on_its_line(name: str, place: int, tmp_path: Path) -> None:
    lines = WRITERS[name]([(str(n % 997), str(n), 3.5, n * 1_000_000) for n in range(120_000)]).split("\n")
    header = int(name in ("ratings.csv", "export"))
    lines[place + header] = lines[place + header].replace("3.5", "x")
    data = recognise(written(tmp_path, "\n".join(lines)))
    assert len(list(data.chunks())) > 1
    [(location, _)] = errors_of(data)
    assert location == f"line {place + header + 1}"
    assert len(rows_of(data)) == 119_999


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
        monkeypatch.setattr(packed_files, "BLOCK_BYTES", size)
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


FLAGS = "0|1|0|0|1|0|0|0|0|0|0|0|0|0|0|1|0|0|0"


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


# JSON lines.


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
    [(location, found)] = errors_of(data)
    assert location == "line 2"
    assert message in found
    assert rows_of(data) == [("1", "é", 4.0, UNTIMED)] * 2


# What is no rating file.


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


def test_a_format_that_is_given_is_believed(tmp_path: Path) -> None:
    data = recognise(written(tmp_path, "x\ty\n1\t2\t3\t4\n"), format="u.data")
    assert errors_of(data) == [("line 1", "4 fields expected, 2 found")]
    assert rows_of(data) == [("1", "2", 3.0, 4_000_000)]
    with pytest.raises(InvalidInput, match="no known format"):
        recognise(written(tmp_path, u_data(ROWS)), format="csv")


# Columns and scales that nobody can guess.


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
        rating_files.parse_columns(columns)
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
            rating_files.parse_scale(wrong)
        assert caught.value.errors[0].location == "scale"


# Packed files.


def test_a_movielens_zip_gives_movies_before_ratings(tmp_path: Path) -> None:
    content = zipped(
        {
            "ml/README.txt": b"text",
            "ml/ratings.csv": WRITERS["ratings.csv"](ROWS).encode() + b"1,1,x,1\n",
            "ml/tags.csv": b"userId,movieId,tag,timestamp\n1,1,t,1\n",
            "ml/links.csv": b"movieId,imdbId,tmdbId\n10,1,2\n",
            "ml/movies.csv": b"movieId,title,genres\n10,Ten (2002),Drama\n",
            "__MACOSX/ml/._ratings.csv": b"\x00\x05",
            "ml/.hidden": b"",
        }
    )
    path = written(tmp_path, content)
    data = recognise(path)
    assert (data.kind, data.format) == ("movies+ratings", "csv")
    assert [part.member for part in data.parts] == ["links.csv", "movies.csv", "ratings.csv"]
    assert [type(chunk) for chunk in data.chunks()] == [MovieChunk, MovieChunk, RatingChunk]
    assert rows_of(data) == ROWS
    assert errors_of(data)[0][0] == "ratings.csv line 6"
    fractions = [chunk.fraction for chunk in data.chunks()]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert recognise(path, kind="movies").kind == "movies"
    assert recognise(path, kind="ratings").kind == "ratings"


def test_the_100k_zip_is_read_once_and_not_in_all_its_splits(tmp_path: Path) -> None:
    ratings = u_data(ROWS).encode()
    item = f"1|Invented (1995)|01-Jan-1995||http://x|{FLAGS}\n".encode()
    members = {
        "ml-100k/u1.base": ratings,
        "ml-100k/u.data": ratings,
        "ml-100k/u.item": item,
        "ml-100k/ua.test": ratings,
    }
    path = written(tmp_path, zipped(members))
    data = recognise(path)
    assert data.format == "u.data+u.item"
    assert rows_of(data) == ROWS
    assert recognise(path, format="u.item").kind == "movies"


def test_a_broken_member_of_a_movielens_zip_is_not_passed_over(tmp_path: Path) -> None:
    content = zipped({"ratings.csv": b"what,is,this\n", "movies.csv": b"movieId,title,genres\n1,One,Drama\n"})
    with pytest.raises(InvalidInput, match=r"ratings\.csv in the zip: The content is in no known format"):
        recognise(written(tmp_path, content))


@pytest.mark.parametrize("pack", [gzip.compress, lambda content: zipped({"ratings.csv": content})])
def test_packed_bombs_are_refused_in_bounded_memory(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = b"userId,movieId,rating\n" + b"1,1,1\n" * 5_000_000
    path = written(tmp_path, pack(content))
    assert path.stat().st_size < len(content) / 300
    del content
    tracemalloc.start()
    with pytest.raises(TooLarge, match="HARMONIUM_UNPACKED_LIMIT"):
        for _ in recognise(path, unpacked_limit=10_000_000).chunks():
            pass
    assert tracemalloc.get_traced_memory()[1] < 90_000_000
    tracemalloc.stop()


def test_a_file_of_one_endless_line_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(b"userId,movieId,rating\n" + b"1" * 50_000_000))
    with pytest.raises(InvalidInput, match="longer than 2 MiB"):
        list(recognise(path).chunks())


def test_a_zip_cannot_lie_about_its_sizes(tmp_path: Path) -> None:
    content = bytearray(zipped({"ratings.csv": b"userId,movieId,rating\n" + b"1,1,1\n" * 100_000}))
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (100).to_bytes(4, "little")  # the unpacked size in the directory
    with pytest.raises(InvalidInput, match="cannot be unpacked"):
        list(recognise(written(tmp_path, bytes(content)), unpacked_limit=1000).chunks())
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = (2**31).to_bytes(4, "little")  # the size of the directory
    with pytest.raises(InvalidInput):
        recognise(written(tmp_path, bytes(content)))


def test_torn_and_flipped_packed_files_are_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    text = WRITERS["ratings.csv"](
        [(str(n), str(n * 7 % 1000), 3.5, n * 1_000_000) for n in range(5000)]
    ).encode()
    for packed in (gzip.compress(text), zipped({"ratings.csv": text})):
        for cut in (3, 10, 100, len(packed) // 2, len(packed) - 1):
            with pytest.raises(InvalidInput):
                list(recognise(written(tmp_path, packed[:cut])).chunks())
        for place in [
            *range(60),
            *range(60, len(packed), len(packed) // 97),
            *range(len(packed) - 120, len(packed)),
        ]:
            flipped = bytearray(packed)
            flipped[place] ^= 0xFF
            try:
                rows = rows_of(recognise(written(tmp_path, bytes(flipped))))
            except (InvalidInput, TooLarge):
                continue
            assert len(rows) == 5000, "a flip in a time stamp or a comment does no harm"


# The ways through the reader agree.


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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(lines, clean_lines), clean_lines, st.sampled_from([2**21, 128, 200]))
def test_every_way_through_the_reader_reads_the_same(
    tmp_path: Path, some: list[str], more: list[str], block: int
) -> None:
    text = "\n".join(["user,movie,rating,time", *some, *more])
    expected, bad = reference(text)
    path = written(tmp_path, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_files, "BLOCK_BYTES", block)
        data = recognise(path)
        assert rows_of(data) == expected
        assert [int(location.removeprefix("line ")) for location, _ in errors_of(data)] == bad
        patch.setattr(rating_files._Reader, "numeric_ratings", lambda *_: None)
        assert rows_of(recognise(path)) == expected
        patch.setattr(rating_files, "_rectangle", lambda *_: None)
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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from(rating_files.FORMATS), st.booleans())
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
    assert [one for piece in pieces for one in piece.movie_ids] == [str(n) for n in range(20) if n % 3]
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
