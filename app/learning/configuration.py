"""The settings of one training run: what is allowed, and the defaults that the shape of the data asks for."""

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
        value: what was given.
        allowed: what may be given instead, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} = {value!r} is not allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


def _one_of(default: str, *choices: str) -> Any:
    return field(default=default, metadata={"kind": "choice", "choices": choices})


def _whole(default: int | None, least: int, most: int) -> Any:
    return field(default=default, metadata={"kind": "whole", "least": least, "most": most})


def _real(default: float | None, least: float, most: float) -> Any:
    return field(default=default, metadata={"kind": "real", "least": least, "most": most})


SAMPLED_FROM_MOVIES = 20_000  # catalogues from here on train with a sampled negative phase
SAMPLED_UNITS = 2_000
LINEAR_WEIGHTS = 4_000_000  # of all linear units together: 16 MB
WEIGHTED_UNITS = 64
WEIGHTED_WEIGHTS = 8_000_000  # of all weighted units together: 32 MB
LIKE_STRENGTH = 0.4


@dataclass(frozen=True)
class TrainingConfiguration:
    """How to train. None means: choose by the shape of the data (see `resolved`).

    Attributes:
        design: the visible layer of the machine that ranks; `rated` (one unit a movie, on if it was rated,
            always observed; at fold-in a rating counts by its stars), `joint` (two units a movie, rated and
            liked, always observed), `positive` (one unit a movie, on if it reached `rank_liked_at_least`,
            always observed), `masked` (one unit a movie, unrated units take no part) or `conditional`
            (masked, and which movies were rated conditions the hidden units).
        hidden_units: number of binary hidden units.
        linear_units: number of linear hidden units beside them (see `linear_units`); 0 for none. There are
            never more than users or movies.
        linear_strength: what a movie's expectation by the linear units counts in its log-odds.
        weighted_units: number of weighted hidden units (see `weighted_units`); 0 for none. There are never
            more than users or movies.
        weighted_strength: what a movie's reconstruction by the weighted units counts in its log-odds.
        like_strength: what the judge's log-odds of liking a movie count in its score, beside the log-odds of
            rating it.
        grade_slope: what a rating that is one deviation above the mean counts more than an average one at
            fold-in (see `Grading`); 0 counts all alike. Masked, positive, joint and conditional units do not
            look at it.
        epochs: passes over the users.
        batch_size: users in a minibatch.
        learning_rate: of the first update, per mean log-likelihood of a row.
        final_rate_share: the learning rate falls along half a cosine to this share of its start.
        momentum: share of the last step that the next one repeats.
        weight_decay: pull of the weights towards zero, in units of the learning rate.
        k: Gibbs steps of the negative phase.
        algorithm: `cd` starts the negative phase at the minibatch, `pcd` goes on from persistent chains.
        chains: number of persistent chains (pcd only).
        negative_sample: how many units the negative phase touches beside those of the minibatch, drawn by
            popularity; 0 touches all. Only huge catalogues gain (see `sampled_negative_phase`).
        liked_at_least: stars from which a movie counts as liked; like_probability means exactly this.
        rank_liked_at_least: the same threshold inside the machine that ranks.
        fold_in_length_power: at fold-in the visible-to-hidden input is multiplied by
            (mean row length / this row's length) ** power; 0 switches it off.
        popularity_ratings: what popularity weighs beside the machine in every list, in ratings of the user:
            with n of them the machine has the weight n / (n + popularity_ratings).
        seed: of every random choice.
    """

    design: Literal["rated", "joint", "masked", "positive", "conditional"] = _one_of(
        "rated", "rated", "joint", "masked", "positive", "conditional"
    )
    hidden_units: int | None = _whole(None, 1, 10_000)
    linear_units: int | None = _whole(None, 0, 100_000)
    linear_strength: float = _real(6.0, 0.0, 1_000.0)
    weighted_units: int | None = _whole(None, 0, 10_000)
    weighted_strength: float = _real(12.0, 0.0, 1_000.0)
    like_strength: float | None = _real(None, 0.0, 100.0)
    grade_slope: float = _real(0.22, 0.0, 1.0)
    epochs: int | None = _whole(None, 1, 100_000)
    batch_size: int | None = _whole(None, 1, 100_000)
    learning_rate: float | None = _real(None, 1e-6, 10.0)
    final_rate_share: float = _real(0.01, 0.0, 1.0)
    momentum: float = _real(0.5, 0.0, 0.999)
    weight_decay: float | None = _real(None, 0.0, 10.0)
    k: int = _whole(1, 1, 1_000)
    algorithm: Literal["cd", "pcd"] = _one_of("cd", "cd", "pcd")
    chains: int | None = _whole(None, 1, 100_000)
    negative_sample: int | None = _whole(None, 0, 10_000_000)
    liked_at_least: float = _real(3.0, -1e6, 1e6)
    rank_liked_at_least: float | None = _real(None, -1e6, 1e6)
    fold_in_length_power: float = _real(0.75, 0.0, 2.0)
    popularity_ratings: float = _real(4.0, 0.0, 10_000.0)
    seed: int = _whole(0, 0, 2**63 - 1)

    def validated(self) -> Self:
        """This configuration with every number in its proper type.

        Raises:
            InvalidConfiguration: the first setting that is out of range or of the wrong type, or a pair
                of settings that do not go together.
        """
        values = {spec.name: _checked(spec, getattr(self, spec.name)) for spec in dataclasses.fields(self)}
        if values["algorithm"] == "pcd" and values["design"] in ("masked", "conditional"):
            raise InvalidConfiguration(
                "algorithm",
                "pcd",
                "persistent chains need visible units that are the same for every user: "
                "take design = 'rated', 'joint' or 'positive', or algorithm = 'cd'",
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

        What has to stay alike from one data set to the next is the number of *updates*, not of epochs: a few
        hundred users need many epochs, a million need few. Wide catalogues need more updates and more hidden
        units; few users need more weight decay. The constants were measured on ML-100K (943 users, 1,682
        movies: 400 hidden units, 130 epochs of 49 users, decay 0.05) and on parts of it.
        `rank_liked_at_least` depends on the stars themselves and is left to `train`.

        Args:
            n_users: users with at least one rating.
            n_movies: movies in the vocabulary.
            n_ratings: number of ratings.
        """
        n_users = max(n_users, 1)  # an empty catalogue is refused later, with a better message
        masked, persistent = self.design in ("masked", "conditional"), self.algorithm == "pcd"
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
            decay = 0.01 if masked or persistent else 0.03 if self.design == "positive" else 0.05
            filled["weight_decay"] = round(decay * by_users, 6)
        if persistent and self.chains is None:
            filled["chains"] = max(100, filled["batch_size"])
        if self.negative_sample is None:
            # Below, minibatches rate a good part of the catalogue, and all of it costs little more.
            huge = n_movies >= SAMPLED_FROM_MOVIES and self._samples_well
            filled["negative_sample"] = SAMPLED_UNITS if huge else 0
        return dataclasses.replace(self, **filled)  # type: ignore[arg-type]

    @property
    def _samples_well(self) -> bool:
        """Whether the negative phase can be sampled: units that are always observed, one step from data."""
        return self.design not in ("masked", "conditional") and self.algorithm == "cd" and self.k == 1

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON-safe values, for `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """A validated configuration; settings that are not given keep their defaults.

        Raises:
            InvalidConfiguration: an unknown name, or a value that `validated` refuses.
        """
        known = [spec.name for spec in dataclasses.fields(cls)]
        for name, value in settings.items():
            if name not in known:
                raise InvalidConfiguration(str(name), value, f"the settings are {', '.join(known)}")
        return cls(**settings).validated()


def _checked(spec: dataclasses.Field[Any], value: Any) -> Any:
    kind = spec.metadata["kind"]
    if kind == "choice":
        choices = spec.metadata["choices"]
        if value not in choices:
            raise InvalidConfiguration(spec.name, value, f"one of {', '.join(map(repr, choices))}")
        return value
    least, most = spec.metadata["least"], spec.metadata["most"]
    optional = spec.default is None
    if value is None and optional:
        return None
    number = (int,) if kind == "whole" else (int, float)
    # A bool is an int to Python; NaN fails the comparison.
    if isinstance(value, bool) or not isinstance(value, number) or not least <= value <= most:
        article = "a whole number" if kind == "whole" else "a number"
        by_shape = ", or null to choose by the shape of the data" if optional else ""
        raise InvalidConfiguration(spec.name, value, f"{article} from {least:g} to {most:g}{by_shape}")
    return value if kind == "whole" else float(value)
