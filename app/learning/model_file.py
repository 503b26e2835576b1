"""A trained model as bytes: an uncompressed `.npz`, checked completely before use.

Nothing in it is ever executed: no pickled objects, strings as UTF-8 bytes with offsets,
scalars as JSON. Equal models give equal bytes, so a digest identifies them.
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

from app.learning.boltzmann.linear_units import LinearUnits
from app.learning.boltzmann.rbm import RBM
from app.learning.boltzmann.visible_design import DESIGNS
from app.learning.boltzmann.weighted_units import WeightedUnits
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation.metrics import Reliability
from app.learning.likes.calibration import LengthCalibration
from app.learning.likes.ordinal_biases import Levels
from app.learning.likes.ordinal_rbm import OrdinalRBM
from app.learning.star_weights import StarWeights
from app.learning.trained_model import TrainedModel
from app.learning.vocabulary import Vocabulary

FORMAT = 4  # the only one that is read; raised by every change of what a file holds
KIND = "harmonium model"
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
    "like_weights": ("<f4", 2),
    "like_movie_bias": ("<f4", 1),
    "like_hidden_bias": ("<f4", 1),
    "like_level_stars": ("<f4", 1),
    "like_level_weight": ("<f8", 1),
    "like_level_log_odds": ("<f8", 1),
    "popularity": ("<i8", 1),
    "likes": ("<i8", 1),
}

# The head of an array as NumPy writes it. NumPy's own reader parses it as Python and
# fails in many ways.
_ARRAY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([^']{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9]{1,15},(?: ?[0-9]{1,15})?)\), \} *\n",
    re.DOTALL,
)


class UnreadableModelFile(ValueError):
    """These bytes are no model that this version of Harmonium can load.

    Attributes:
        reason: `torn` (cut short or altered), `foreign` (something else, pickled or
            compressed arrays included), `newer format`, `wrong shape` (or dtype), `not
            finite` or `inconsistent` (values that do not go together).
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"unreadable model file ({reason}): {detail}")
        self.reason = reason


def dump(model: TrainedModel) -> bytes:
    """The model as bytes for `load`."""
    encoded = [movie_id.encode() for movie_id in model.vocabulary.movie_ids]
    header = {
        "kind": KIND,
        "format": FORMAT,
        "configuration": model.configuration.as_dict(),
        "mean_length": model.mean_length,
        "n_users": model.n_users,
        "star_weights": {"mean": model.star_weights.mean, "deviation": model.star_weights.deviation},
        "weighted": {"ridge": model.weighted.ridge},
        "like_model": {"mean_length": model.like_model.mean_length},
        "calibration": dataclasses.asdict(model.calibration),
        "reliability": dataclasses.asdict(model.reliability),
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8),
        "movie_id_bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "movie_id_offsets": np.cumsum([0, *map(len, encoded)]),
        **_parameters(model),
        "like_level_stars": model.like_model.levels.stars,
        "like_level_weight": model.like_model.levels.weight,
        "like_level_log_odds": model.like_model.levels.log_odds,
        "popularity": model.popularity,
        "likes": model.likes,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, (dtype, _) in _ARRAYS.items():
            info = _aligned(zipfile.ZipInfo(f"{name}.npy", _TIMESTAMP), file.tell())
            with archive.open(info, "w", force_zip64=True) as member:
                array = np.ascontiguousarray(arrays[name], dtype=dtype)
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


def _parameters(model: TrainedModel) -> dict[str, NDArray[np.float32]]:
    """The arrays of fitted numbers by their names in the file."""
    return {
        "weights": model.rbm.weights,
        "visible_bias": model.rbm.visible_bias,
        "hidden_bias": model.rbm.hidden_bias,
        "linear_weights": model.linear.weights,
        "linear_variance": model.linear.variance,
        "leading_variance": model.linear.leading_variance,
        "weighted_weights": model.weighted.weights,
        "like_weights": model.like_model.rbm.weights,
        "like_movie_bias": model.like_model.movie_bias,
        "like_hidden_bias": model.like_model.rbm.hidden_bias,
    }


def _aligned(member: zipfile.ZipInfo, start: int) -> zipfile.ZipInfo:
    """The member with an extra field that aligns its content to 64 bytes.

    Then a mapped file's arrays can be used where they are: NumPy copies unaligned ones
    for every product.
    """
    header = start + _LOCAL_HEADER.size + len(member.filename) + _ZIP64_EXTRA
    n_padding = (-(header + _EXTRA_HEADER.size)) % _ALIGNMENT
    member.extra = _EXTRA_HEADER.pack(_PADDING_ID, n_padding) + bytes(n_padding)
    return member


def load(data: bytes | mmap.mmap) -> TrainedModel:
    """The model that `dump` wrote.

    Args:
        data: the file. The arrays are views of it, so the pages of a mapped file are
            read when they are needed, and processes that map it share them.

    Raises:
        UnreadableModelFile: for any fault of the bytes.
    """
    arrays = _arrays(data)
    header = _header(arrays["header"])
    try:
        configuration = TrainingConfiguration.from_dict(dict(header["configuration"]))
        calibration, star_weights = header["calibration"], header["star_weights"]
        model = TrainedModel(
            vocabulary=_vocabulary(arrays["movie_id_bytes"], arrays["movie_id_offsets"]),
            configuration=configuration,
            rbm=RBM(arrays["weights"], arrays["visible_bias"], arrays["hidden_bias"]),
            linear=LinearUnits(
                arrays["linear_weights"], arrays["linear_variance"], arrays["leading_variance"]
            ),
            weighted=WeightedUnits(arrays["weighted_weights"], _finite(header["weighted"]["ridge"])),
            star_weights=StarWeights(
                _finite(star_weights["mean"]), _finite(star_weights["deviation"]), configuration.grade_slope
            ),
            mean_length=_finite(header["mean_length"]),
            like_model=_like_model(
                arrays, _finite(header["like_model"]["mean_length"]), configuration.liked_at_least
            ),
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
    _check(model)
    return model


def _arrays(data: bytes | mmap.mmap) -> dict[str, Array]:
    """Every expected array, of its expected dtype and size; there are no others."""
    try:
        # A map can be read like a file, as far as the list of members goes; wrapped in
        # BytesIO it is copied.
        with zipfile.ZipFile(
            io.BytesIO(data) if isinstance(data, bytes) else cast(IO[bytes], data)
        ) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if "header.npy" not in members:
                raise UnreadableModelFile("foreign", "a zip file without the header of a model file")
            # A file of another format may hold other arrays, so its number is looked at
            # before they are.
            _header(_array(data, members["header.npy"], "header"))
            if sorted(members) != sorted(f"{name}.npy" for name in _ARRAYS):
                raise UnreadableModelFile("wrong shape", f"the file holds {', '.join(sorted(members))}")
            return {name: _array(data, members[f"{name}.npy"], name) for name in _ARRAYS}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise UnreadableModelFile("torn", f"{len(data)} bytes; {error}") from error


def _array(data: bytes | mmap.mmap, member: zipfile.ZipInfo, name: str) -> Array:
    if member.compress_type != zipfile.ZIP_STORED:  # a few bytes could stand for gigabytes
        raise UnreadableModelFile("foreign", f"{member.filename} is compressed")
    content = _content(data, member)
    dtype, dimensions = _ARRAYS[name]
    head = _ARRAY_HEADER.match(content)
    if head is None:
        raise UnreadableModelFile("foreign", f"{member.filename} does not start as an array does")
    stored_dtype, fortran_order, lengths = (text.decode("latin-1") for text in head.groups())
    if "O" in stored_dtype:
        raise UnreadableModelFile("foreign", f"{member.filename} holds pickled objects")
    shape = tuple(int(length) for length in lengths.split(",") if length.strip())
    if stored_dtype != dtype or fortran_order != "False" or len(shape) != dimensions:
        raise UnreadableModelFile(
            "wrong shape", f"{member.filename}: shape ({lengths}), dtype {stored_dtype}"
        )
    if len(content) - head.end() != math.prod(shape) * np.dtype(dtype).itemsize:
        raise UnreadableModelFile(
            "wrong shape", f"{member.filename} claims shape {shape} in {len(content)} bytes"
        )
    array = np.frombuffer(content, dtype, offset=head.end()).reshape(shape)
    return array if array.flags.aligned else array.copy()  # another writer may not align contents


def _content(data: bytes | mmap.mmap, member: zipfile.ZipInfo) -> memoryview:
    """A member's bytes where they lie, of its stated length and checksum."""
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
    number = header.get("format")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise UnreadableModelFile("foreign", f"there is no format {number!r}")
    if number > FORMAT:
        raise UnreadableModelFile(
            "newer format", f"it has format {number}, this Harmonium reads {FORMAT}; upgrade Harmonium"
        )
    if number < FORMAT:
        raise UnreadableModelFile("foreign", f"format {number} is not read any more; train again")
    return header


def _vocabulary(encoded: Array, offsets: Array) -> Vocabulary:
    if not offsets.size or offsets[0] != 0 or offsets[-1] != encoded.size or (np.diff(offsets) < 0).any():
        raise UnreadableModelFile("inconsistent", "the offsets of the movie ids do not fit their bytes")
    content = encoded.tobytes()
    bounds = offsets.tolist()
    return Vocabulary([content[start:end].decode() for start, end in itertools.pairwise(bounds)])


def _like_model(arrays: dict[str, Array], mean_length: float, liked_at_least: float) -> OrdinalRBM:
    stars, weight, log_odds = (arrays[f"like_level_{name}"] for name in ("stars", "weight", "log_odds"))
    if not stars.shape == weight.shape == log_odds.shape:
        raise UnreadableModelFile("wrong shape", "the like model's levels differ in number")
    if not (np.isfinite(stars).all() and np.isfinite(weight).all() and np.isfinite(log_odds).all()):
        raise UnreadableModelFile("not finite", "a level of the like model is NaN or infinite")
    liked = np.flatnonzero(stars == np.float32(liked_at_least))
    if liked.size != 1 or (np.diff(stars) <= 0).any() or (weight <= 0).any():
        raise UnreadableModelFile(
            "inconsistent", "the like model's levels do not rise, or lack liked_at_least"
        )
    movie_bias = arrays["like_movie_bias"]
    rbm = RBM(
        arrays["like_weights"],
        np.concatenate([movie_bias, np.zeros_like(movie_bias)]),
        arrays["like_hidden_bias"],
    )
    return OrdinalRBM(Levels(stars, weight, log_odds, int(liked[0])), rbm, mean_length)


def _reliability(curve: dict[str, Any]) -> Reliability:
    predicted, came_true = (
        tuple(_finite(value) for value in curve[name]) for name in ("predicted", "came_true")
    )
    n = tuple(int(count) for count in curve["n"])
    fits = len(predicted) == len(came_true) == len(n) and all(count > 0 for count in n)
    if not fits or not all(0 <= share <= 1 for share in predicted + came_true):
        raise UnreadableModelFile("inconsistent", "the reliability curve is none")
    return Reliability(predicted, came_true, n)


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnreadableModelFile("not finite", f"{value!r} stands where a number should")
    return float(value)


def _check(model: TrainedModel) -> None:
    """Refuse parts that do not fit one another, and numbers that are none."""
    _check_shapes(model)
    _check_numbers(model)
    configuration, linear = model.configuration, model.linear
    if configuration.rank_liked_at_least is None or configuration.like_strength is None:
        raise UnreadableModelFile("inconsistent", "the configuration is not resolved")
    popularity, likes = model.popularity, model.likes
    counts_fit = ((likes >= 0) & (likes <= popularity) & (popularity <= model.n_users)).all()
    if not counts_fit or model.n_users < 1:
        raise UnreadableModelFile("inconsistent", "the counts of users, ratings and likes do not fit")
    if linear.n_units > (configuration.linear_units or 0):
        raise UnreadableModelFile("inconsistent", "more linear units than the configuration has")
    if model.weighted.n_units > (configuration.weighted_units or 0):
        raise UnreadableModelFile("inconsistent", "more weighted units than the configuration has")
    if not (linear.variance > 0).all() or not (linear.leading_variance > 0).all():
        raise UnreadableModelFile("inconsistent", "a variance that must be positive is not")
    if model.star_weights.deviation <= 0:
        raise UnreadableModelFile("inconsistent", "the deviation of the stars must be positive")
    slope, short_slope = model.calibration.slope, model.calibration.short_slope
    lengths = (model.mean_length, model.like_model.mean_length)
    if min(*lengths, model.weighted.ridge, slope, slope + short_slope) <= 0:
        raise UnreadableModelFile("inconsistent", "a number that must be positive is not")


def _check_shapes(model: TrainedModel) -> None:
    n_movies, configuration = model.n_movies, model.configuration
    expected = {
        "visible units": (model.rbm.n_visible, DESIGNS[configuration.design].n_visible(n_movies)),
        "hidden units": (model.n_hidden, configuration.hidden_units),
        "linear_weights": (model.linear.weights.shape[0], n_movies),
        "weighted_weights": (model.weighted.weights.shape[0], n_movies),
        "movies of the like model": (model.like_model.n_movies, n_movies),
        "popularity": (model.popularity.size, n_movies),
        "likes": (model.likes.size, n_movies),
    }
    for name, (actual, fitting) in expected.items():
        if actual != fitting:
            raise UnreadableModelFile("wrong shape", f"{name}: {actual} where {fitting} are expected")


def _check_numbers(model: TrainedModel) -> None:
    for name, array in _parameters(model).items():
        if not np.isfinite(array).all():
            raise UnreadableModelFile("not finite", f"{name} holds NaN or infinity")
