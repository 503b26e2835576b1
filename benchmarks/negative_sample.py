"""What a sampled negative phase costs in quality, on a file of ratings small enough for the dense one, too.

    python -m benchmarks.negative_sample u.data [--sample 300] [--rows-of-a-group 50] [--seeds 3]

Minibatches of so small a file have no groups unless they are told to be smaller than where they are of use.
For each split the dense and the sampled machine are trained with otherwise default settings and compared by
nDCG@10. Then the bias that the sigmoid leaves is measured on the dense machine: what the hidden units receive
is right on average over samples, its sigmoid is not quite.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.learning import sampled_negative_phase
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import ranking_quality
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.rbm import RBM, bernoulli, sigmoid
from app.learning.sampled_negative_phase import SampledContrastiveDivergence
from app.learning.splitting import stratified
from app.learning.training import completed, train
from app.learning.visible_design import DESIGNS
from app.learning.vocabulary import Vocabulary

DRAWS = 400  # samples of units that the bias is averaged over
ROWS = 49


def read(path: Path) -> RatingRows:
    """The first three columns of a file separated by tabs: user, movie, stars."""
    users, movies, stars = np.loadtxt(path, usecols=(0, 1, 2)).T
    (of_users, user), (of_movies, movie) = (np.unique(ids, return_inverse=True) for ids in (users, movies))
    return RatingRows.from_coordinates(user, movie, stars, of_users.size, of_movies.size)


def trained(rows: RatingRows, configuration: TrainingConfiguration) -> Machines:
    """The machines at the end of the training generator."""
    vocabulary = Vocabulary([str(column) for column in range(rows.n_movies)])
    return completed(train(rows, vocabulary, configuration))


def sigmoid_bias(machines: Machines, rows: RatingRows, n_sampled: int) -> tuple[float, float, float]:
    """Mean |bias| of the hidden probabilities, its size beside the spread of one draw, and the input's bias.

    Returns:
        mean over rows and units of |mean over draws of sigmoid(sampled input) - sigmoid(whole input)|; the
        root mean square of a single draw's error; the first figure for the input itself.
    """
    rng = np.random.default_rng(0)
    preferences = rows.preferences(machines.configuration.rank_liked_at_least or 0.0)
    everyone = DESIGNS[machines.configuration.design].units(preferences)
    batch = everyone[rng.permutation(rows.n_users)[:ROWS]]
    rbm = machines.rbm
    learning = SampledContrastiveDivergence(
        rbm,
        np.bincount(everyone.indices, minlength=rbm.n_visible),
        n_sampled,
        momentum=0.0,
        weight_decay=0.0,
        rng=rng,
    )
    state = bernoulli(rbm.hidden_probability(batch), rng)
    whole = rbm.hidden_input(rbm.visible_probability(state))
    mean_input, mean_probability, square = np.zeros_like(whole), np.zeros_like(whole), 0.0
    for _ in range(DRAWS):
        touched = learning.touched(batch)
        part = RBM(rbm.weights[touched.units], rbm.visible_bias[touched.units], rbm.hidden_bias)
        received = touched.imagined(part, state)[1]
        mean_input += received / DRAWS
        mean_probability += sigmoid(received) / DRAWS
        square += float(np.square(sigmoid(received) - sigmoid(whole)).mean()) / DRAWS
    bias = float(np.abs(mean_probability - sigmoid(whole)).mean())
    return bias, float(np.sqrt(square)), float(np.abs(mean_input - whole).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--rows-of-a-group", type=int, default=sampled_negative_phase.ROWS_OF_A_GROUP)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args(arguments)
    sampled_negative_phase.ROWS_OF_A_GROUP = given.rows_of_a_group
    rows = read(given.file)
    ratios = []
    for seed in range(given.seeds):
        training, test = stratified(rows, np.random.default_rng(seed))
        dense, sampled = (
            trained(training, TrainingConfiguration(negative_sample=number)) for number in (0, given.sample)
        )
        ndcg = [
            ranking_quality(machines.scores, training, test).means()["ndcg"] for machines in (dense, sampled)
        ]
        ratios.append(ndcg[1] / ndcg[0])
        print(f"split {seed}: nDCG@10 dense {ndcg[0]:.4f}, sampled {ndcg[1]:.4f}: {ratios[-1] - 1:+.2%}")
    print(f"mean of {given.seeds}: {np.mean(ratios) - 1:+.2%}")
    bias, spread, of_input = sigmoid_bias(dense, training, given.sample)
    print(f"hidden probability: bias {bias:.5f}, error of one draw {spread:.5f}; input: bias {of_input:.5f}")


if __name__ == "__main__":
    main()
