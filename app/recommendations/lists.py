"""One user's list, or many users' at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy.orm import Session

from app.catalogue import movies, search
from app.catalogue.cards import MovieCard, cards_of
from app.learning.inference.confidence import confidence
from app.learning.inference.diversity import ordered_diversely
from app.learning.inference.explanation import effects
from app.learning.inference.ranking import Scores, ordered
from app.learning.inference.similarity import unit_vectors
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.model_versions.serving import LoadedVersion
from app.ratings import read
from app.recommendations import rating_input
from app.recommendations.rating_input import Stars
from app.storage import cursors
from app.storage.answers import Answer

SCORES_AT_ONCE = 4_000_000  # users x movies worked on together; 16 MB of float32
LEAST_LIKES = 3  # of a movie in training; with fewer it comes after all others
REASONS = 3  # for a movie, and against it, at most
LONGEST_WALK = 2_000  # movies on all pages of one list
LITTLE_EVIDENCE = 5  # ratings; with fewer a list is called blended: by default popularity weighs half or more

Strategy = Literal["rbm", "blended", "popular"]


@dataclass(frozen=True)
class ListQuery:
    """What a list should hold."""

    limit: int = 10
    """Movies at most."""
    exclude: Sequence[str] = ()
    """Ids of movies to leave out."""
    genre: str | None = None
    """Only movies with this genre; filters come before ranking, so the list is still
    full."""
    year_from: int | None = None
    """Only movies from this year on."""
    year_to: int | None = None
    """Only movies up to this year."""
    include_rated: bool = False
    """Rank rated movies, too."""
    include_obscure: bool = False
    """Rank movies with fewer than `LEAST_LIKES` likes in training like all others; else
    they come last."""
    diversity: float = 0.0
    """From 0, best first, to 1, as unlike one another as can be."""
    explain: bool = False
    """Give reasons."""
    cursor: str | None = None
    """Where the page before ended."""

    @property
    def filters(self) -> bool:
        """Whether any filter is set."""
        return not (self.genre is None and self.year_from is None and self.year_to is None)

    def passing(self, session: Session) -> list[str]:
        """The ids of all movies that pass the filters."""
        return search.matching_ids(session, genre=self.genre, year_from=self.year_from, year_to=self.year_to)


@dataclass(frozen=True)
class Reason(Answer):
    """A rating and its effect on a movie's score."""

    movie_id: Annotated[str, Field(examples=["172"])]
    title: Annotated[str, Field(examples=["Alien"])]
    stars: Annotated[float, Field(examples=[5.0])]
    effect: Annotated[float, Field(examples=[0.12])]
    """The movie's score minus what it would be without this rating."""


@dataclass(frozen=True)
class NamedMovie(Answer):
    """A movie as answers name it."""

    movie_id: Annotated[str, Field(examples=["50"])]
    title: Annotated[str, Field(examples=["Star Wars"])]
    """Empty where the catalogue lacks the movie."""
    year: Annotated[int | None, Field(examples=[1977])]
    genres: Annotated[list[str], Field(examples=[["Action", "Sci-Fi"]])]


@dataclass(frozen=True)
class Ranked(Answer):
    """The place in a list."""

    rank: Annotated[int, Field(examples=[1])]
    """From 1, over all pages of the list."""


@dataclass(frozen=True)
class RankedMovie(NamedMovie, Ranked):
    """A movie of a list."""

    score: Annotated[float, Field(examples=[-0.42])]
    """What the list is ranked by, comparable within one model version; without any
    version the number of ratings."""
    like_probability: Annotated[float | None, Field(examples=[0.93])]
    """Calibrated probability that the user likes the movie, if they watch and rate it;
    None without a version."""
    confidence: Annotated[float | None, Field(examples=[0.81])] = None
    """From 0 to 1: how well the user's and the movie's ratings support the score."""
    reasons: list[Reason] | None = None
    """The ratings that speak for the movie most, the strongest first; None unless
    `explain` is true."""
    reasons_against: list[Reason] | None = None
    """The ratings that speak against it most, the strongest first; None unless
    `explain` is true."""


@dataclass(frozen=True)
class RecommendationList(Answer):
    """Ranked movies, the version that ranked them and how."""

    user_id: Annotated[str | None, Field(examples=["42"])]
    """Whose list it is; None for ratings in a request."""
    model_version: Annotated[int | None, Field(examples=[7])]
    """The version that ranked; None before the first."""
    strategy: Strategy
    """rbm; blended: few ratings, leaning on popularity; popular: no ratings that could
    be folded in."""
    ignored_movie_ids: Annotated[list[str], Field(examples=[[]])] = field(default_factory=list)
    """Rated movies that the version does not know."""
    items: list[RankedMovie] = field(default_factory=list)
    """Best first."""
    next_cursor: Annotated[str | None, Field(examples=["Mg"])] = None
    """Pass it as `cursor` for the movies that follow; no movie comes twice, even when
    ratings or a new version come in between. None at the end, and after 2,000
    movies."""


@dataclass(frozen=True)
class SeenMovies:
    """The movies of the pages before.

    Keys stay those of a movie whatever version is active.
    """

    keys: frozenset[int]
    """Movie keys."""
    movie_ids: frozenset[str]
    """Ids of these movies."""

    @classmethod
    def of(cls, session: Session, cursor: str | None) -> "SeenMovies":
        """The movies that a cursor holds;

        `InvalidInput` for a cursor that no list has made.
        """
        keys = frozenset(cursors.read_set(cursor, LONGEST_WALK)) if cursor else frozenset()
        return cls(keys, frozenset(movies.ids_of_keys(session, sorted(keys))))

    def next_cursor(
        self, items: Sequence[NamedMovie], cards: Mapping[str, MovieCard], more: bool
    ) -> str | None:
        """The cursor behind these items, too; None where nothing follows."""
        keys = self.keys.union(cards[item.movie_id].movie_key for item in items if item.movie_id in cards)
        if not more or keys == self.keys or len(keys) >= LONGEST_WALK:
            return None
        return cursors.make_set(keys)


def for_user(
    session: Session, loaded: LoadedVersion | None, user_id: str, query: ListQuery
) -> RecommendationList:
    """The list of a user by the stored ratings; popular movies for an unknown user."""
    return for_ratings(session, loaded, rating_input.stored_of(session, user_id), query, user_id=user_id)


def for_ratings(
    session: Session,
    loaded: LoadedVersion | None,
    stars: Stars,
    query: ListQuery,
    *,
    user_id: str | None = None,
) -> RecommendationList:
    """The list by these ratings (movie id -> stars). Nothing is stored."""
    return _lists(session, loaded, [(user_id, stars)], query)[0]


def for_users(
    session: Session, loaded: LoadedVersion | None, user_ids: Sequence[str], query: ListQuery
) -> list[RecommendationList]:
    """The lists of many users, in their order, in as few queries as one list."""
    stored = rating_input.stored_of_users(session, user_ids)
    lists = dict(zip(stored, _lists(session, loaded, list(stored.items()), query), strict=True))
    return [lists[user_id] for user_id in user_ids]


def popular(session: Session, loaded: LoadedVersion | None, query: ListQuery) -> RecommendationList:
    """The list of a user without ratings."""
    return for_ratings(session, loaded, {}, query)


@dataclass(frozen=True)
class Choice:
    """Which columns of a vocabulary may be listed, whatever the ratings."""

    allowed: NDArray[np.bool_]
    """Passes the filters and is not excluded, shape (n_movies,)."""
    preferred: NDArray[np.bool_]
    """Shape (n_movies,); False comes after all that are True."""
    seen: NDArray[np.int64]
    """Columns on the pages before."""

    @classmethod
    def of(cls, session: Session, model: TrainedModel, query: ListQuery, seen: SeenMovies) -> "Choice":
        """The choice that a query leaves."""
        vocabulary = model.vocabulary
        if query.filters:
            allowed = np.zeros(model.n_movies, dtype=bool)
            allowed[_known(vocabulary.columns(query.passing(session)))] = True
        else:
            allowed = np.ones(model.n_movies, dtype=bool)
        allowed[_known(vocabulary.columns(query.exclude))] = False
        preferred = np.ones_like(allowed) if query.include_obscure else model.likes >= LEAST_LIKES
        return cls(allowed, preferred, _known(vocabulary.columns(sorted(seen.movie_ids))))

    def best(
        self, model: TrainedModel, scores: Scores, rated: NDArray[np.integer[Any]], query: ListQuery
    ) -> tuple[NDArray[np.int64], bool]:
        """The columns of one page, best first, and whether more would follow.

        Args:
            scores: shape (n_movies,).
            rated: columns that are left out, unless the query includes rated movies.
        """
        allowed = self.allowed
        if rated.size and not query.include_rated:
            allowed = allowed.copy()
            allowed[rated] = False
        # The list from its beginning, long enough to go on behind the pages before,
        # wherever in it their movies are by now: none comes twice, even when ratings
        # came in or another version became active.
        length = self.seen.size + query.limit + 1
        if query.diversity:
            order = ordered_diversely(
                scores, length, allowed, self.preferred, unit_vectors(model), query.diversity
            )
        else:
            order = ordered(scores, length, allowed, self.preferred)
        if self.seen.size:
            order = order[~np.isin(order, self.seen)]
        return order[: query.limit], order.size > query.limit


@dataclass(frozen=True)
class _Effect:
    """What a rating does to the score of a movie."""

    column: int
    """Of the rated movie."""
    effect: float
    """The score minus what it would be without the rating."""


@dataclass(frozen=True)
class _Reasons:
    """The strongest effects on one movie."""

    speaking_for: list[_Effect]
    """Above 0, the strongest first."""
    against: list[_Effect]
    """Below 0, the strongest first."""


@dataclass(frozen=True)
class _Page:
    """The columns of one user's page, and the numbers of each."""

    columns: NDArray[np.int64]
    """Best first."""
    more: bool
    """Whether another page follows."""
    scores: list[float]
    """Of each column."""
    probabilities: list[float]
    """like_probability of each column."""
    confidences: list[float]
    """Of each column."""
    reasons: list[_Reasons] | None
    """Of each column; None unless the query explains."""


def _lists(
    session: Session,
    loaded: LoadedVersion | None,
    users: Sequence[tuple[str | None, Stars]],
    query: ListQuery,
) -> list[RecommendationList]:
    """The list of each user (id, ratings).

    However many they are, the number of queries stays.
    """
    if loaded is None:
        pages_of_all = most_rated(session, [stars for _, stars in users], query)
        return [
            RecommendationList(user_id, None, "popular", [], items, next_cursor)
            for (user_id, _), (items, next_cursor) in zip(users, pages_of_all, strict=True)
        ]
    seen, model = SeenMovies.of(session, query.cursor), loaded.model
    inputs = rating_input.rows_of(model, [stars for _, stars in users])
    choice = Choice.of(session, model, query, seen)
    pages: list[_Page] = []
    block = max(1, SCORES_AT_ONCE // max(model.n_movies, 1))
    for start in range(0, len(users), block):
        rows = inputs.rows
        if block < len(users):
            rows = rows.rows(np.arange(start, min(start + block, len(users))))
        pages += _pages(loaded, rows, choice, query)
    movie_ids = model.vocabulary.movie_ids
    cards = cards_of(session, sorted({movie_ids[column] for page in pages for column in _columns(page)}))
    lists = []
    for (user_id, stars), page, n_ratings, ignored in zip(
        users, pages, inputs.rows.lengths.tolist(), inputs.ignored, strict=True
    ):
        items = _items(page, model, cards, stars, n_before=len(seen.keys))
        lists.append(
            RecommendationList(
                user_id=user_id,
                model_version=loaded.version,
                strategy=strategy_of(n_ratings),
                ignored_movie_ids=ignored,
                items=items,
                next_cursor=seen.next_cursor(items, cards, page.more),
            )
        )
    return lists


def strategy_of(n_ratings: int) -> Strategy:
    """What a list made from so many ratings is called."""
    if n_ratings >= LITTLE_EVIDENCE:
        return "rbm"
    return "blended" if n_ratings else "popular"


def _pages(loaded: LoadedVersion, rows: RatingRows, choice: Choice, query: ListQuery) -> list[_Page]:
    """The pages of several users: one fold-in, one product for all their scores."""
    model = loaded.model
    folded = model.fold_in(rows)
    scores = folded.scores()
    best = [
        choice.best(model, of_user, rows.indices[start:end], query)
        for of_user, start, end in zip(scores, rows.indptr[:-1], rows.indptr[1:], strict=True)
    ]
    columns = np.unique(np.concatenate([of_user for of_user, _ in best]))
    probabilities = folded.like_probability(columns)
    pages = []
    for user, (of_user, more) in enumerate(best):
        row = rows if rows.n_users == 1 else rows.rows([user])
        confidences = confidence(model, loaded.popularity_prior, row, scores[user], of_user)
        pages.append(
            _Page(
                columns=of_user,
                more=more,
                scores=scores[user, of_user].tolist(),
                probabilities=probabilities[user, np.searchsorted(columns, of_user)].tolist(),
                confidences=confidences.tolist(),
                reasons=_reasons(model, row, of_user) if query.explain else None,
            )
        )
    return pages


def _reasons(model: TrainedModel, row: RatingRows, columns: NDArray[np.int64]) -> list[_Reasons]:
    """The ratings that speak for each movie most, and against it most."""
    if row.n_ratings == 0 or columns.size == 0:
        return [_Reasons([], []) for _ in columns]
    all_effects = effects(model, row, columns)
    rated = all_effects.columns.tolist()
    reasons = []
    for change in all_effects.change.T:
        order = np.argsort(-change, kind="stable")
        highest, lowest = (
            [_Effect(rated[place], float(change[place])) for place in places.tolist()]
            for places in (order[:REASONS], order[::-1][:REASONS])
        )
        reasons.append(
            _Reasons(
                [item for item in highest if item.effect > 0], [item for item in lowest if item.effect < 0]
            )
        )
    return reasons


def _columns(page: _Page) -> set[int]:
    """The columns of a page and of its reasons."""
    columns = set(page.columns.tolist())
    for reasons in page.reasons or ():
        columns.update(effect.column for effect in reasons.speaking_for + reasons.against)
    return columns


def _items(
    page: _Page, model: TrainedModel, cards: Mapping[str, MovieCard], stars: Stars, *, n_before: int
) -> list[RankedMovie]:
    movie_ids = model.vocabulary.movie_ids

    def named(effects_of_ratings: list[_Effect]) -> list[Reason]:
        reasons = []
        for effect in effects_of_ratings:
            movie_id = movie_ids[effect.column]
            title = cards[movie_id].title if movie_id in cards else ""
            reasons.append(Reason(movie_id, title, stars[movie_id], effect.effect))
        return reasons

    items = []
    for place, column in enumerate(page.columns.tolist()):
        item = RankedMovie(
            rank=n_before + place + 1,
            **card_fields(cards, movie_ids[column]),
            score=page.scores[place],
            like_probability=page.probabilities[place],
            confidence=page.confidences[place],
        )
        if page.reasons is not None:
            reasons = page.reasons[place]
            item = replace(item, reasons=named(reasons.speaking_for), reasons_against=named(reasons.against))
        items.append(item)
    return items


def card_fields(cards: Mapping[str, MovieCard], movie_id: str) -> dict[str, Any]:
    """Id, title, year and genres of a movie; no title where the catalogue lacks it."""
    card = cards.get(movie_id) or MovieCard(0, movie_id, "", None, [])
    return {"movie_id": card.movie_id, "title": card.title, "year": card.year, "genres": card.genres}


def most_rated(
    session: Session, rated: Sequence[Iterable[str]], query: ListQuery
) -> list[tuple[list[RankedMovie], str | None]]:
    """The fallback before the first version: the movies with the most ratings.

    Args:
        rated: of each list, the ids of movies that are left out, unless the query
            includes rated movies.

    Returns:
        A page of each list and its next cursor.
    """
    seen = SeenMovies.of(session, query.cursor)
    hidden = seen.movie_ids.union(query.exclude)
    passing = set(query.passing(session)) if query.filters else None
    ranking = [
        (movie_id, float(n))
        for movie_id, n in read.most_rated(session)
        if movie_id not in hidden and (passing is None or movie_id in passing)
    ]
    pages = []
    for of_user in rated:
        own = frozenset() if query.include_rated else frozenset(of_user)
        pages.append(list(islice((pair for pair in ranking if pair[0] not in own), query.limit + 1)))
    cards = cards_of(session, [movie_id for page in pages for movie_id, _ in page])
    reasons: list[Reason] | None = [] if query.explain else None
    result = []
    for page in pages:
        items = [
            RankedMovie(
                rank=len(seen.keys) + place,
                **card_fields(cards, movie_id),
                score=n,
                like_probability=None,
                reasons=reasons,
                reasons_against=reasons,
            )
            for place, (movie_id, n) in enumerate(page[: query.limit], start=1)
        ]
        result.append((items, seen.next_cursor(items, cards, len(page) > query.limit)))
    return result


def _known(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    return columns[columns >= 0]
