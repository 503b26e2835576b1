"""The page of an evaluation: whole, self-contained, and safe whatever the data says."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from app.catalogue.movies import MovieEntry
from app.evaluation import run, scoreboard
from app.evaluation.protocols import ProtocolName
from app.evaluation.report import page, plots
from app.evaluation.run import Evaluation
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation.metrics import Interval
from tests.evaluation.ratings import long_rows

NASTY = "<script>alert('&\"')</script>"
VOID = {"meta", "link", "circle", "line", "rect", "path"}
ORIGIN = page.Origin(
    "harmonium evaluate", datetime(2026, 3, 4, 5, 6, tzinfo=UTC), 7.0, "1.2.3", "3.11", "2.4", f"cpu {NASTY}"
)


class Seen(HTMLParser):
    """What a browser would find, with every tag closed in its order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def evaluations() -> dict[ProtocolName, Evaluation]:
    data = long_rows()
    movies = {
        movie: MovieEntry(movie, f"Film {number}", 1990, ("Drama",) if number % 2 else ("War", NASTY))
        for number, movie in enumerate(data.vocabulary.movie_ids)
    }
    movies["m3"] = MovieEntry("m3", NASTY, None, ("Drama",))
    configuration = TrainingConfiguration(epochs=10, hidden_units=10)
    # In time, user after user: the temporal test is of people without any training
    # rating.
    seeds: dict[ProtocolName, list[int]] = {"stratified": [0], "new-users": [0, 1], "temporal": [0]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoreboard, "RESAMPLES", 10)
        return {
            protocol: run.evaluate(
                replace(data, movies=movies), protocol, configuration, seeds=chosen, relevant_at_least=4.0
            )
            for protocol, chosen in seeds.items()
        }


@pytest.mark.parametrize("protocol", ["stratified", "new-users", "temporal"])
def test_the_page_asks_for_nothing_and_runs_nothing(
    protocol: ProtocolName, evaluations: dict[ProtocolName, Evaluation]
) -> None:
    source = page.render(evaluations[protocol], ORIGIN)
    seen = Seen(source)
    names = {tag for tag, _ in seen.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base"}
    assert [link["href"] for link in seen.of("link")] == ["data:,"]
    for _, attributes in seen.tags:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
    assert "http:" not in source
    assert "https:" not in source
    assert "url(" not in source
    assert "@import" not in source
    policies = [tag["content"] for tag in seen.of("meta") if tag.get("http-equiv")]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")


@pytest.mark.parametrize("protocol", ["stratified", "new-users", "temporal"])
def test_text_of_the_data_is_escaped(
    protocol: ProtocolName, evaluations: dict[ProtocolName, Evaluation]
) -> None:
    seen = Seen(page.render(evaluations[protocol], ORIGIN))
    assert any(NASTY in words for words in seen.words)  # as a genre and as the processor
    assert any("Film " in words for words in seen.words)
    assert "{{" not in "".join(seen.words)


@pytest.mark.parametrize("protocol", ["stratified", "new-users", "temporal"])
def test_every_plot_has_a_name_a_description_and_a_table(
    protocol: ProtocolName, evaluations: dict[ProtocolName, Evaluation]
) -> None:
    source = page.render(evaluations[protocol], ORIGIN)
    seen = Seen(source)
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawn = [svg for svg in seen.of("svg") if svg.get("role") == "img"]
    assert len(drawn) == len(seen.of("figure")) == source.count("As a table</summary>")
    assert len(drawn) >= 8
    for svg in drawn:
        assert all(name in ids for name in (svg["aria-labelledby"] or "").split())
    for svg in seen.of("svg"):
        assert svg.get("role") == "img" or svg.get("aria-hidden") == "true"
    for section in seen.of("section"):
        assert section["aria-labelledby"] in ids
    assert seen.of("html") == [{"lang": "en"}]
    assert not re.search(r"\b(nan|inf|None)\b", "".join(seen.words))


def test_the_page_holds_every_figure(evaluations: dict[ProtocolName, Evaluation]) -> None:
    for evaluation in evaluations.values():
        source = page.render(evaluation, ORIGIN)
        for section in evaluation.sections:
            for row in section.rows:
                for name, interval in row.figures.items():
                    assert plots.words_of(interval) in source, (section.title, row.name, name)


def test_the_page_says_how_to_repeat_it(evaluations: dict[ProtocolName, Evaluation]) -> None:
    source = page.render(evaluations["stratified"], ORIGIN)
    words = "".join(Seen(source).words)
    for said in ("harmonium evaluate", "Harmonium 1.2.3", "4 March 2026", "hidden_units", "2,400 ratings"):
        assert said in words


def test_a_win_is_stated_only_where_the_interval_bears_it_out(
    evaluations: dict[ProtocolName, Evaluation],
) -> None:
    evaluation = evaluations["stratified"]
    (section,) = evaluation.sections
    best = max(
        (row for row in section.rows[1:] if "any_ndcg" in row.figures),
        key=lambda row: row.figures["any_ndcg"].mean,
    )
    for low, high, words in (
        (0.01, 0.03, "the model is above by .020"),
        (-0.03, -0.01, "the model is below by .020"),
        (-0.01, 0.05, "no certain difference (.020"),
        (-float("inf"), float("inf"), "one seed says nothing more"),
    ):
        mean = 0.02 if low == -float("inf") else (low + high) / 2
        behind = {"any_ndcg": Interval(mean, low, high, 9)}
        rows = [replace(row, behind=behind) if row is best else row for row in section.rows]
        source = page.render(replace(evaluation, sections=[replace(section, rows=rows)]), ORIGIN)
        assert words in source.replace("\N{NO-BREAK SPACE}", " ")


def test_methods_left_out_stand_with_the_reason(evaluations: dict[ProtocolName, Evaluation]) -> None:
    evaluation = evaluations["stratified"]
    (section,) = evaluation.sections
    rows = [replace(row, figures={}, behind={}, skipped=f"no {NASTY}") for row in section.rows[1:]]
    slices = [replace(piece, rows=piece.rows[:1]) for piece in section.slices]
    source = page.render(
        replace(evaluation, sections=[replace(section, rows=[section.rows[0], *rows], slices=slices)]), ORIGIN
    )
    words = "".join(Seen(source).words)
    assert f"Left out: popularity. no {NASTY}" in words
