"""What may become of a version's bytes."""

import hashlib
import io
import json
import zipfile

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update

from app.storage.database import Database
from app.storage.tables import ModelVersion, ModelVersionChunk


class Bomb:
    """Unpickling it runs code."""

    exploded = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return exec, (f"from {__name__} import Bomb; Bomb.exploded = True",)


def content_of(database: Database, version: int) -> bytes:
    with database.reading() as session:
        return session.scalars(
            select(ModelVersionChunk.content).where(ModelVersionChunk.version == version)
        ).one()


def overwrite(database: Database, version: int, content: bytes, *, signed: bool) -> None:
    """Replace a version's bytes; `signed` makes the checksum fit, too."""
    with database.writing() as session:
        session.execute(
            update(ModelVersionChunk).where(ModelVersionChunk.version == version).values(content=content)
        )
        if signed:
            session.execute(
                update(ModelVersion)
                .where(ModelVersion.version == version)
                .values(sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content))
            )


def damages(content: bytes) -> dict[str, tuple[bytes, bool]]:
    """Damaged bytes by kind of damage, and whether the stored checksum fits."""
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 16
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        arrays = {name: file.read(name) for name in file.namelist()}

    def rewritten(name: str, array: NDArray[np.generic]) -> bytes:
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w") as archive:
            for member, old in arrays.items():
                new = io.BytesIO()
                np.save(new, array, allow_pickle=True)
                archive.writestr(member, new.getvalue() if member == name else old)
        return result.getvalue()

    header = json.loads(np.load(io.BytesIO(arrays["header.npy"])).tobytes())
    newer = np.frombuffer(json.dumps(header | {"format": 99}).encode(), np.uint8)
    weights = np.load(io.BytesIO(arrays["weights.npy"]))
    return {
        "torn": (content[: len(content) // 2], False),
        "a byte short": (content[:-1], False),
        "flipped": (bytes(flipped), False),
        "empty": (b"", False),
        "foreign": (b"PK\x03\x04 but nothing of ours", True),
        "pickled": (rewritten("weights.npy", np.array([Bomb()], dtype=object)), True),
        "newer format": (rewritten("header.npy", newer), True),
        "wrong shape": (rewritten("weights.npy", weights[:, :-1]), True),
        "not a number": (rewritten("weights.npy", np.full_like(weights, np.nan)), True),
    }
