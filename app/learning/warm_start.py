"""Go on from a trained model, with movies that have come or gone since."""

from __future__ import annotations

import dataclasses

import numpy as np

from app.learning.boltzmann.rbm import RBM
from app.learning.configuration import InvalidConfiguration, TrainingConfiguration
from app.learning.trained_model import TrainedModel
from app.learning.vocabulary import Vocabulary


def continued_configuration(
    configuration: TrainingConfiguration, earlier: TrainedModel
) -> TrainingConfiguration:
    """The configuration with a model's values for open settings that decide the units.

    Raises:
        InvalidConfiguration: a setting is neither open nor that of the model.
    """
    before = earlier.configuration
    filled = dataclasses.replace(
        configuration,
        hidden_units=configuration.hidden_units or before.hidden_units,
        rank_liked_at_least=(
            before.rank_liked_at_least
            if configuration.rank_liked_at_least is None
            else configuration.rank_liked_at_least
        ),
    )
    for name in ("design", "hidden_units"):
        value, earlier_value = getattr(filled, name), getattr(before, name)
        if value != earlier_value:
            raise InvalidConfiguration(name, value, f"the model to start from has {earlier_value!r}")
    return filled


def take_over(rbm: RBM, vocabulary: Vocabulary, earlier: TrainedModel) -> None:
    """Copy the hidden biases, and the parameters of movies in both vocabularies.

    A new movie keeps its initial parameters: small random weights and the log-odds of
    its means. The parameters of a movie that is gone are left behind.

    Args:
        rbm: untrained, over `vocabulary`; changed in place.
        vocabulary: the movies of its columns.
        earlier: a model of equal design and number of hidden units; not changed.
    """
    earlier_columns = earlier.vocabulary.columns(vocabulary.movie_ids)
    columns = np.flatnonzero(earlier_columns >= 0)
    earlier_columns = earlier_columns[columns]
    rbm.hidden_bias[...] = earlier.rbm.hidden_bias
    # Units come in blocks, one unit a movie in each.
    blocks, before = rbm.n_visible // len(vocabulary), earlier.n_movies
    for block in range(blocks):
        to, source = columns + block * len(vocabulary), earlier_columns + block * before
        rbm.weights[to] = earlier.rbm.weights[source]
        rbm.visible_bias[to] = earlier.rbm.visible_bias[source]
