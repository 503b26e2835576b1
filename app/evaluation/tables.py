"""The tables of an evaluation: every figure of every method, overall and by slices."""

from dataclasses import dataclass, field
from typing import Literal

from app.learning.evaluation.metrics import Interval

SliceKind = Literal["users", "movies", "genre"]


@dataclass(frozen=True)
class ReliabilityBin:
    """Test ratings of about equal like_probability.

    Attributes:
        predicted: their mean like_probability.
        observed: their liked share.
        n: their number, on average over the seeds.
    """

    predicted: float
    observed: Interval
    n: float


@dataclass(frozen=True)
class Row:
    """The figures of one method.

    Attributes:
        name: of the method.
        figures: by name. Of a ranking: ndcg, precision, recall, average_precision and
            reciprocal_rank at 10, each as any_… (every test rating is relevant) and
            relevant_… (those of at least `relevant_at_least` stars); coverage of the
            catalogue, novelty (bits) and popularity (mean share of the training users
            who rated a listed movie) of the first 10; the figures of 20 as …_at_20. Of
            a like model: auc, brier, calibration_error and absolute_difference of
            like_probability, and auc_relevant, of the same numbers at
            `relevant_at_least`. In slices of movies: any_recall, relevant_recall,
            coverage, and shown, the share of the ranks that these movies take.
        by_seed: the figures seed by seed, to compare two rows in pairs.
        behind: the first row's figure less this one's, in pairs (of seeds or users), by
            name.
        reliability: of a like model: the bins of its reliability curve.
        histogram: of a like model: test ratings by like_probability, from 0 to 1 in
            steps of equal width, on average over the seeds.
        skipped: why there are no figures.
    """

    name: str
    figures: dict[str, Interval] = field(default_factory=dict)
    by_seed: dict[str, list[float]] = field(default_factory=dict)
    behind: dict[str, Interval] = field(default_factory=dict)
    reliability: list[ReliabilityBin] = field(default_factory=list)
    histogram: list[float] = field(default_factory=list)
    skipped: str | None = None


@dataclass(frozen=True)
class Slice:
    """The figures of some of the users, or of some of the movies.

    Attributes:
        kind: what is divided.
        name: few, middle or many; head, middle or tail; or the genre.
        n: users or movies, on average over the seeds.
        fewest, most: ratings of the profile of one of these users, or training ratings
            of one of these movies, on average over the seeds.
        test_share: share of all test ratings by these users, or of these movies.
        rows: in the order of the section; only those with figures.
    """

    kind: SliceKind
    name: str
    n: float
    fewest: float
    most: float
    test_share: float
    rows: list[Row]

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Section:
    """A table of a protocol.

    Attributes:
        title: of the task; empty where the protocol has one table only.
        n_users: users with a test rating, on average over the seeds.
        n_test_ratings: their test ratings, on average over the seeds.
        rows: the trained model's first.
        slices: users first, then movies, then genres.
    """

    title: str
    n_users: float
    n_test_ratings: float
    rows: list[Row]
    slices: list[Slice]

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def slices_of(self, kind: SliceKind) -> list[Slice]:
        """The slices of one kind."""
        return [piece for piece in self.slices if piece.kind == kind]
