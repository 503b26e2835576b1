"""Model files: models come back as they were, and nothing else is accepted."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.learning.configuration import TrainingConfiguration
from app.learning.model_file import FORMAT, UnreadableModelFile, dump, load
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.vocabulary import Vocabulary
from tests.learning.tastes import N_MOVIES, finish, two_camps


@pytest.fixture(scope="module")
def small() -> TrainedModel:
    model, _ = finish(two_camps(20), TrainingConfiguration(epochs=2, hidden_units=4))
    names = ["", "ö", "映画", "m" * 128, *(f"id {column}" for column in range(4, N_MOVIES))]
    return dataclasses.replace(model, vocabulary=Vocabulary(names))


@pytest.fixture(scope="module")
def data(small: TrainedModel) -> bytes:
    return dump(small)


def rewritten(data: bytes, change: Callable[[dict[str, np.ndarray]], None], **how: Any) -> bytes:
    """The file with its arrays changed."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    change(arrays)
    result = io.BytesIO()
    how.get("save", np.savez)(result, **arrays)
    return result.getvalue()


def with_header(data: bytes, **changes: Any) -> bytes:
    """The file with fields of its header changed."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        header = json.loads(arrays["header"].tobytes()) | changes
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)

    return rewritten(data, change)


def reason_of(data: bytes) -> str:
    with pytest.raises(UnreadableModelFile) as caught:
        load(data)
    assert caught.value.reason in str(caught.value)
    return caught.value.reason


def test_models_come_back_as_they_were(small: TrainedModel, data: bytes) -> None:
    loaded = load(data)
    assert loaded.vocabulary == small.vocabulary
    assert loaded.configuration == small.configuration
    row = RatingRows.single([1, 2, 30], [5, 1, 3], N_MOVIES)
    for ask in ("scores", "plain_scores", "like_probability"):
        np.testing.assert_array_equal(getattr(loaded, ask)(row), getattr(small, ask)(row))
    assert loaded.nbytes == small.nbytes
    assert loaded.reliability == small.reliability


@pytest.mark.parametrize("design", ["joint", "masked"])
def test_models_of_every_design_come_back_as_they_were(design: str) -> None:
    settings = {"design": design, "epochs": 2, "hidden_units": 4}
    model, _ = finish(two_camps(20), TrainingConfiguration.from_dict(settings))
    loaded = load(dump(model))
    assert loaded.configuration == model.configuration
    row = RatingRows.single([1, 2, 30], [5, 1, 3], N_MOVIES)
    for ask in ("scores", "plain_scores", "like_probability"):
        np.testing.assert_array_equal(getattr(loaded, ask)(row), getattr(model, ask)(row))


def test_equal_models_give_equal_bytes_and_loading_changes_none(data: bytes) -> None:
    assert dump(load(data)) == data


def test_numpy_reads_it_without_pickle(data: bytes) -> None:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert file["weights"].shape == (N_MOVIES, 4)


def test_a_file_cut_short_is_torn(data: bytes) -> None:
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        assert reason_of(data[:length]) == "torn"


def test_one_altered_byte_in_any_array_is_torn(small: TrainedModel, data: bytes) -> None:
    rbm, like_model = small.rbm, small.like_model
    for array in (
        rbm.weights,
        like_model.rbm.weights,
        like_model.movie_bias,
        small.popularity,
        small.likes,
    ):
        altered = bytearray(data)
        altered[data.index(array.tobytes()) + 5] ^= 1
        assert reason_of(bytes(altered)) == "torn"


def test_something_else_is_foreign() -> None:
    assert reason_of(b"userId,movieId,rating\n") == "torn"
    other = io.BytesIO()
    np.savez(other, weights=np.zeros((2, 2)))
    assert reason_of(other.getvalue()) == "foreign"


def test_a_pickled_array_is_foreign_and_never_executed(data: bytes) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a model file executed code",))

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["likes"] = np.array([Trap()], dtype=object)

    assert reason_of(rewritten(data, change)) == "foreign"
    assert reason_of(pickle.dumps({"weights": [1]})) == "torn"


def test_a_compressed_array_is_foreign_because_it_could_stand_for_gigabytes(data: bytes) -> None:
    assert reason_of(rewritten(data, lambda arrays: None, save=np.savez_compressed)) == "foreign"


def test_a_newer_format_says_so_even_if_it_holds_other_arrays(data: bytes) -> None:
    newer = with_header(data, format=FORMAT + 1)
    newer = rewritten(newer, lambda arrays: arrays.update(surprise=np.zeros(1)))
    with pytest.raises(UnreadableModelFile, match="upgrade Harmonium") as caught:
        load(newer)
    assert caught.value.reason == "newer format"


@pytest.mark.parametrize("number", [1, FORMAT - 1])
def test_an_older_format_says_what_to_do(data: bytes, number: int) -> None:
    with pytest.raises(UnreadableModelFile, match="train again") as caught:
        load(with_header(data, format=number))
    assert caught.value.reason == "foreign"


@pytest.mark.parametrize("number", [0, -1, None, "1", [1], True])
def test_a_format_that_never_was_is_foreign(data: bytes, number: Any) -> None:
    assert reason_of(with_header(data, format=number)) == "foreign"


WRONG_SHAPES: list[Callable[[dict[str, np.ndarray]], None]] = [
    lambda arrays: arrays.update(weights=arrays["weights"][:-1]),
    lambda arrays: arrays.update(weights=arrays["weights"].astype(np.float64)),
    lambda arrays: arrays.update(weights=np.asfortranarray(arrays["weights"])),
    lambda arrays: arrays.update(weights=arrays["weights"].ravel()),
    lambda arrays: arrays.update(popularity=arrays["popularity"][:-1]),
    lambda arrays: arrays.update(likes=arrays["likes"][:-1]),
    lambda arrays: arrays.update(like_movie_bias=arrays["like_movie_bias"][:-1]),
    lambda arrays: arrays.update(linear_weights=arrays["linear_weights"][:-1]),
    lambda arrays: arrays.update(linear_variance=arrays["linear_variance"][:-1]),
    lambda arrays: arrays.update(leading_variance=-arrays["leading_variance"]),
    lambda arrays: arrays.update(linear_weights=np.zeros((N_MOVIES, N_MOVIES), np.float32)),  # too many units
    lambda arrays: arrays.update(weighted_weights=arrays["weighted_weights"][:-1]),
    lambda arrays: arrays.update(weighted_weights=np.zeros((N_MOVIES, 65), np.float32)),  # too many units
    lambda arrays: arrays.__delitem__("weighted_weights"),
    lambda arrays: arrays.update(like_weights=arrays["like_weights"][:-1]),
    lambda arrays: arrays.update(like_weights=arrays["like_weights"][:, :-1]),
    lambda arrays: arrays.update(like_hidden_bias=arrays["like_hidden_bias"][:-1]),
    lambda arrays: arrays.update(
        like_weights=arrays["like_weights"][:-2], like_movie_bias=arrays["like_movie_bias"][:-1]
    ),
    lambda arrays: arrays.update(like_level_log_odds=arrays["like_level_log_odds"][:-1]),
    lambda arrays: arrays.update(like_level_stars=arrays["like_level_stars"][::-1].copy()),
    lambda arrays: arrays.update(like_level_stars=arrays["like_level_stars"] + np.float32(0.25)),
    lambda arrays: arrays.update(like_level_weight=-arrays["like_level_weight"]),
    lambda arrays: arrays.update(extra=np.zeros(3)),
    lambda arrays: arrays.__delitem__("likes"),
    lambda arrays: arrays.update(
        weights=arrays["weights"][:, :3], hidden_bias=arrays["hidden_bias"][:3]
    ),  # not the configured number of hidden units
]


@pytest.mark.parametrize("change", WRONG_SHAPES)
def test_arrays_that_do_not_fit_are_refused(
    data: bytes, change: Callable[[dict[str, np.ndarray]], None]
) -> None:
    assert reason_of(rewritten(data, change)) in ("wrong shape", "inconsistent")


def with_content(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The file with one array's raw content changed, and its checksum corrected."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            target.writestr(member, change(content) if member == f"{name}.npy" else content)
    return result.getvalue()


@pytest.mark.parametrize("name", ["header", "weights"])
@pytest.mark.parametrize("content", [b"", b"no array at all", b"\x93NUMPY\x02\x00\x04\x00\x00\x00{}  "])
def test_what_is_no_array_is_foreign(data: bytes, name: str, content: bytes) -> None:
    assert reason_of(with_content(data, name, lambda _: content)) == "foreign"


@pytest.mark.parametrize("text", [b"no JSON", b"[]", b'{"kind": "another"}', b"[" * 100_000])
def test_a_header_that_is_none_is_foreign(data: bytes, text: bytes) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["header"] = np.frombuffer(text, np.uint8)

    assert reason_of(rewritten(data, change)) == "foreign"


@given(st.sampled_from(["header", "weights", "movie_id_offsets", "movie_id_bytes"]), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bytes_written_over_an_array_raise_no_other_error(
    data: bytes, name: str, draw: st.DataObject
) -> None:
    place = draw.draw(st.integers(0, 1_000))
    over = draw.draw(st.binary(min_size=1, max_size=8))
    altered = with_content(data, name, lambda content: content[:place] + over + content[place + len(over) :])
    with contextlib.suppress(UnreadableModelFile):
        load(altered)


def test_an_array_that_claims_more_than_it_holds_is_refused_before_memory_is_taken(data: bytes) -> None:
    def lie(content: bytes) -> bytes:
        content = content.replace(b"(60, 4), }", b"(9999999999999, 9999), }", 1)
        header = len(content) - 60 * 4 * 4
        return content[:8] + (header - 10).to_bytes(2, "little") + content[10:]

    assert reason_of(with_content(data, "weights", lie)) == "wrong shape"


@pytest.mark.parametrize(
    "name",
    [
        "weights",
        "visible_bias",
        "hidden_bias",
        "linear_weights",
        "linear_variance",
        "leading_variance",
        "weighted_weights",
        "like_weights",
        "like_movie_bias",
        "like_hidden_bias",
        "like_level_stars",
        "like_level_weight",
        "like_level_log_odds",
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(data: bytes, name: str, value: float) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[1] = value

    assert reason_of(rewritten(data, change)) == "not finite"


INCONSISTENT: list[dict[str, Any]] = [
    {"configuration": {"design": "no such design"}},
    {"configuration": {"no such setting": 1}},
    {"configuration": []},
    {"configuration": None},
    {"like_model": {}},
    {"like_model": {"mean_length": 0.0}},
    {"weighted": {}},
    {"weighted": {"ridge": 0.0}},
    {"calibration": {"slope": 1.0, "intercept": 0.0}},
    {"calibration": {"slope": -1.0, "intercept": 0.0, "short_slope": 0.0, "short_intercept": 0.0}},
    {"calibration": {"slope": 1.0, "intercept": 0.0, "short_slope": -1.0, "short_intercept": 0.0}},
    {"calibration": 3},
    {"star_weights": {}},
    {"star_weights": {"mean": 3.0, "deviation": 0.0}},
    {"reliability": {}},
    {"reliability": {"predicted": [0.5], "came_true": [0.5], "n": []}},
    {"reliability": {"predicted": [0.5], "came_true": [1.5], "n": [3]}},
    {"reliability": {"predicted": [0.5], "came_true": [0.5], "n": [-3]}},
    {"n_users": 0},
    {"n_users": "many"},
    {"mean_length": 0},
]


@pytest.mark.parametrize("changes", INCONSISTENT)
def test_values_that_do_not_go_together_are_refused(data: bytes, changes: dict[str, Any]) -> None:
    assert reason_of(with_header(data, **changes)) in ("inconsistent", "wrong shape")


@pytest.mark.parametrize("value", [None, "1", True])
def test_a_scalar_that_is_no_number_is_refused(data: bytes, value: Any) -> None:
    assert reason_of(with_header(data, mean_length=value)) == "not finite"


def test_movie_ids_that_do_not_fit_their_bytes_are_refused(data: bytes) -> None:
    def beyond(arrays: dict[str, np.ndarray]) -> None:
        arrays["movie_id_offsets"] = arrays["movie_id_offsets"] + 1

    def twice(arrays: dict[str, np.ndarray]) -> None:
        arrays["movie_id_offsets"] = arrays["movie_id_offsets"].copy()
        arrays["movie_id_offsets"][2] = 0  # two empty ids

    def not_utf8(arrays: dict[str, np.ndarray]) -> None:
        arrays["movie_id_bytes"] = np.full_like(arrays["movie_id_bytes"], 0xFF)

    for change in (beyond, twice, not_utf8):
        assert reason_of(rewritten(data, change)) == "inconsistent"


def test_counts_that_no_data_could_give_are_refused(data: bytes) -> None:
    for name, value in (("likes", -1), ("likes", 10**6), ("popularity", 10**6)):

        def change(arrays: dict[str, np.ndarray], name: str = name, value: int = value) -> None:
            arrays[name] = np.full_like(arrays[name], value)

        assert reason_of(rewritten(data, change)) == "inconsistent"
