"""Packed files: gzip, zips of several files, torn ones and bombs."""

import gzip
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import InvalidInput, TooLarge
from app.imports.readers import MovieChunk, RatingChunk
from tests.imports.files import FLAGS, ROWS, WRITERS, errors_of, recognise, rows_of, u_data, written, zipped


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
