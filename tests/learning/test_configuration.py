"""What may be set, and what is chosen where nothing is."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from app.learning.configuration import InvalidConfiguration, TrainingConfiguration

REFUSED: list[tuple[str, Any]] = [
    ("design", "conditionnal"),
    ("design", None),
    ("algorithm", "sgd"),
    ("hidden_units", 0),
    ("hidden_units", 2.5),
    ("hidden_units", True),
    ("hidden_units", "100"),
    ("epochs", -1),
    ("batch_size", 0),
    ("learning_rate", 0),
    ("learning_rate", math.nan),
    ("learning_rate", math.inf),
    ("momentum", 1.0),
    ("momentum", None),
    ("weight_decay", -0.1),
    ("k", 0),
    ("k", None),
    ("final_rate_share", 1.5),
    ("fold_in_length_power", -1),
    ("seed", -1),
    ("liked_at_least", "3"),
    ("no_such_setting", 1),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_that_is_not_allowed_is_refused_with_its_name_and_what_is(name: str, value: Any) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        TrainingConfiguration.from_dict({name: value})
    assert caught.value.field == name
    assert caught.value.value is value
    assert name in str(caught.value)
    assert caught.value.allowed in str(caught.value)


def test_persistent_chains_need_units_that_are_the_same_for_everyone() -> None:
    with pytest.raises(InvalidConfiguration, match="joint"):
        TrainingConfiguration.from_dict({"design": "masked", "algorithm": "pcd"})
    TrainingConfiguration(design="joint", algorithm="pcd").validated()


def test_every_setting_is_declared_once_with_its_bounds_and_a_line_that_describes_it() -> None:
    settings = {setting.name: setting for setting in TrainingConfiguration.settings()}
    assert list(settings) == list(TrainingConfiguration().as_dict())
    assert settings["design"].choices == ("rated", "joint", "masked")
    assert (settings["epochs"].kind, settings["epochs"].least, settings["epochs"].default) == (
        "whole",
        1,
        None,
    )
    for setting in settings.values():
        assert setting.description
        assert not setting.description.endswith(".")
        assert bool(setting.choices) == (setting.kind == "choice") == (setting.most is None)
        assert setting.checked(setting.default) == setting.default


def test_whole_numbers_become_real_ones_where_the_setting_is_real() -> None:
    rate = TrainingConfiguration(learning_rate=1).validated().learning_rate
    assert isinstance(rate, float)


def test_settings_survive_json() -> None:
    configuration = TrainingConfiguration(hidden_units=7, learning_rate=0.3, design="masked", seed=2**62)
    assert TrainingConfiguration.from_dict(json.loads(json.dumps(configuration.as_dict()))) == configuration
    assert TrainingConfiguration.from_dict({}) == TrainingConfiguration()


def test_every_open_setting_is_filled_in_and_a_set_one_is_kept() -> None:
    resolved = TrainingConfiguration(epochs=3, algorithm="pcd").resolved(943, 1682, 100_000)
    assert resolved.epochs == 3
    assert [name for name, value in resolved.as_dict().items() if value is None] == ["rank_liked_at_least"]
    assert resolved.resolved(943, 1682, 100_000) == resolved
    assert resolved.validated() == resolved


def test_updates_rather_than_epochs_stay_alike() -> None:
    def updates(n_users: int) -> float:
        resolved = TrainingConfiguration().resolved(n_users, 1682, 100 * n_users)
        assert resolved.epochs is not None
        assert resolved.batch_size is not None
        return resolved.epochs * n_users / resolved.batch_size

    assert updates(1_000) == pytest.approx(2_500, rel=0.1)
    assert updates(100_000) == pytest.approx(2_500, rel=0.3)
    assert updates(30) == pytest.approx(2_500, rel=0.3)


def test_linear_units_never_take_more_memory_than_a_bound_however_wide_the_catalogue() -> None:
    for n_users, n_movies in ((943, 1_682), (610, 9_700), (160_000, 59_000), (10**6, 5_000_000)):
        n_units = TrainingConfiguration().resolved(n_users, n_movies, 100 * n_users).linear_units
        assert n_units is not None
        assert n_units <= min(n_users, n_movies)
        assert n_units * n_movies <= 4_000_000
    assert TrainingConfiguration().resolved(943, 1_682, 100_000).linear_units == 943
    assert TrainingConfiguration(linear_units=7).resolved(943, 1_682, 100_000).linear_units == 7
    assert TrainingConfiguration(design="joint").resolved(943, 1_682, 100_000).linear_units == 0


def test_weighted_units_and_the_like_model_have_a_say_in_the_rated_design_alone() -> None:
    for n_users, n_movies, n_units in ((943, 1_682, 64), (12, 1_682, 12), (10**6, 5_000_000, 1)):
        resolved = TrainingConfiguration().resolved(n_users, n_movies, 100 * n_users)
        assert (resolved.weighted_units, resolved.like_strength) == (n_units, 0.4)
    joint = TrainingConfiguration(design="joint").resolved(943, 1_682, 100_000)
    assert (joint.weighted_units, joint.like_strength) == (0, 0.0)
    chosen = TrainingConfiguration(weighted_units=7, like_strength=0.0).resolved(943, 1_682, 100_000)
    assert (chosen.weighted_units, chosen.like_strength) == (7, 0.0)


def test_a_batch_is_never_larger_than_the_data() -> None:
    assert TrainingConfiguration(batch_size=500).resolved(12, 20, 100).batch_size == 12
