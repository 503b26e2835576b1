"""Uploads on their way to disk: complete, or leaving nothing."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.errors import StorageFull, TooLarge, Unavailable
from app.imports import spool
from app.imports.spool import Spool
from app.settings import Settings
from tests.imports.jobs import spooled_files, upload_of


@pytest.fixture
def spool_settings(tmp_path: Path) -> Settings:
    return Settings(spool_dir=tmp_path / "deep" / "spool", upload_limit=1000)


def test_a_spooled_file_is_private_and_unguessable(spool_settings: Settings) -> None:
    spooled = upload_of(spool_settings, [b"a" * 400, b"", b"b" * 600])
    assert spooled.path.read_bytes() == b"a" * 400 + b"b" * 600
    assert spooled.n_bytes == 1000
    assert spooled.path.stat().st_mode & 0o777 == 0o600
    assert spool.SPOOL_NAME.fullmatch(spooled.path.name)
    assert upload_of(spool_settings, []).path != spooled.path
    spooled.discard()
    spooled.discard()
    assert len(spooled_files(spool_settings)) == 1


def test_an_upload_over_the_limit_leaves_nothing(spool_settings: Settings) -> None:
    with pytest.raises(TooLarge, match="1,000 bytes"):
        upload_of(spool_settings, [b"a" * 600, b"b" * 401, b"never read"])
    assert spooled_files(spool_settings) == []


def test_an_upload_that_breaks_off_leaves_nothing(spool_settings: Settings) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"a"
        assert len(spooled_files(spool_settings)) == 1
        raise ConnectionError

    with pytest.raises(ConnectionError):
        upload_of(spool_settings, blocks())
    assert spooled_files(spool_settings) == []
    upload = Spool(spool_settings)
    upload.discard()
    upload.discard()
    assert spooled_files(spool_settings) == []


@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, StorageFull), (errno.EIO, Unavailable)])
def test_a_disk_that_refuses_leaves_nothing(
    code: int, expected: type[Exception], spool_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(expected):
        upload_of(spool_settings, [b"a"])
    assert spooled_files(spool_settings) == []


def test_a_truly_full_disk_is_reported(spool_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    really_open = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0: really_open("/dev/full", os.O_WRONLY))
    with pytest.raises(StorageFull, match="no space left"):
        upload_of(spool_settings, [b"a" * 900])


def test_an_upload_leaves_the_database_its_space(
    spool_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = spool_settings.model_copy(update={"disk_reserve": 10_000})
    free = [10_900, 10_900, 9_999]
    monkeypatch.setattr(spool, "CHECK_SPACE_EVERY", 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free.pop(0)))
    with pytest.raises(StorageFull, match="HARMONIUM_DISK_RESERVE"):
        Spool(settings, announced=901)
    assert spooled_files(settings) == []
    with Spool(settings, announced=900) as upload:
        upload.write(b"a" * 99)
        with pytest.raises(StorageFull):  # another program has filled the disk meanwhile
            upload.write(b"a")
    assert spooled_files(settings) == []
    assert free == []


def test_a_spool_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="HARMONIUM_SPOOL_DIR"):
        Spool(Settings(spool_dir=tmp_path / "file" / "spool"))
