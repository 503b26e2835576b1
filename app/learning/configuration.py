"""Settings of a fit: their declarations, and defaults by the shape of the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self


class InvalidConfiguration(ValueError):
    """A training setting has a value that is not allowed; the message says what is.

    Attributes:
        field: name of the setting.
        value: the refused value.
        allowed: the values that are allowed, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} = {value!r} is not allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


@dataclass(frozen=True)
class Setting:
    """Declaration of one setting; HTTP body, command line and documentation follow it.

    Attributes:
        name: of the field of `TrainingConfiguration`, of the JSON field and of `--set
            name=value`.
        kind: `choice` (a str), `whole` (an int) or `real` (a float).
        default: None means: chosen by the shape of the data.
        description: one line, without a full stop.
        least: smallest number that is allowed; None for a choice.
        most: largest number that is allowed; None for a choice.
        choices: values that are allowed; empty for a number.
    """

    name: str
    kind: Literal["choice", "whole", "real"]
    default: str | int | float | None
    description: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The values that are allowed, in words."""
        if self.kind == "choice":
            return f"one of {', '.join(map(repr, self.choices))}"
        article = "a whole number" if self.kind == "whole" else "a number"
        by_shape = ", or null to choose by the shape of the data" if self.default is None else ""
        return f"{article} from {self.least:g} to {self.most:g}{by_shape}"

    def checked(self, value: Any) -> Any:
        """The value in its proper type.

        Raises:
            InvalidConfiguration: the value is out of range or of another type.
        """
        if value is None and self.default is None:
            return None
        if self.kind == "choice":
            is_allowed = value in self.choices
        else:
            number = int if self.kind == "whole" else (int, float)
            # A bool is an int to Python; NaN fails the comparison.
            is_number = isinstance(value, number) and not isinstance(value, bool)
            assert self.least is not None and self.most is not None  # noqa: S101, PT018 - for mypy
            is_allowed = is_number and self.least <= value <= self.most
        if not is_allowed:
            raise InvalidConfiguration(self.name, value, self.allowed)
        return float(value) if self.kind == "real" else value


def _choice(description: str, *choices: str) -> Any:
    return field(
        default=choices[0], metadata={"kind": "choice", "choices": choices, "description": description}
    )


def _number(kind: str, default: float | None, least: float, most: float, description: str) -> Any:
    metadata = {"kind": kind, "least": least, "most": most, "description": description}
    return field(default=default, metadata=metadata)


def _whole(default: int | None, least: int, most: int, description: str) -> Any:
    return _number("whole", default, least, most, description)


def _real(default: float | None, least: float, most: float, description: str) -> Any:
    return _number("real", default, least, most, description)


SAMPLED_FROM_MOVIES = 20_000  # catalogues from here on train with a sampled negative phase
SAMPLED_UNITS = 2_000
LINEAR_WEIGHTS = 4_000_000  # of all linear units together: 16 MB
WEIGHTED_UNITS = 64
WEIGHTED_WEIGHTS = 8_000_000  # of all weighted units together: 32 MB
LIKE_STRENGTH = 0.4


@dataclass(frozen=True)
class TrainingConfiguration:
    """How to train. None means: choose by the shape of the data (see `resolved`).

    Each field declares one setting; `settings` lists them.
    """

    design: Literal["rated", "joint", "masked"] = _choice(
        "visible layer of the ranking RBM: rated (one unit a movie, on if rated, always observed), joint "
        "(two units a movie, rated and liked, always observed) or masked (one unit a movie, on if liked, "
        "unrated units take no part)",
        "rated",
        "joint",
        "masked",
    )
    hidden_units: int | None = _whole(None, 1, 10_000, "number of binary hidden units")
    linear_units: int | None = _whole(
        None,
        0,
        100_000,
        "linear hidden units beside the binary ones; 0 for none; never more than users or movies",
    )
    linear_strength: float = _real(
        6.0, 0.0, 1_000.0, "weight of the linear units' expectation of a movie in its score"
    )
    weighted_units: int | None = _whole(
        None,
        0,
        10_000,
        "hidden units to which a rating says more than an absence; 0 for none; never more than users or "
        "movies",
    )
    weighted_strength: float = _real(
        12.0, 0.0, 1_000.0, "weight of the weighted units' reconstruction of a movie in its score"
    )
    like_strength: float | None = _real(
        None, 0.0, 100.0, "weight of the log-odds of liking a movie, beside those of rating it, in its score"
    )
    grade_slope: float = _real(
        0.22,
        0.0,
        1.0,
        "how much more a rating one deviation above the mean counts at fold-in than an average one, in the "
        "rated design; 0 counts all alike",
    )
    epochs: int | None = _whole(None, 1, 100_000, "passes over the users")
    batch_size: int | None = _whole(None, 1, 100_000, "users in a minibatch")
    learning_rate: float | None = _real(
        None, 1e-6, 10.0, "learning rate of the first update, per mean log-likelihood of a row"
    )
    final_rate_share: float = _real(
        0.01, 0.0, 1.0, "share of the learning rate that is left at the end of half a cosine"
    )
    momentum: float = _real(0.5, 0.0, 0.999, "share of the last step that the next one repeats")
    weight_decay: float | None = _real(
        None, 0.0, 10.0, "pull of the weights towards zero, in units of the learning rate"
    )
    k: int = _whole(1, 1, 1_000, "Gibbs steps of contrastive divergence")
    algorithm: Literal["cd", "pcd"] = _choice(
        "where the negative phase starts: cd at the minibatch, pcd at persistent chains", "cd", "pcd"
    )
    chains: int | None = _whole(None, 1, 100_000, "number of persistent chains; pcd only")
    negative_sample: int | None = _whole(
        None,
        0,
        10_000_000,
        "units that the negative phase samples by popularity beside the minibatch's own; 0 takes all; only "
        "huge catalogues gain",
    )
    liked_at_least: float = _real(
        3.0, -1e6, 1e6, "stars from which a movie counts as liked: what like_probability is about"
    )
    rank_liked_at_least: float | None = _real(
        None, -1e6, 1e6, "stars from which a movie counts as liked in the ranking RBM"
    )
    fold_in_length_power: float = _real(
        0.75,
        0.0,
        2.0,
        "fold-in multiplies the hidden input by (mean row length / row length) to this power; 0 for no scale",
    )
    popularity_ratings: float = _real(
        4.0, 0.0, 10_000.0, "what popularity weighs in every list, in ratings of the user"
    )
    seed: int = _whole(0, 0, 2**63 - 1, "seed of every random choice")

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """The declarations of all settings, in the order of the fields."""
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls)
        defaults: dict[str, Any] = {spec.name: spec.default for spec in fields}
        return tuple(Setting(spec.name, default=defaults[spec.name], **spec.metadata) for spec in fields)

    def validated(self) -> Self:
        """This configuration with every number in its proper type.

        Raises:
            InvalidConfiguration: the first setting that is out of range or of the wrong
                type, or a pair of settings that do not go together.
        """
        values = {setting.name: setting.checked(getattr(self, setting.name)) for setting in self.settings()}
        if values["algorithm"] == "pcd" and values["design"] == "masked":
            raise InvalidConfiguration(
                "algorithm",
                "pcd",
                "persistent chains need visible units that are the same for every user: "
                "take design = 'rated' or 'joint', or algorithm = 'cd'",
            )
        if values["negative_sample"] and not self._samples_well:
            raise InvalidConfiguration(
                "negative_sample",
                values["negative_sample"],
                "a sampled negative phase needs units that are always observed (design = 'rated'), "
                "algorithm = 'cd' and k = 1; or take negative_sample = 0",
            )
        return dataclasses.replace(self, **values)

    def resolved(self, n_users: int, n_movies: int, n_ratings: int) -> Self:
        """This configuration with every None filled in from the shape of the data.

        Data sets of all sizes need about as many *updates*, not epochs: a few hundred
        users need many epochs, a million need few. Wide catalogues need more updates
        and more hidden units; few users need more weight decay. The constants were
        measured on ML-100K (943 users, 1,682 movies: 400 hidden units, 130 epochs of 49
        users, decay 0.05) and on parts of it. `rank_liked_at_least` depends on the
        stars and is left to `train`.

        Args:
            n_users: users with at least one rating.
            n_movies: movies in the vocabulary.
            n_ratings: number of ratings.
        """
        n_users = max(n_users, 1)  # an empty catalogue is refused later, with a better message
        masked, persistent = self.design == "masked", self.algorithm == "pcd"
        filled: dict[str, int | float] = {}
        width = n_movies / 1_682
        batch_size = self.batch_size or round(min(max(1.6 * math.sqrt(n_users), 10), 500))
        filled["batch_size"] = min(batch_size, n_users)
        updates = 2_500 * width**0.35
        filled["epochs"] = self.epochs or max(10, math.ceil(updates * filled["batch_size"] / n_users))
        units = 40 if self.design == "rated" else 20
        filled["hidden_units"] = self.hidden_units or min(max(round(units * width**0.3) * 10, 50), 400)
        if self.linear_units is None:
            most = min(n_users, n_movies, LINEAR_WEIGHTS // max(n_movies, 1))
            filled["linear_units"] = most if self.design == "rated" else 0
        if self.weighted_units is None:
            most = min(n_users, n_movies, WEIGHTED_UNITS, WEIGHTED_WEIGHTS // max(n_movies, 1))
            filled["weighted_units"] = most if self.design == "rated" else 0
        if self.like_strength is None:
            filled["like_strength"] = LIKE_STRENGTH if self.design == "rated" else 0.0
        if self.learning_rate is None:
            filled["learning_rate"] = 0.05 if persistent else 0.15 if self.design == "rated" else 0.1
        if self.weight_decay is None:
            by_users = min(max(math.sqrt(943 / n_users), 0.05), 5.0)
            decay = 0.01 if masked or persistent else 0.05
            filled["weight_decay"] = round(decay * by_users, 6)
        if persistent and self.chains is None:
            filled["chains"] = max(100, filled["batch_size"])
        if self.negative_sample is None:
            # Below, minibatches rate a good part of the catalogue, and all of it costs
            # little more.
            huge = n_movies >= SAMPLED_FROM_MOVIES and self._samples_well
            filled["negative_sample"] = SAMPLED_UNITS if huge else 0
        return dataclasses.replace(self, **filled)  # type: ignore[arg-type]

    @property
    def _samples_well(self) -> bool:
        """Whether the negative phase can be sampled: all observed, one step."""
        return self.design != "masked" and self.algorithm == "cd" and self.k == 1

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON-safe values, for `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """A validated configuration; absent settings keep their defaults.

        Raises:
            InvalidConfiguration: an unknown name, or a value that `validated` refuses.
        """
        known = [setting.name for setting in cls.settings()]
        for name, value in settings.items():
            if name not in known:
                raise InvalidConfiguration(str(name), value, f"the settings are {', '.join(known)}")
        return cls(**settings).validated()
