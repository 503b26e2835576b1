"""Machines as one block of bytes: an uncompressed `.npz` that is checked completely before it is believed.

Nothing in it is ever executed: no pickled objects, strings as UTF-8 bytes with offsets, scalars as JSON.
The same machines always give the same bytes, so a digest identifies them.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import mmap
import re
import struct
import zipfile
import zlib
from typing import IO, Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from app.learning.configuration import TrainingConfiguration
from app.learning.grading import Grading
from app.learning.judge import Judge
from app.learning.like_probability import LengthCalibration
from app.learning.linear_units import LinearUnits
from app.learning.machines import Machines
from app.learning.metrics import Reliability
from app.learning.ordinal_biases import Levels
from app.learning.rbm import RBM
from app.learning.visible_design import DESIGNS
from app.learning.vocabulary import Vocabulary
from app.learning.weighted_units import WeightedUnits

FORMAT = 3  # raised by every change that an older reader would misread
OLDEST_FORMAT = 2  # what it lacks is filled in, so that an active version stays active over an upgrade
KIND = "harmonium machines"
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a zip file's member: signature … lengths of name and extra
_LOCAL_SIGNATURE = b"PK\x03\x04"
_EXTRA_HEADER = struct.Struct("<HH")  # kind and length of an extra field
_PADDING_ID = 0xD935  # the kind that Android's zipalign pads with
_ZIP64_EXTRA = 20  # bytes that force_zip64 adds
_ALIGNMENT = 64  # bytes; a cache line
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest a zip file can hold; a real one would change the bytes

Array: TypeAlias = NDArray[Any]
Reason: TypeAlias = Literal["torn", "foreign", "newer format", "wrong shape", "not finite", "inconsistent"]

_ARRAYS: dict[str, tuple[str, int]] = {  # name: dtype, number of dimensions
    "header": ("|u1", 1),
    "movie_id_bytes": ("|u1", 1),
    "movie_id_offsets": ("<i8", 1),
    "weights": ("<f4", 2),
    "visible_bias": ("<f4", 1),
    "hidden_bias": ("<f4", 1),
    "linear_weights": ("<f4", 2),
    "linear_variance": ("<f4", 1),
    "leading_variance": ("<f4", 1),
    "weighted_weights": ("<f4", 2),
    "judge_weights": ("<f4", 2),
    "judge_movie_bias": ("<f4", 1),
    "judge_hidden_bias": ("<f4", 1),
    "judge_level_stars": ("<f4", 1),
    "judge_level_weight": ("<f8", 1),
    "judge_level_log_odds": ("<f8", 1),
    "popularity": ("<i8", 1),
    "likes": ("<i8", 1),
}

_SINCE_FORMAT_3 = frozenset({"weighted_weights"})
_BEFORE_FORMAT_3 = {"weighted_units": 0, "like_strength": 0.0}  # settings of machines without these parts
_ONCE_FIXED = {"popularity_ratings": 2.0}  # before it was a setting

# The head of an array as NumPy writes it. NumPy's own reader parses it as Python and fails in many ways.
_ARRAY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([^']{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9]{1,15},(?: ?[0-9]{1,15})?)\), \} *\n",
    re.DOTALL,
)


class UnreadableModelFile(ValueError):
    """These bytes are not machines that this version of Harmonium can load; the message says why.

    Attributes:
        reason: `torn` (cut short or altered), `foreign` (something else, pickled or compressed arrays
            included), `newer format`, `wrong shape` (or dtype), `not finite` or `inconsistent` (values that
            do not go together).
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"unreadable model file ({reason}): {detail}")
        self.reason = reason


def dump(machines: Machines) -> bytes:
    """The machines as bytes for `load`."""
    encoded = [movie_id.encode() for movie_id in machines.vocabulary.movie_ids]
    header = {
        "kind": KIND,
        "format": FORMAT,
        "configuration": machines.configuration.as_dict(),
        "mean_length": machines.mean_length,
        "n_users": machines.n_users,
        "grading": {"mean": machines.grading.mean, "deviation": machines.grading.deviation},
        "weighted": {"ridge": machines.weighted.ridge},
        "judge": {"mean_length": machines.judge.mean_length},
        "calibration": dataclasses.asdict(machines.calibration),
        "reliability": dataclasses.asdict(machines.reliability),
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8),
        "movie_id_bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "movie_id_offsets": np.cumsum([0, *map(len, encoded)]),
        "weights": machines.rbm.weights,
        "visible_bias": machines.rbm.visible_bias,
        "hidden_bias": machines.rbm.hidden_bias,
        "linear_weights": machines.linear.weights,
        "linear_variance": machines.linear.variance,
        "leading_variance": machines.linear.leading_variance,
        "weighted_weights": machines.weighted.weights,
        "judge_weights": machines.judge.rbm.weights,
        "judge_movie_bias": machines.judge.movie_bias,
        "judge_hidden_bias": machines.judge.rbm.hidden_bias,
        "judge_level_stars": machines.judge.levels.stars,
        "judge_level_weight": machines.judge.levels.weight,
        "judge_level_log_odds": machines.judge.levels.log_odds,
        "popularity": machines.popularity,
        "likes": machines.likes,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, (dtype, _) in _ARRAYS.items():
            info = _aligned(zipfile.ZipInfo(f"{name}.npy", _TIMESTAMP), file.tell())
            with archive.open(info, "w", force_zip64=True) as member:
                array = np.ascontiguousarray(arrays[name], dtype=dtype)
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


def _aligned(member: zipfile.ZipInfo, start: int) -> zipfile.ZipInfo:
    """The member with an extra field that is as long as it takes for its content to begin at an even place.

    Then a mapped file's arrays can be used where they are: NumPy copies unaligned ones for every product.
    """
    header = start + _LOCAL_HEADER.size + len(member.filename) + _ZIP64_EXTRA
    n_padding = (-(header + _EXTRA_HEADER.size)) % _ALIGNMENT
    member.extra = _EXTRA_HEADER.pack(_PADDING_ID, n_padding) + bytes(n_padding)
    return member


def load(data: bytes | mmap.mmap) -> Machines:
    """The machines that `dump` wrote.

    Args:
        data: the file. The arrays are views of it, so the pages of a mapped one are read when they are
            needed, and processes that map it share them.

    Raises:
        UnreadableModelFile: whatever is wrong with the bytes.
    """
    arrays = _arrays(data)
    header = _header(arrays["header"])
    try:
        settings = dict(header["configuration"])
        if header["format"] < FORMAT:
            settings = _BEFORE_FORMAT_3 | settings
        settings = _ONCE_FIXED | settings
        configuration = TrainingConfiguration.from_dict(settings)
        calibration, grading = header["calibration"], header["grading"]
        machines = Machines(
            vocabulary=_vocabulary(arrays["movie_id_bytes"], arrays["movie_id_offsets"]),
            configuration=configuration,
            rbm=RBM(arrays["weights"], arrays["visible_bias"], arrays["hidden_bias"]),
            linear=LinearUnits(
                arrays["linear_weights"], arrays["linear_variance"], arrays["leading_variance"]
            ),
            weighted=WeightedUnits(arrays["weighted_weights"], _weighted_ridge(header)),
            grading=Grading(
                _finite(grading["mean"]), _finite(grading["deviation"]), configuration.grade_slope
            ),
            mean_length=_finite(header["mean_length"]),
            judge=_judge(arrays, _finite(header["judge"]["mean_length"]), configuration.liked_at_least),
            calibration=LengthCalibration(
                *(_finite(calibration[field.name]) for field in dataclasses.fields(LengthCalibration))
            ),
            reliability=_reliability(header["reliability"]),
            n_users=int(header["n_users"]),
            popularity=arrays["popularity"],
            likes=arrays["likes"],
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UnreadableModelFile):
            raise
        raise UnreadableModelFile("inconsistent", f"{type(error).__name__}: {error}") from error
    _check(machines)
    return machines


def _arrays(data: bytes | mmap.mmap) -> dict[str, Array]:
    """Every expected array, of the expected dtype and as large as it says; nothing else is in the file."""
    try:
        # A map can be read like a file, as far as the list of members goes; wrapped in BytesIO it is copied.
        with zipfile.ZipFile(
            io.BytesIO(data) if isinstance(data, bytes) else cast(IO[bytes], data)
        ) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if "header.npy" not in members:
                raise UnreadableModelFile("foreign", "a zip file without the header of a model file")
            # A file of a newer format may hold other arrays, so its number is looked at before they are.
            header = _header(_array(data, members["header.npy"], "header"))
            names = _ARRAYS if header["format"] >= FORMAT else _ARRAYS.keys() - _SINCE_FORMAT_3
            if sorted(members) != sorted(f"{name}.npy" for name in names):
                raise UnreadableModelFile("wrong shape", f"the file holds {', '.join(sorted(members))}")
            arrays = {name: _array(data, members[f"{name}.npy"], name) for name in names}
            arrays.setdefault("weighted_weights", np.zeros((arrays["popularity"].size, 0), np.float32))
            return arrays
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise UnreadableModelFile("torn", f"{len(data)} bytes; {error}") from error


def _array(data: bytes | mmap.mmap, member: zipfile.ZipInfo, name: str) -> Array:
    if member.compress_type != zipfile.ZIP_STORED:  # a few bytes could stand for gigabytes
        raise UnreadableModelFile("foreign", f"{member.filename} is compressed")
    content = _content(data, member)
    dtype, dimensions = _ARRAYS[name]
    found = _ARRAY_HEADER.match(content)
    if found is None:
        raise UnreadableModelFile("foreign", f"{member.filename} does not start as an array does")
    found_dtype, fortran_order, lengths = (text.decode("latin-1") for text in found.groups())
    if "O" in found_dtype:
        raise UnreadableModelFile("foreign", f"{member.filename} holds pickled objects")
    shape = tuple(int(length) for length in lengths.split(",") if length.strip())
    if found_dtype != dtype or fortran_order != "False" or len(shape) != dimensions:
        raise UnreadableModelFile("wrong shape", f"{member.filename}: shape ({lengths}), dtype {found_dtype}")
    if len(content) - found.end() != math.prod(shape) * np.dtype(dtype).itemsize:
        raise UnreadableModelFile(
            "wrong shape", f"{member.filename} claims shape {shape} in {len(content)} bytes"
        )
    array = np.frombuffer(content, dtype, offset=found.end()).reshape(shape)
    return array if array.flags.aligned else array.copy()  # written before contents were aligned


def _content(data: bytes | mmap.mmap, member: zipfile.ZipInfo) -> memoryview:
    """A member's bytes where they are: as many as it says, and with its checksum."""
    view = memoryview(data)
    header = bytes(view[member.header_offset : member.header_offset + _LOCAL_HEADER.size])
    if len(header) < _LOCAL_HEADER.size:
        raise UnreadableModelFile("torn", f"{member.filename} has no header")
    signature, *_, n_name, n_extra = _LOCAL_HEADER.unpack(header)
    start = member.header_offset + _LOCAL_HEADER.size + n_name + n_extra
    content = view[start : start + member.file_size]
    is_whole = len(content) == member.file_size == member.compress_size
    if signature != _LOCAL_SIGNATURE or not is_whole or zlib.crc32(content) != member.CRC:
        raise UnreadableModelFile("torn", f"{member.filename} is not what its checksum says")
    return content


def _header(array: Array) -> dict[str, Any]:
    try:
        header = json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:
        raise UnreadableModelFile("foreign", f"the header is no JSON: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise UnreadableModelFile("foreign", "the header names another kind of file")
    found = header.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise UnreadableModelFile(
            "newer format", f"it has format {found}, this Harmonium reads up to {FORMAT}; upgrade Harmonium"
        )
    if found == 1 and not isinstance(found, bool):
        raise UnreadableModelFile("foreign", "format 1 is not read any more; train again")
    if isinstance(found, bool) or not isinstance(found, int) or found < OLDEST_FORMAT:
        raise UnreadableModelFile("foreign", f"there is no format {found!r}")
    return header


def _vocabulary(encoded: Array, offsets: Array) -> Vocabulary:
    if not offsets.size or offsets[0] != 0 or offsets[-1] != encoded.size or (np.diff(offsets) < 0).any():
        raise UnreadableModelFile("inconsistent", "the offsets of the movie ids do not fit their bytes")
    content = encoded.tobytes()
    bounds = offsets.tolist()
    return Vocabulary([content[start:end].decode() for start, end in itertools.pairwise(bounds)])


def _judge(arrays: dict[str, Array], mean_length: float, liked_at_least: float) -> Judge:
    stars, weight, log_odds = (arrays[f"judge_level_{name}"] for name in ("stars", "weight", "log_odds"))
    if not stars.shape == weight.shape == log_odds.shape:
        raise UnreadableModelFile("wrong shape", "the judge's levels differ in number")
    if not (np.isfinite(stars).all() and np.isfinite(weight).all() and np.isfinite(log_odds).all()):
        raise UnreadableModelFile("not finite", "a level of the judge is NaN or infinite")
    liked = np.flatnonzero(stars == np.float32(liked_at_least))
    if liked.size != 1 or (np.diff(stars) <= 0).any() or (weight <= 0).any():
        raise UnreadableModelFile("inconsistent", "the judge's levels do not rise, or lack liked_at_least")
    movie_bias = arrays["judge_movie_bias"]
    rbm = RBM(
        arrays["judge_weights"],
        np.concatenate([movie_bias, np.zeros_like(movie_bias)]),
        arrays["judge_hidden_bias"],
    )
    return Judge(Levels(stars, weight, log_odds, int(liked[0])), rbm, mean_length)


def _reliability(curve: dict[str, Any]) -> Reliability:
    predicted, came_true = (
        tuple(_finite(value) for value in curve[name]) for name in ("predicted", "came_true")
    )
    n = tuple(int(count) for count in curve["n"])
    fits = len(predicted) == len(came_true) == len(n) and all(count > 0 for count in n)
    if not fits or not all(0 <= share <= 1 for share in predicted + came_true):
        raise UnreadableModelFile("inconsistent", "the reliability curve is none")
    return Reliability(predicted, came_true, n)


def _weighted_ridge(header: dict[str, Any]) -> float:
    """1 for machines of before format 3, which have no weighted units that could ask for it."""
    return _finite(header["weighted"]["ridge"]) if header["format"] >= FORMAT else 1.0


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnreadableModelFile("not finite", f"{value!r} stands where a number should")
    return float(value)


def _check(machines: Machines) -> None:
    """That the parts fit one another and every number is one."""
    n_movies, configuration = machines.n_movies, machines.configuration
    expected = {
        "visible units": (machines.rbm.n_visible, DESIGNS[configuration.design].n_visible(n_movies)),
        "hidden units": (machines.n_hidden, configuration.hidden_units),
        "linear_weights": (machines.linear.weights.shape[0], n_movies),
        "weighted_weights": (machines.weighted.weights.shape[0], n_movies),
        "the judge's movies": (machines.judge.n_movies, n_movies),
        "popularity": (machines.popularity.size, n_movies),
        "likes": (machines.likes.size, n_movies),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise UnreadableModelFile("wrong shape", f"{what}: {found} where {wanted} are expected")
    if configuration.rank_liked_at_least is None or configuration.like_strength is None:
        raise UnreadableModelFile("inconsistent", "the configuration is not resolved")
    arrays = {
        "weights": machines.rbm.weights,
        "visible_bias": machines.rbm.visible_bias,
        "hidden_bias": machines.rbm.hidden_bias,
        "linear_weights": machines.linear.weights,
        "linear_variance": machines.linear.variance,
        "leading_variance": machines.linear.leading_variance,
        "weighted_weights": machines.weighted.weights,
        "judge_weights": machines.judge.rbm.weights,
        "judge_movie_bias": machines.judge.movie_bias,
        "judge_hidden_bias": machines.judge.rbm.hidden_bias,
    }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UnreadableModelFile("not finite", f"{name} holds NaN or infinity")
    popularity, likes = machines.popularity, machines.likes
    counts_fit = ((likes >= 0) & (likes <= popularity) & (popularity <= machines.n_users)).all()
    if not counts_fit or machines.n_users < 1:
        raise UnreadableModelFile("inconsistent", "the counts of users, ratings and likes do not fit")
    linear = machines.linear
    if linear.n_units > (configuration.linear_units or 0):
        raise UnreadableModelFile("inconsistent", "more linear units than the configuration has")
    if machines.weighted.n_units > (configuration.weighted_units or 0):
        raise UnreadableModelFile("inconsistent", "more weighted units than the configuration has")
    if not (linear.variance > 0).all() or not (linear.leading_variance > 0).all():
        raise UnreadableModelFile("inconsistent", "a variance that must be positive is not")
    if machines.grading.deviation <= 0:
        raise UnreadableModelFile("inconsistent", "the deviation of the stars must be positive")
    slope, short_slope = machines.calibration.slope, machines.calibration.short_slope
    lengths = (machines.mean_length, machines.judge.mean_length)
    if min(*lengths, machines.weighted.ridge, slope, slope + short_slope) <= 0:
        raise UnreadableModelFile("inconsistent", "a number that must be positive is not")
