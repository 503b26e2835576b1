"""Fetching MovieLens from a local server; all ratings and titles are invented."""

import hashlib
import io
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.demo.movielens import SETS, FetchFailed, fetch, licence_notice
from app.errors import InvalidInput


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


SMALL = zip_of(
    {
        "ml-latest-small/README.txt": b"Invented for a test.\n",
        "ml-latest-small/movies.csv": b"movieId,title,genres\n1,Invented Film (2001),Drama\n",
        "ml-latest-small/ratings.csv": b"userId,movieId,rating,timestamp\n7,1,4.0,1000000000\n" * 500,
        "ml-latest-small/links.csv": b"movieId,imdbId,tmdbId\n1,0000001,1\n",
    }
)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


Answer = Callable[[BaseHTTPRequestHandler], None]


def send(content: bytes, *, length: int | None = None, status: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length != -1:
            handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def redirect(location: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@dataclass
class Server:
    """Gives the answers that a test sets, and records the paths of the requests."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requested: list[str] = field(default_factory=list)

    def publish(self, archive: str, content: bytes, checksum: str | None = None) -> None:
        self.answers[f"/data/{archive}"] = send(content)
        text = f"MD5 ({archive}) = {md5(content)}\n" if checksum is None else checksum
        self.answers[f"/data/{archive}.md5"] = send(text.encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name is http.server's
            known.requested.append(self.path)
            known.answers.get(self.path, send(b"no such file", status=404))(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Tests stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        known = Server(f"http://127.0.0.1:{listening.server_address[1]}/data/")
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield known
        listening.shutdown()
        thread.join()


def test_a_set_is_fetched_verified_and_kept_with_its_checksum(server: Server, tmp_path: Path) -> None:
    server.publish("ml-latest-small.zip", SMALL)
    seen: list[tuple[int, int | None]] = []
    folder = tmp_path / "not" / "there yet"

    path = fetch(
        "small", folder, base_url=server.url, on_progress=lambda done, total: seen.append((done, total))
    )

    assert path == folder / "ml-latest-small.zip"
    assert path.read_bytes() == SMALL
    assert sorted(file.name for file in folder.iterdir()) == [
        "ml-latest-small.zip",
        "ml-latest-small.zip.md5",
    ]
    assert seen[0] == (0, len(SMALL))
    assert seen[-1] == (len(SMALL), len(SMALL))


@pytest.mark.parametrize(
    "form",
    [
        "MD5 (ml-100k.zip) = {md5}\n",
        "{md5}  ml-100k.zip\n",
        "{md5} *ml-100k.zip\r\n",
        "{md5}\n",
        "\n{MD5}  ml-100k.zip",
    ],
)
def test_the_checksum_is_read_in_every_usual_form(server: Server, tmp_path: Path, form: str) -> None:
    server.publish("ml-100k.zip", SMALL, form.format(md5=md5(SMALL), MD5=md5(SMALL).upper()))
    assert fetch("100k", tmp_path, base_url=server.url).read_bytes() == SMALL


def test_a_base_url_needs_no_slash_at_its_end(server: Server, tmp_path: Path) -> None:
    server.publish("ml-1m.zip", SMALL)
    assert fetch("1m", tmp_path, base_url=server.url.rstrip("/")).is_file()


def test_without_a_length_the_progress_has_no_total(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)
    server.answers["/data/ml-100k.zip"] = send(SMALL, length=-1)
    totals: set[int | None] = set()
    fetch("100k", tmp_path, base_url=server.url, on_progress=lambda done, total: totals.add(total))
    assert totals == {None}


def test_a_verified_set_is_used_again_without_the_network(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)
    first = fetch("100k", tmp_path, base_url=server.url)
    server.requested.clear()
    assert fetch("100k", tmp_path, base_url=server.url) == first
    assert server.requested == []


def test_an_archive_put_there_by_hand_only_needs_its_checksum(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)
    (tmp_path / "ml-100k.zip").write_bytes(SMALL)
    fetch("100k", tmp_path, base_url=server.url)
    assert server.requested == ["/data/ml-100k.zip.md5"]
    fetch("100k", tmp_path, base_url=server.url)
    assert server.requested == ["/data/ml-100k.zip.md5"]


@pytest.mark.parametrize("kept", ["", "not a checksum", "äöü"])
def test_an_archive_damaged_on_disk_is_fetched_again(server: Server, tmp_path: Path, kept: str) -> None:
    server.publish("ml-100k.zip", SMALL)
    path = fetch("100k", tmp_path, base_url=server.url)
    path.write_bytes(SMALL[:-1])
    if kept:
        (tmp_path / "ml-100k.zip.md5").write_text(kept, encoding="utf-8")
    assert fetch("100k", tmp_path, base_url=server.url).read_bytes() == SMALL


def test_a_wrong_checksum_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL, f"{md5(b'something else')}  ml-100k.zip\n")
    with pytest.raises(FetchFailed, match=md5(SMALL)) as caught:
        fetch("100k", tmp_path, base_url=server.url)
    assert "--file PATH" in caught.value.detail
    assert list(tmp_path.iterdir()) == []


def test_a_failed_fetch_leaves_an_older_archive_alone(server: Server, tmp_path: Path) -> None:
    older = b"fetched by hand, long ago"
    (tmp_path / "ml-100k.zip").write_bytes(older)
    server.publish("ml-100k.zip", SMALL, f"{md5(b'something else')}  ml-100k.zip\n")
    with pytest.raises(FetchFailed):
        fetch("100k", tmp_path, base_url=server.url)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("ml-100k.zip", older)]


@pytest.mark.parametrize("missing", ["ml-100k.zip", "ml-100k.zip.md5"])
def test_what_the_server_does_not_have_is_named(server: Server, tmp_path: Path, missing: str) -> None:
    server.publish("ml-100k.zip", SMALL)
    del server.answers[f"/data/{missing}"]
    with pytest.raises(FetchFailed, match="404") as caught:
        fetch("100k", tmp_path, base_url=server.url)
    assert f"{server.url}{missing} " in caught.value.detail
    assert "--file PATH" in caught.value.detail
    assert list(tmp_path.iterdir()) == []


def test_offline_the_error_says_what_was_tried_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = unused.getsockname()[1]
        with pytest.raises(FetchFailed, match=f"http://127.0.0.1:{port}/ml-1m.zip.md5") as caught:
            fetch("1m", tmp_path, base_url=f"http://127.0.0.1:{port}")
    assert "refused" in caught.value.detail.lower()
    assert "--file PATH" in caught.value.detail
    assert list(tmp_path.iterdir()) == []


def test_a_transfer_that_breaks_off_is_no_archive(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)
    server.answers["/data/ml-100k.zip"] = send(SMALL[:100], length=len(SMALL))
    with pytest.raises(FetchFailed, match=f"100 of {len(SMALL):,} bytes"):
        fetch("100k", tmp_path, base_url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_is_abandoned(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)
    give_up = threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        give_up.wait(20)

    server.answers["/data/ml-100k.zip"] = wait
    try:
        with pytest.raises(FetchFailed, match="timed out"):
            fetch("100k", tmp_path, base_url=server.url, timeout=0.2)
    finally:
        give_up.set()
    assert list(tmp_path.iterdir()) == []


def test_an_endless_answer_is_abandoned(server: Server, tmp_path: Path) -> None:
    server.publish("ml-latest-small.zip", bytes(5 * SETS["small"].size))
    with pytest.raises(FetchFailed, match=r"that is not ml-latest-small\.zip"):
        fetch("small", tmp_path, base_url=server.url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", [b"<html>Please log in to this network</html>", b"\xff\xfe", b""])
def test_a_page_in_place_of_the_checksum_is_refused(server: Server, tmp_path: Path, page: bytes) -> None:
    server.publish("ml-100k.zip", SMALL)
    server.answers["/data/ml-100k.zip.md5"] = send(page)
    with pytest.raises(FetchFailed, match="does not hold an MD5"):
        fetch("100k", tmp_path, base_url=server.url)
    assert "/data/ml-100k.zip" not in server.requested


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)
    server.answers["/mirror/a.zip"] = server.answers["/data/ml-100k.zip"]
    server.answers["/data/ml-100k.zip"] = redirect("/mirror/a.zip")
    assert fetch("100k", tmp_path, base_url=server.url).read_bytes() == SMALL
    assert server.requested[-1] == "/mirror/a.zip"


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/ml-100k.zip", "http:///nowhere"])
def test_a_redirect_out_of_http_is_not_followed(server: Server, tmp_path: Path, where: str) -> None:
    server.publish("ml-100k.zip", SMALL)
    server.answers["/data/ml-100k.zip"] = redirect(where)
    with pytest.raises(FetchFailed):
        fetch("100k", tmp_path, base_url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_in_a_circle_is_abandoned(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)
    server.answers["/data/ml-100k.zip"] = redirect("/data/ml-100k.zip")
    with pytest.raises(FetchFailed, match="302"):
        fetch("100k", tmp_path, base_url=server.url)


@pytest.mark.parametrize(
    "base_url", ["file:///tmp/", "ftp://files.example/", "files.example", "http://[", ""]
)
def test_only_http_addresses_are_fetched(tmp_path: Path, base_url: str) -> None:
    with pytest.raises(FetchFailed, match="no http or https address"):
        fetch("100k", tmp_path, base_url=base_url)


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)
    (tmp_path / "a file").write_text("in the way")
    with pytest.raises(FetchFailed, match="could not be stored"):
        fetch("100k", tmp_path / "a file", base_url=server.url)


def test_an_unknown_set_lists_the_known_ones(tmp_path: Path) -> None:
    for ask in (lambda: fetch("20m", tmp_path), lambda: licence_notice("20m")):
        with pytest.raises(InvalidInput, match="small, 100k, 1m, 25m, 32m"):
            ask()


def test_interrupting_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    server.publish("ml-100k.zip", SMALL)

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("100k", tmp_path, base_url=server.url, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SETS)
def test_the_licence_notice_says_what_matters(name: str) -> None:
    notice = licence_notice(name)
    for word in (
        SETS[name].archive,
        "research",
        "permission",
        "endorse",
        "TiiS",
        "README",
        "10.1145/2827872",
    ):
        assert word in notice
