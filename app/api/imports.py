"""Imports over HTTP: a file, as the body or in a multipart form, into the spool."""

from typing import Annotated, Literal

from fastapi import Query, Request, status
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.api.dependencies import ReadCall, WriteCall
from app.api.problems import declared
from app.api.routing import new_router
from app.api.schemas import Cursor, Limit
from app.errors import FieldError, InvalidInput, TooLarge
from app.imports import requests
from app.imports.requests import ImportState
from app.imports.spool import Spool, SpooledFile
from app.settings import Settings
from app.storage.cursors import Page

PATH = "/v1/imports"

router = new_router(PATH, "imports")

# What a multipart form wraps around its file at most.
FORM_OVERHEAD = 64 * 1024  # bytes

FORMATS_NOTE = (
    "auto recognises u.data, u.item, ratings.dat, movies.dat, CSV, TSV, JSON lines, and zips of them"
)

COLUMNS_NOTE = "names of columns that no usual spelling tells, as in user=uid,movie=mid,stars=score"
SCALE_NOTE = (
    "marks that are no stars: 10 (1 to 10), 100 (0 to 100), or LOW-HIGH; mapped to the stars linearly"
)


_BODY = {
    "requestBody": {
        "required": True,
        "description": "the file: plain, gzip or zip",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}


@router.post(
    "",
    responses=declared(413, 507),
    status_code=status.HTTP_202_ACCEPTED,
    openapi_extra=_BODY,
    operation_id="create_import",
)
async def create_import(
    call: WriteCall,
    kind: Annotated[Literal["auto", "ratings", "movies"], Query()] = "auto",
    format: Annotated[str, Query(max_length=32, description=FORMATS_NOTE)] = "auto",  # noqa: A002
    columns: Annotated[str, Query(max_length=1000, description=COLUMNS_NOTE)] = "",
    scale: Annotated[str, Query(max_length=32, description=SCALE_NOTE)] = "",
    on_error: Annotated[
        Literal["reject", "skip"], Query(description="a bad row stops the whole file, or is left out")
    ] = "reject",
    file_name: Annotated[str | None, Query(max_length=255)] = None,
) -> ImportState:
    """Send a file of ratings or movies; `Location` says where to watch the import."""
    await run_in_threadpool(call.check_key)
    settings = call.settings
    options = {"kind": kind, "format": format, "columns": columns, "scale": scale, "on_error": on_error}
    requests.check_options(**options)
    announced = _announced_size(call.request, settings)
    spooled, sent_name = await _spooled(call.request, settings, announced)

    def submit() -> ImportState:
        try:
            requests.refuse_oversized(spooled, settings, **options)
            with call.database.writing() as session:
                record = requests.submit(
                    session,
                    spooled,
                    file_name=file_name or sent_name,
                    max_attempts=settings.job_max_attempts,
                    **options,
                )
                return requests.get(session, record.import_id)
        except BaseException:
            spooled.discard()
            raise

    state = await run_in_threadpool(submit)
    call.response.headers["Location"] = f"/v1/imports/{state.id}"
    return state


@router.get("", operation_id="list_imports")
def list_imports(call: ReadCall, limit: Limit = 20, cursor: Cursor = None) -> Page[ImportState]:
    """Imports, newest first."""
    with call.reading() as session:
        return requests.page(session, limit=limit, cursor=cursor)


@router.get("/{import_id}", responses=declared(404), operation_id="get_import")
def get_import(import_id: int, call: ReadCall) -> ImportState:
    """State, progress, counts and the first bad rows of an import."""
    with call.reading() as session:
        return requests.get(session, import_id)


def _announced_size(request: Request, settings: Settings) -> int:
    """The body's `Content-Length`, 0 without one; `TooLarge` before reading it."""
    announced = request.headers.get("content-length", "")
    n_bytes = int(announced) if announced.isdigit() else 0
    if n_bytes > settings.upload_limit + FORM_OVERHEAD:
        raise TooLarge(
            f"An import file may have {settings.upload_limit:,} bytes at most. Pack it, or split it."
        )
    return n_bytes


async def _spooled(request: Request, settings: Settings, announced: int) -> tuple[SpooledFile, str | None]:
    """The body on disk and the name in the form.

    A client that goes away leaves nothing behind.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    form = None
    if kind == b"multipart/form-data":
        if not options.get(b"boundary"):
            raise InvalidInput(
                "The multipart form names no boundary. Let your HTTP library set Content-Type."
            )
        form = _FormFile(options[b"boundary"])
    upload = await run_in_threadpool(Spool, settings, announced)
    try:
        async for block in request.stream():
            for piece in form.pieces(block) if form else (block,):
                if piece:
                    await run_in_threadpool(upload.write, piece)
        if form is not None and not form.is_complete:
            raise InvalidInput("The multipart form holds no complete part named file.")
        spooled = await run_in_threadpool(upload.close)
    except ClientDisconnect as error:
        await run_in_threadpool(upload.discard)
        # The client is gone; the log keeps this message.
        raise InvalidInput("The upload broke off; nothing of it was kept.") from error
    except BaseException:
        await run_in_threadpool(upload.discard)
        raise
    if spooled.n_bytes == 0:
        spooled.discard()
        raise InvalidInput(
            "The body is empty. Send the file's bytes, as curl does with --data-binary @FILE.",
            errors=[FieldError("body", "is empty")],
        )
    return spooled, form.file_name if form else None


class _FormFile:
    """The first part of a multipart body with a file name, or named `file`."""

    def __init__(self, boundary: bytes) -> None:
        self.file_name: str | None = None
        self.is_complete = False
        self._pieces: list[bytes] = []
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._is_file = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._part_ends,
            },
        )

    def pieces(self, block: bytes) -> list[bytes]:
        """The bytes of this block that belong to the file;

        `InvalidInput` if it is not multipart.
        """
        self._pieces = []
        try:
            self._parser.write(block)
        except ValueError as error:
            raise InvalidInput(f"The multipart form cannot be read: {error}") from error
        return self._pieces

    def _part_begins(self) -> None:
        self._disposition = b""
        self._is_file = False

    def _header_ends(self) -> None:
        name, value = (bytes(part) for part in self._header)
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = (bytearray(), bytearray())

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._is_file = not self.is_complete and (b"filename" in options or options.get(b"name") == b"file")
        if self._is_file:
            self.file_name = options.get(b"filename", b"").decode("utf-8", "replace") or None

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pieces.append(data[start:end])

    def _part_ends(self) -> None:
        self.is_complete = self.is_complete or self._is_file
        self._is_file = False
