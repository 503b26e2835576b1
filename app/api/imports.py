"""Files in over HTTP, streamed to the spool: as the plain body or as a multipart form's file."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response, status
from pydantic import BaseModel, ConfigDict, Field
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app import imports
from app.api.dependencies import DatabaseNow, Reading, SettingsNow, needs
from app.api.problems import BadRow, declared
from app.api.schemas import CountsView, Cursor, Limit, Page
from app.database import Database
from app.errors import FieldError, InvalidInput, TooLarge
from app.imports import ImportView, Spool, SpooledFile
from app.settings import Settings

PATH = "/v1/imports"

router = APIRouter(prefix=PATH, tags=["imports"])

# What a multipart form wraps around its file at most.
FORM_OVERHEAD = 64 * 1024  # bytes

FORMATS_NOTE = (
    "auto recognises u.data, u.item, ratings.dat, movies.dat, CSV, TSV, JSON lines, and zips of them"
)

COLUMNS_NOTE = "names of columns that no usual spelling tells, as in user=uid,movie=mid,stars=score"
SCALE_NOTE = (
    "marks that are no stars: 10 (1 to 10), 100 (0 to 100), or LOW-HIGH; mapped to the stars linearly"
)


class ImportStateView(BaseModel):
    """An import; `state` and `progress` are those of its job."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    job_id: int
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float
    file_name: str | None
    file_bytes: int
    kind: str
    format: str
    rows: int = Field(description="rows dealt with so far; the counts sum to it")
    rows_per_second: float | None = Field(description="on average, over all attempts")
    counts: CountsView
    errors: list[BadRow] = Field(description="the first 100 bad rows")
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


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
    dependencies=[needs("write")],
    responses=declared(413, 507),
    status_code=status.HTTP_202_ACCEPTED,
    openapi_extra=_BODY,
    operation_id="create_import",
)
async def create_import(
    request: Request,
    response: Response,
    database: DatabaseNow,
    settings: SettingsNow,
    kind: Annotated[Literal["auto", "ratings", "movies"], Query()] = "auto",
    format: Annotated[str, Query(max_length=32, description=FORMATS_NOTE)] = "auto",  # noqa: A002
    columns: Annotated[str, Query(max_length=1000, description=COLUMNS_NOTE)] = "",
    scale: Annotated[str, Query(max_length=32, description=SCALE_NOTE)] = "",
    on_error: Annotated[
        Literal["reject", "skip"], Query(description="a bad row stops the whole file, or is left out")
    ] = "reject",
    file_name: Annotated[str | None, Query(max_length=255)] = None,
) -> ImportStateView:
    """Send a file of ratings or movies; `Location` says where to watch the import."""
    options = {"kind": kind, "format": format, "columns": columns, "scale": scale, "on_error": on_error}
    imports.check_options(**options)
    announced = _announced_size(request, settings)
    spooled, sent_name = await _spooled(request, settings, announced)

    def submit() -> ImportView:
        try:
            imports.refuse_oversized(spooled, settings, **options)
            return _submit(database, spooled, settings, file_name or sent_name, options)
        except BaseException:
            spooled.discard()
            raise

    view = await run_in_threadpool(submit)
    response.headers["Location"] = f"/v1/imports/{view.import_id}"
    return _state(view)


@router.get("", dependencies=[needs("read")], responses=declared(), operation_id="list_imports")
def list_imports(session: Reading, limit: Limit = 20, cursor: Cursor = None) -> Page[ImportStateView]:
    """Imports, newest first."""
    views, next_cursor = imports.page(session, limit=limit, cursor=cursor)
    return Page(items=[_state(view) for view in views], next_cursor=next_cursor)


@router.get("/{import_id}", dependencies=[needs("read")], responses=declared(404), operation_id="get_import")
def get_import(import_id: int, session: Reading) -> ImportStateView:
    """State, progress, counts and the first bad rows of an import."""
    return _state(imports.get(session, import_id))


def _submit(
    database: Database,
    spooled: SpooledFile,
    settings: Settings,
    file_name: str | None,
    options: dict[str, str],
) -> ImportView:
    with database.writing() as session:
        record = imports.submit(
            session, spooled, file_name=file_name, max_attempts=settings.job_max_attempts, **options
        )
        return imports.get(session, record.import_id)


def _announced_size(request: Request, settings: Settings) -> int:
    """Bytes that the body says it has, 0 when it does not; one too large need not be read at all."""
    announced = request.headers.get("content-length", "")
    n_bytes = int(announced) if announced.isdigit() else 0
    if n_bytes > settings.upload_limit + FORM_OVERHEAD:
        raise TooLarge(
            f"An import file may have {settings.upload_limit:,} bytes at most. Pack it, or split it."
        )
    return n_bytes


async def _spooled(request: Request, settings: Settings, announced: int) -> tuple[SpooledFile, str | None]:
    """The body on disk and the name that a form gave it. A client that goes away leaves nothing behind."""
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
        # Nobody is there to read it; the log says what happened.
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
    """Picks the first part with a file name, or named `file`, out of a multipart body as it streams by."""

    def __init__(self, boundary: bytes) -> None:
        self.file_name: str | None = None
        self.is_complete = False
        self._pieces: list[bytes] = []
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._is_wanted = False
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
        """What of this block belongs to the file; `InvalidInput` when it is no multipart body."""
        self._pieces = []
        try:
            self._parser.write(block)
        except ValueError as error:
            raise InvalidInput(f"The multipart form cannot be read: {error}") from error
        return self._pieces

    def _part_begins(self) -> None:
        self._disposition = b""
        self._is_wanted = False

    def _header_ends(self) -> None:
        name, value = (bytes(part) for part in self._header)
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = (bytearray(), bytearray())

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._is_wanted = not self.is_complete and (b"filename" in options or options.get(b"name") == b"file")
        if self._is_wanted:
            self.file_name = options.get(b"filename", b"").decode("utf-8", "replace") or None

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_wanted:
            self._pieces.append(data[start:end])

    def _part_ends(self) -> None:
        self.is_complete = self.is_complete or self._is_wanted
        self._is_wanted = False


def _state(view: ImportView) -> ImportStateView:
    return ImportStateView(
        id=view.import_id,
        job_id=view.job_id,
        state=view.state,
        progress=view.progress,
        file_name=view.file_name,
        file_bytes=view.file_bytes,
        kind=view.kind,
        format=view.format,
        rows=view.rows,
        rows_per_second=view.rows_per_second,
        counts=CountsView.model_validate(view.counts),
        errors=[BadRow(location=one.location, message=one.message) for one in view.errors],
        error=view.error,
        created_at=view.created_at,
        started_at=view.started_at,
        finished_at=view.finished_at,
    )
