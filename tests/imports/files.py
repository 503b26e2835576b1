"""Invented ratings in every format, and what data files of them hold."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from app.catalogue.movies import MovieEntry
from app.imports import data_file
from app.imports.data_file import DataFile
from app.imports.readers import MovieChunk, RatingChunk
from app.settings import Settings

GIB = 1024**3

Row = tuple[str, str, float, int]

ROWS: list[Row] = [
    ("1", "10", 4.0, 978300760_000_000),
    ("1", "20", 2.5, 978300761_000_000),
    ("2", "10", 5.0, 978300762_000_000),
    ("33", "7", 0.5, 978300763_000_000),
]


def recognise(path: Path, *, unpacked_limit: int = GIB, **options: str) -> DataFile:
    limits = Settings(stars_min=0.5, stars_max=5.0, unpacked_limit=unpacked_limit)
    return data_file.recognise(path, limits, **options)


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

FLAGS = "0|1|0|0|1|0|0|0|0|0|0|0|0|0|0|1|0|0|0"
