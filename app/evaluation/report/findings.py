"""The figures in sentences.

A difference is stated only as far as its interval bears it out.
"""

import math

from app.evaluation.report.figures import mean_of, rows_with
from app.evaluation.report.plots import number, words_of
from app.evaluation.run import Evaluation
from app.evaluation.tables import Section
from app.learning.evaluation.metrics import Interval


def findings(evaluation: Evaluation, main: Section) -> list[str]:
    """Sentences on lists, the best baselines, like_probability and coverage."""
    sentences = [_lists(evaluation, main)]
    for name, kind in (("any_ndcg", "any"), ("relevant_ndcg", "relevant")):
        baselines = rows_with(main.rows[1:], name)
        if baselines:
            best = max(baselines, key=lambda row: mean_of(row, name))
            unit = evaluation.interval.removesuffix("s")
            sentences.append(
                f"Against the best baseline for “{kind}”, {best.name} ({number(mean_of(best, name))}), "
                f"{unit} by {unit}: {_compared(best.behind.get(name))}."
            )
    return [*sentences, *_probabilities(main), *_coverage(main)]


def _lists(evaluation: Evaluation, main: Section) -> str:
    figures = main.rows[0].figures
    where = f" {main.title}".rstrip()
    if evaluation.protocol == "new-users":
        where = f" ({main.title} folded in)"
    return (
        f"For {main.n_users:,.0f} users{where} the model's first ten have an nDCG of "
        f"{words_of(figures.get('any_ndcg'))} when every test rating counts, and of "
        f"{words_of(figures.get('relevant_ndcg'))} when only those of at least "
        f"{evaluation.relevant_at_least:g} stars do."
    )


def _compared(difference: Interval | None) -> str:
    """The paired difference and its interval in words."""
    if difference is None or not math.isfinite(difference.mean):
        return "no comparison"
    if not math.isfinite(difference.high):
        return f"a difference of {number(difference.mean)}, of which one seed says nothing more"
    half = number(difference.high - difference.mean)
    words = f"{number(abs(difference.mean))} ± {half}"
    if difference.low > 0:
        return f"the model is above by {words}"
    if difference.high < 0:
        return f"the model is below by {words}"
    return f"no certain difference ({number(difference.mean)} ± {half})"


def _probabilities(main: Section) -> list[str]:
    figures = main.rows[0].figures
    if "auc" not in figures:
        return []
    sentence = (
        f"like_probability has an AUC of {words_of(figures['auc'])}, a Brier score of "
        f"{words_of(figures['brier'])} and a calibration error of {words_of(figures['calibration_error'])}"
    )
    others = [row for row in rows_with(main.rows[1:], "auc") if row.name != "biases"]
    if others:
        auc, brier, error = (
            number(mean_of(others[0], name)) for name in ("auc", "brier", "calibration_error")
        )
        sentence += f"; {others[0].name} has {auc}, {brier} and {error}"
    return [sentence + "."]


def _coverage(main: Section) -> list[str]:
    first = main.rows[0]
    if "coverage" not in first.figures:
        return []
    sentence = (
        f"Its lists of ten hold {100 * mean_of(first, 'coverage'):.0f} % of the catalogue; a listed movie "
        f"was rated by {100 * mean_of(first, 'popularity'):.0f} % of the training users on average"
    )
    popular = next((row for row in main.rows if row.name == "popularity"), None)
    if popular is not None and "coverage" in popular.figures:
        sentence += (
            f" (lists by popularity: {100 * mean_of(popular, 'coverage'):.0f} % and "
            f"{100 * mean_of(popular, 'popularity'):.0f} %)"
        )
    return [sentence + "."]
