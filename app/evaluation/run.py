"""An evaluation: split, train and measure once a seed, then gather the tables."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from app.errors import InvalidInput, TooLittleTrainingData, TrainingDiverged
from app.evaluation.examples import Example, example_task, examples
from app.evaluation.methods import methods
from app.evaluation.protocols import ProtocolName, Trial, trial
from app.evaluation.rating_file import RatingData, Shape
from app.evaluation.scoreboard import Scoreboard, subsets_of
from app.evaluation.tables import Section
from app.learning.boltzmann.divergence import Diverged
from app.learning.configuration import TrainingConfiguration
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.training import TooLittleData, completed, train
from app.learning.vocabulary import Vocabulary

FIT_SHARE = 0.9  # of a seed's time, for its progress


@dataclass(frozen=True)
class Evaluation:
    """All tables of a protocol.

    Attributes:
        protocol: its name.
        seeds: of the splits and the models.
        liked_at_least: stars of a liked movie, which like_probability is about.
        relevant_at_least: stars of a good recommendation.
        interval: `users` or `seeds`, which the 95 % intervals are taken over.
        shape: of the data.
        configuration: settings of the fit, as resolved for the first seed.
        sections: the tables.
        example_section: title of the section that the examples are of.
        examples: lists of a user with few, with middling and with many ratings. The
            length of the profile alone decides which users, never the quality of the
            list.
    """

    protocol: ProtocolName
    seeds: list[int]
    liked_at_least: float
    relevant_at_least: float
    interval: str
    shape: Shape
    configuration: dict[str, Any]
    sections: list[Section]
    example_section: str
    examples: list[Example]

    def as_json(self) -> dict[str, Any]:
        """Every figure as a JSON-safe value: None for a number that is not finite."""
        return cast(dict[str, Any], _finite(asdict(self)))


def evaluate(
    data: RatingData,
    protocol: ProtocolName,
    configuration: TrainingConfiguration,
    *,
    seeds: list[int],
    relevant_at_least: float,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Evaluation:
    """The tables of a protocol: the trained model's row, then those of the baselines.

    Raises:
        InvalidInput: the ratings do not allow the protocol.
        TooLittleTrainingData, TrainingDiverged: of the fit.
    """
    # The temporal split has no seed: only the model's chance differs, and that is not
    # the uncertain part.
    over_users = len(seeds) == 1 or protocol == "temporal"
    boards: dict[str, Scoreboard] = {}
    resolved: dict[str, Any] = {}
    example_section, lists = "", list[Example]()
    for number, seed in enumerate(seeds):

        def report(share: float, number: int = number) -> None:
            on_progress((number + share) / len(seeds))

        split = trial(data, protocol, seed)
        seeded = replace(configuration, seed=seed)
        model = _trained(split.training, data.vocabulary, seeded, lambda share: report(FIT_SHARE * share))
        if not all(task.test.n_ratings for task in split.tasks):
            raise InvalidInput("No user has the three ratings that a test rating needs.")
        if number == 0:
            resolved = model.configuration.as_dict()
            task = example_task(split.tasks)
            example_section, lists = task.title, examples(model, task, data, relevant_at_least)
        for task in split.tasks:
            boards.setdefault(task.title, Scoreboard(over_users))
        _measure(boards, split, data, model, configuration.liked_at_least, relevant_at_least, seed)
        report(1.0)
    return Evaluation(
        protocol,
        seeds,
        configuration.liked_at_least,
        relevant_at_least,
        "users" if over_users else "seeds",
        Shape.of(data.rows),
        resolved,
        [board.section(title) for title, board in boards.items()],
        example_section,
        lists,
    )


def _measure(
    boards: dict[str, Scoreboard],
    split: Trial,
    data: RatingData,
    model: TrainedModel,
    liked_at_least: float,
    relevant_at_least: float,
    seed: int,
) -> None:
    """Add every method's figures of every task to the task's board."""
    genres = data.genres()
    tasks = [(boards[task.title], task, subsets_of(task, split.training, genres)) for task in split.tasks]
    for method in methods(model, split.training, liked_at_least, relevant_at_least, seed):
        for board, task, subsets in tasks:
            figures = board.of(method.name)
            figures.skipped = method.skipped
            if method.scores is not None:
                figures.add_lists(method.scores, task, subsets, split.training, relevant_at_least)
            if method.like_model is not None:
                figures.add_likes(method.like_model, task, subsets, liked_at_least, relevant_at_least)
    for board, task, subsets in tasks:
        board.count(task, subsets)


def _trained(
    rows: RatingRows,
    vocabulary: Vocabulary,
    configuration: TrainingConfiguration,
    on_progress: Callable[[float], None],
) -> TrainedModel:
    try:
        return completed(train(rows, vocabulary, configuration), lambda report: on_progress(report.progress))
    except TooLittleData as error:
        raise TooLittleTrainingData(str(error)) from error
    except Diverged as error:
        raise TrainingDiverged(str(error)) from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
