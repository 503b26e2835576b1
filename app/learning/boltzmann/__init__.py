"""A small library of RBMs; `transformer` is its scikit-learn interface.

May import NumPy and SciPy (`transformer` alone scikit-learn too), and `rating_matrix`
for designs. Start with `rbm`, `reference` and `contrastive_divergence`;
`training.train` fits movie ratings.
"""
