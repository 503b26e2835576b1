"""Go on from machines that are already trained, with movies that have come or gone since."""

from __future__ import annotations

import dataclasses

import numpy as np

from app.learning.configuration import InvalidConfiguration, TrainingConfiguration
from app.learning.machines import Machines
from app.learning.rbm import RBM
from app.learning.vocabulary import Vocabulary


def continued_configuration(configuration: TrainingConfiguration, earlier: Machines) -> TrainingConfiguration:
    """The configuration with the open settings that decide what the units mean taken from the machines.

    Raises:
        InvalidConfiguration: a setting is given, and is not that of the machines.
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
        wanted, there_is = getattr(filled, name), getattr(before, name)
        if wanted != there_is:
            raise InvalidConfiguration(name, wanted, f"the machines to start from have {there_is!r}")
    return filled


def take_over(rbm: RBM, vocabulary: Vocabulary, earlier: Machines) -> None:
    """Copy the hidden biases, and the parameters of every movie that both vocabularies know.

    A movie that is new keeps what an untrained machine has for it: small random weights and the log-odds of
    its means. The parameters of a movie that is gone are left behind.

    Args:
        rbm: an untrained machine over `vocabulary`, changed in place.
        vocabulary: the movies of its columns.
        earlier: machines of the same design and number of hidden units; not changed.
    """
    there = earlier.vocabulary.columns(vocabulary.movie_ids)
    here = np.flatnonzero(there >= 0)
    there = there[here]
    rbm.hidden_bias[...] = earlier.rbm.hidden_bias
    # Units come in blocks, one unit a movie in each.
    blocks, before = rbm.n_visible // len(vocabulary), earlier.n_movies
    for block in range(blocks):
        to, source = here + block * len(vocabulary), there + block * before
        rbm.weights[to] = earlier.rbm.weights[source]
        rbm.visible_bias[to] = earlier.rbm.visible_bias[source]
