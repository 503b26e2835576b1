"""What a sampled negative phase costs in quality, where the dense one fits, too.

    python -m benchmarks.negative_sample u.data [--sample 300]
        [--rows-of-a-group 50] [--seeds 3]

Minibatches of so small a file have no groups unless --rows-of-a-group makes those very
small. For each split the dense and the sampled model are trained with otherwise
default settings and compared by nDCG@10. Then the bias that the sigmoid leaves is
measured on the dense model: what the hidden units receive is right on average over
samples, its sigmoid is not quite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.learning.boltzmann import sampled_negatives as sampled_negative_phase
from app.learning.boltzmann.rbm import RBM, bernoulli, sigmoid
from app.learning.boltzmann.sampled_negatives import SampledContrastiveDivergence
from app.learning.boltzmann.visible_design import DESIGNS
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation.quality import ranking_quality
from app.learning.evaluation.splitting import stratified
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from benchmarks.ratings import read, trained
from benchmarks.report import parser, seeds_of, write_json

DRAWS = 400  # samples of units that the bias is averaged over
ROWS = 49


def sigmoid_bias(model: TrainedModel, rows: RatingRows, n_sampled: int) -> tuple[float, float, float]:
    """Mean |bias| of hidden probabilities, also relative to one draw; the input's bias.

    Returns:
        mean over rows and units of |mean over draws of sigmoid(sampled input) -
        sigmoid(whole input)|; the root mean square of a single draw's error; the first
        figure for the input itself.
    """
    rng = np.random.default_rng(0)
    preferences = rows.preferences(model.configuration.rank_liked_at_least or 0.0)
    everyone = DESIGNS[model.configuration.design].units(preferences)
    batch = everyone[rng.permutation(rows.n_users)[:ROWS]]
    rbm = model.rbm
    learning = SampledContrastiveDivergence(
        rbm,
        np.bincount(everyone.indices, minlength=rbm.n_visible),
        n_sampled,
        momentum=0.0,
        weight_decay=0.0,
        rng=rng,
    )
    state = bernoulli(rbm.hidden_probability(batch), rng)
    whole = rbm.hidden_input(rbm.visible_mean(state))
    mean_input, mean_probability, square = np.zeros_like(whole), np.zeros_like(whole), 0.0
    for _ in range(DRAWS):
        touched = learning.touched(batch)
        part = RBM(rbm.weights[touched.units], rbm.visible_bias[touched.units], rbm.hidden_bias)
        received = touched.reconstruction(part, state).hidden_input
        mean_input += received / DRAWS
        mean_probability += sigmoid(received) / DRAWS
        square += float(np.square(sigmoid(received) - sigmoid(whole)).mean()) / DRAWS
    bias = float(np.abs(mean_probability - sigmoid(whole)).mean())
    return bias, float(np.sqrt(square)), float(np.abs(mean_input - whole).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__, ratings=True, seeds=3)
    options_of.add_argument("--sample", type=int, default=300)
    options_of.add_argument("--rows-of-a-group", type=int, default=sampled_negative_phase.ROWS_OF_A_GROUP)
    options = options_of.parse_args(arguments)
    sampled_negative_phase.ROWS_OF_A_GROUP = options.rows_of_a_group
    rows = read(options.ratings)
    ratios = []
    for seed in seeds_of(options):
        training, test = stratified(rows, np.random.default_rng(seed))
        dense, sampled = (
            trained(training, TrainingConfiguration(negative_sample=number)) for number in (0, options.sample)
        )
        ndcg = [ranking_quality(model.scores, training, test).means()["ndcg"] for model in (dense, sampled)]
        ratios.append(ndcg[1] / ndcg[0])
        print(f"split {seed}: nDCG@10 dense {ndcg[0]:.4f}, sampled {ndcg[1]:.4f}: {ratios[-1] - 1:+.2%}")
    print(f"mean of {options.seeds}: {np.mean(ratios) - 1:+.2%}")
    bias, spread, of_input = sigmoid_bias(dense, training, options.sample)
    print(f"hidden probability: bias {bias:.5f}, error of one draw {spread:.5f}; input: bias {of_input:.5f}")
    write_json(
        {"ratios": ratios, "bias": bias, "error_of_one_draw": spread, "input_bias": of_input}, options.json
    )


if __name__ == "__main__":
    main()
