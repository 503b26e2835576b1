"""scikit-learn's digits example with Harmonium's RBM: how good are its features?

    python -m benchmarks.digits [--picture docs/digits.png]

https://scikit-learn.org/stable/auto_examples/neural_networks/plot_rbm_logistic_classification.html:
1,797 digits of 8 x 8 pixels, each also nudged by a pixel in four directions; a logistic
regression on the hidden features of an RBM of 100 units beside one on the raw
pixels. Both RBMs get the same data and settings: persistent CD-1, batch 10, rate
0.06, 10 epochs, biases that start at zero, small weights. One split says little, as
either RBM moves by .005 from seed to seed: means over splits are compared, and the
difference is paired by split.

The picture shows the filters (the weights of each hidden unit) above, and below them
twenty digits of the test set over their reconstructions.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import shift
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import BernoulliRBM

from app.learning.boltzmann.contrastive_divergence import (
    PersistentContrastiveDivergence,
    fit,
    random_chains,
)
from app.learning.boltzmann.optimisers import SGD
from app.learning.boltzmann.rbm import RBM
from benchmarks.report import parser, seeds_of, write_json

N_HIDDEN, RATE, EPOCHS, BATCH = 100, 0.06, 10, 10
SIDE = 8  # pixels
PICTURED = 20  # digits in the picture
Pixels = NDArray[np.float32]


def nudged_digits() -> tuple[Pixels, NDArray[np.int64]]:
    """The digits and their four neighbours, (5 x 1797, 64) from 0 to 1, and labels."""
    data, meaning = load_digits(return_X_y=True)
    images = data.reshape(-1, SIDE, SIDE)
    # order=0: a spline would leave traces of rounding in the empty columns, which
    # scaling then blows up.
    directions = ((0, 1), (0, -1), (1, 0), (-1, 0))
    moved = [images, *(shift(images, (0, down, right), order=0) for down, right in directions)]
    pixels = np.concatenate(moved).reshape(-1, SIDE * SIDE)
    pixels = (pixels - pixels.min(axis=0)) / (pixels.max(axis=0) - pixels.min(axis=0) + 1e-4)
    return np.clip(pixels, 0, 1).astype(np.float32), np.tile(meaning, 5)


def trained(pixels: Pixels, seed: int) -> RBM:
    """Harmonium's RBM."""
    rng = np.random.default_rng(seed)
    rbm = RBM.initial(np.zeros(pixels.shape[1]), N_HIDDEN, rng)
    updates = fit(
        rbm,
        pixels,
        rng,
        algorithm=PersistentContrastiveDivergence(random_chains(rbm, BATCH, rng)),
        optimiser=SGD(),
        learning_rate=RATE,
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    deque(updates, maxlen=0)
    return rbm


def accuracy(
    features: tuple[Pixels, Pixels], meanings: tuple[NDArray[np.int64], NDArray[np.int64]], strength: float
) -> float:
    """Share of test digits that a logistic regression on the others gets right."""
    classifier: Any = LogisticRegression(solver="newton-cg", C=strength, tol=1e-4)
    return float(classifier.fit(features[0], meanings[0]).score(features[1], meanings[1]))


def picture(rbm: RBM, digits: Pixels) -> NDArray[np.uint8]:
    """The filters in five rows of twenty, above digits and their reconstructions."""
    filters = rbm.weights.T
    reach = np.abs(filters).max(axis=1, keepdims=True)
    above = _tiles((filters / reach + 1) / 2, 20)
    below = _tiles(np.concatenate((digits, rbm.reconstruct(digits))), len(digits))
    gap = np.full((SIDE, above.shape[1]), 255, np.uint8)
    return np.concatenate((above, gap, below))


def _tiles(images: Pixels, across: int) -> NDArray[np.uint8]:
    """Grey images from 0 to 1 side by side, with a white pixel around each."""
    framed = np.ones((len(images), SIDE + 2, SIDE + 2))
    framed[:, 1:-1, 1:-1] = images.reshape(-1, SIDE, SIDE)
    rows = framed.reshape(-1, across, SIDE + 2, SIDE + 2).transpose(0, 2, 1, 3)
    grey: NDArray[np.uint8] = np.rint(255 * rows.reshape(-1, across * (SIDE + 2))).astype(np.uint8)
    return grey


def write_png(path: Path, grey: NDArray[np.uint8], scale: int = 4) -> None:
    """An 8-bit grey picture, enlarged; PNG needs no more than zlib and three chunks."""
    large = np.kron(grey, np.ones((scale, scale), np.uint8))
    height, width = large.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter, 0: none
    lines[:, 1:] = large

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _mean(values: Sequence[float]) -> str:
    """The mean and half the width of its 95 % interval, by Student's t."""
    if len(values) < 2:
        return f"{np.mean(values):.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.4f} ± {half:.4f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__, seeds=10)
    options_of.add_argument("--picture", type=Path, default=Path("digits.png"))
    options = options_of.parse_args(arguments)
    pixels, meaning = nudged_digits()
    results: dict[str, list[float]] = {
        "raw pixels": [],
        "scikit-learn's RBM": [],
        "Harmonium's RBM": [],
    }
    seconds: dict[str, list[float]] = {name: [] for name in results}
    for seed in seeds_of(options):
        train, test, train_meaning, test_meaning = train_test_split(
            pixels, meaning, test_size=0.2, random_state=seed
        )
        meanings = train_meaning, test_meaning
        results["raw pixels"].append(accuracy((train, test), meanings, 100.0))

        started = time.perf_counter()
        theirs: Any = BernoulliRBM(
            N_HIDDEN, learning_rate=RATE, n_iter=EPOCHS, batch_size=BATCH, random_state=seed
        ).fit(train)
        seconds["scikit-learn's RBM"].append(time.perf_counter() - started)
        features = theirs.transform(train), theirs.transform(test)
        results["scikit-learn's RBM"].append(accuracy(features, meanings, 6_000.0))

        started = time.perf_counter()
        ours = trained(train, seed)
        seconds["Harmonium's RBM"].append(time.perf_counter() - started)
        features = ours.hidden_probability(train), ours.hidden_probability(test)
        results["Harmonium's RBM"].append(accuracy(features, meanings, 6_000.0))
        if seed == options.first_seed:
            write_png(options.picture, picture(ours, test[:PICTURED]))
    for name, shares in results.items():
        spent = f", {np.median(seconds[name]):.1f} s to train" if seconds[name] else ""
        splits = ", ".join(f"{share:.3f}" for share in shares)
        print(f"{name}: {_mean(shares)} right (splits: {splits}){spent}")
    model = results["Harmonium's RBM"], results["scikit-learn's RBM"]
    differences = [ours - theirs for ours, theirs in zip(*model, strict=True)]
    print(f"Harmonium's RBM minus scikit-learn's, split by split: {_mean(differences)}")
    print(f"filters and reconstructions: {options.picture}")
    write_json({"accuracy": results, "seconds": seconds}, options.json)


if __name__ == "__main__":
    main()
