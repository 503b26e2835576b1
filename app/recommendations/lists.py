"""One person's list, or many people's at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from app import catalogue, cursors, ratings
from app.catalogue import MovieCard
from app.learning.confidence import confidence
from app.learning.diversity import ordered_diversely
from app.learning.explanation import effects
from app.learning.folded_in import FoldedIn
from app.learning.geometry import unit_vectors
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import Scores, ordered
from app.model_registry import Serving
from app.recommendations import profiles
from app.recommendations.profiles import Stars, Strategy

SCORES_AT_ONCE = 4_000_000  # people x movies worked on together; 16 MB of float32
LEAST_LIKES = 3  # of a movie in training; with fewer it comes after all others
REASONS = 3  # for a movie, and against it, at most
LONGEST_WALK = 2_000  # movies that the pages of one list show


@dataclass(frozen=True)
class Wanted:
    """What a list should hold.

    Attributes:
        limit: movies at most.
        exclude: ids of movies to leave out.
        genre, year_from, year_to: only movies that pass; filtered before ranking, so the list is still full.
        include_rated: rank rated movies too.
        include_obscure: rank movies that fewer than `LEAST_LIKES` people liked in training like all others;
            otherwise they come last.
        diversity: from 0, best first, to 1, as unlike one another as can be.
        explain: give reasons.
        cursor: where the page before ended.
    """

    limit: int = 10
    exclude: Sequence[str] = ()
    genre: str | None = None
    year_from: int | None = None
    year_to: int | None = None
    include_rated: bool = False
    include_obscure: bool = False
    diversity: float = 0.0
    explain: bool = False
    cursor: str | None = None

    @property
    def filters(self) -> bool:
        return not (self.genre is None and self.year_from is None and self.year_to is None)

    def passing(self, session: Session) -> list[str]:
        """The ids of all movies that pass the filters."""
        return catalogue.matching_ids(
            session, genre=self.genre, year_from=self.year_from, year_to=self.year_to
        )


@dataclass(frozen=True)
class Reason:
    """A rating and its effect on a movie's score: the score minus what it would be without this rating."""

    movie_id: str
    title: str
    stars: float
    effect: float


@dataclass(frozen=True)
class RankedMovie:
    """`score` ranks, within one version; without any version it is the number of ratings.

    `confidence` says from 0 to 1 how well the score is supported (`learning.confidence`).
    `reasons` speak for the movie, `reasons_against` against it, the strongest first; None: nobody asked.
    """

    rank: int
    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    score: float
    like_probability: float | None
    confidence: float | None = None
    reasons: list[Reason] | None = None
    reasons_against: list[Reason] | None = None


@dataclass(frozen=True)
class RecommendationList:
    """Ranked movies, the version that ranked them and how. `next_cursor` is None at the end."""

    user_id: str | None
    model_version: int | None
    strategy: Strategy
    ignored_movie_ids: list[str] = field(default_factory=list)
    items: list[RankedMovie] = field(default_factory=list)
    next_cursor: str | None = None


@dataclass(frozen=True)
class Shown:
    """What the pages before have shown. Keys stay those of the same movies whatever version serves.

    Attributes:
        keys: movie keys.
        movie_ids: of the same movies.
    """

    keys: frozenset[int]
    movie_ids: frozenset[str]

    @classmethod
    def by(cls, session: Session, cursor: str | None) -> "Shown":
        """Read a cursor; `InvalidInput` when it was not made by a list."""
        keys = frozenset(cursors.read_set(cursor, LONGEST_WALK)) if cursor else frozenset()
        return cls(keys, frozenset(catalogue.ids_of_keys(session, sorted(keys))))

    def next_cursor(
        self, items: Sequence[RankedMovie], movies: Mapping[str, MovieCard], more: bool
    ) -> str | None:
        """The cursor behind these items, too; None where nothing follows."""
        keys = self.keys.union(movies[one.movie_id].movie_key for one in items if one.movie_id in movies)
        if not more or keys == self.keys or len(keys) >= LONGEST_WALK:
            return None
        return cursors.make_set(keys)


def for_user(session: Session, serving: Serving | None, user_id: str, wanted: Wanted) -> RecommendationList:
    """The list of a user by the ratings stored at this moment; an unknown user gets the popular movies."""
    return for_ratings(session, serving, profiles.of_user(session, user_id), wanted, user_id=user_id)


def for_ratings(
    session: Session,
    serving: Serving | None,
    stars: Mapping[str, float],
    wanted: Wanted,
    *,
    user_id: str | None = None,
) -> RecommendationList:
    """The list that these ratings (movie id -> stars) give rise to. Nothing is stored."""
    return _lists(session, serving, [(user_id, stars)], wanted)[0]


def for_users(
    session: Session, serving: Serving | None, user_ids: Sequence[str], wanted: Wanted
) -> list[RecommendationList]:
    """The lists of many users, in the order given, in as few queries as that of one."""
    stored = profiles.of_users(session, user_ids)
    lists = dict(zip(stored, _lists(session, serving, list(stored.items()), wanted), strict=True))
    return [lists[user_id] for user_id in user_ids]


def popular(session: Session, serving: Serving | None, wanted: Wanted) -> RecommendationList:
    """What anybody gets of whom nothing is known."""
    return for_ratings(session, serving, {}, wanted)


@dataclass(frozen=True)
class Choice:
    """Which movies may be chosen, over the columns of a vocabulary, before anybody's ratings are looked at.

    Attributes:
        allowed: bool of shape (n_movies,); passes the filters and is not excluded.
        judged: bool of shape (n_movies,); False comes after all that are True.
        shown: int64, columns that the pages before have shown.
    """

    allowed: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    shown: NDArray[np.int64]

    @classmethod
    def of(cls, session: Session, machines: Machines, wanted: Wanted, shown: Shown) -> "Choice":
        vocabulary = machines.vocabulary
        if wanted.filters:
            allowed = np.zeros(machines.n_movies, dtype=bool)
            allowed[_known(vocabulary.columns(wanted.passing(session)))] = True
        else:
            allowed = np.ones(machines.n_movies, dtype=bool)
        allowed[_known(vocabulary.columns(wanted.exclude))] = False
        judged = np.ones_like(allowed) if wanted.include_obscure else machines.likes >= LEAST_LIKES
        return cls(allowed, judged, _known(vocabulary.columns(sorted(shown.movie_ids))))

    def best(
        self, machines: Machines, scores: Scores, rated: NDArray[np.integer[Any]], wanted: Wanted
    ) -> tuple[NDArray[np.int64], bool]:
        """The columns of one page, best first, and whether more would follow.

        Args:
            scores: shape (n_movies,).
            rated: columns that are left out, unless rated movies are wanted, too.
        """
        allowed = self.allowed
        if rated.size and not wanted.include_rated:
            allowed = allowed.copy()
            allowed[rated] = False
        # The list from its beginning, long enough to go on behind what was shown, wherever in it that stands
        # by now: nothing is shown twice, even when ratings came in or another version became active.
        length = self.shown.size + wanted.limit + 1
        if wanted.diversity:
            order = ordered_diversely(
                scores, length, allowed, self.judged, unit_vectors(machines), wanted.diversity
            )
        else:
            order = ordered(scores, length, allowed, self.judged)
        if self.shown.size:
            order = order[~np.isin(order, self.shown)]
        return order[: wanted.limit], order.size > wanted.limit


# Of one movie: (rated column, effect) of the ratings that speak for it, the strongest first, and of those
# that speak against it.
_Side = list[tuple[int, float]]
_Why = tuple[_Side, _Side]


@dataclass(frozen=True)
class _Picked:
    """The columns of one person's page, and what is said of them."""

    columns: NDArray[np.int64]
    more: bool
    scores: list[float]
    probabilities: list[float]
    confidences: list[float]
    reasons: list[_Why] | None  # of each movie; None: nobody asked


def _lists(
    session: Session, serving: Serving | None, people: Sequence[tuple[str | None, Stars]], wanted: Wanted
) -> list[RecommendationList]:
    """The list of each person (user id, ratings). However many they are, the queries are the same."""
    if serving is None:
        pages = most_rated(session, [stars for _, stars in people], wanted)
        return [
            RecommendationList(user_id, None, "popular", [], items, next_cursor)
            for (user_id, _), (items, next_cursor) in zip(people, pages, strict=True)
        ]
    shown = Shown.by(session, wanted.cursor)
    machines = serving.machines
    movie_ids = machines.vocabulary.movie_ids
    folded = profiles.folded(machines, [stars for _, stars in people])
    choice = Choice.of(session, machines, wanted, shown)
    picked: list[_Picked] = []
    block = max(1, SCORES_AT_ONCE // max(machines.n_movies, 1))
    for start in range(0, len(people), block):
        rows = folded.rows
        if block < len(people):
            rows = rows.rows(np.arange(start, min(start + block, len(people))))
        picked += _pick(serving, rows, choice, wanted)
    named = {movie_ids[column] for one in picked for column in _mentioned(one)}
    movies = catalogue.cards(session, sorted(named))
    found = []
    for (user_id, stars), one, strategy, ignored in zip(
        people, picked, folded.strategies, folded.ignored, strict=True
    ):
        items = _items(one, machines, movies, stars, n_before=len(shown.keys))
        found.append(
            RecommendationList(
                user_id=user_id,
                model_version=serving.version,
                strategy=strategy,
                ignored_movie_ids=ignored,
                items=items,
                next_cursor=shown.next_cursor(items, movies, one.more),
            )
        )
    return found


def _pick(serving: Serving, rows: RatingRows, choice: Choice, wanted: Wanted) -> list[_Picked]:
    """The pages of several people: one fold-in, one product for all their scores."""
    machines = serving.machines
    alone = FoldedIn.of(machines, rows) if rows.n_users == 1 else None
    # Blended with popularity, the less the more is known; what has no rating at all is popularity alone.
    scores = machines.blended_scores(rows) if alone is None else alone.blended_scores()[None]
    pages = [
        choice.best(machines, of_person, rows.indices[start:end], wanted)
        for of_person, start, end in zip(scores, rows.indptr[:-1], rows.indptr[1:], strict=True)
    ]
    columns = pages[0][0] if alone else np.unique(np.concatenate([page for page, _ in pages]))
    probabilities = (
        alone.like_probability(columns)[None] if alone else machines.like_probability(rows, columns)
    )
    picked = []
    for person, (page, more) in enumerate(pages):
        places = slice(None) if alone else np.searchsorted(columns, page)
        folded = alone or FoldedIn.of(machines, rows.rows([person]))
        picked.append(
            _Picked(
                columns=page,
                more=more,
                scores=scores[person, page].tolist(),
                probabilities=probabilities[person, places].tolist(),
                confidences=confidence(folded, serving.crowd, scores[person], page).tolist(),
                reasons=_reasons(folded, page) if wanted.explain else None,
            )
        )
    return picked


def _reasons(folded: FoldedIn, columns: NDArray[np.int64]) -> list[_Why]:
    """For each movie the ratings that speak for it most, and those that speak against it most."""
    if folded.n_ratings == 0 or columns.size == 0:
        return [([], []) for _ in columns]
    found = effects(folded, columns)

    def side(order: NDArray[np.int64], change: NDArray[np.float32], sign: int) -> _Side:
        return [
            (int(found.columns[place]), float(change[place]))
            for place in order[:REASONS].tolist()
            if sign * change[place] > 0
        ]

    reasons = []
    for change in found.change.T:
        strongest = np.argsort(-change, kind="stable")
        reasons.append((side(strongest, change, 1), side(strongest[::-1], change, -1)))
    return reasons


def _mentioned(one: _Picked) -> set[int]:
    """The columns of a page and of its reasons."""
    columns = set(one.columns.tolist())
    for why in one.reasons or ():
        columns.update(column for side in why for column, _ in side)
    return columns


def _items(
    one: _Picked, machines: Machines, movies: Mapping[str, MovieCard], stars: Stars, *, n_before: int
) -> list[RankedMovie]:
    movie_ids = machines.vocabulary.movie_ids

    def told(side: _Side) -> list[Reason]:
        return [
            Reason(
                movie_ids[column],
                movies[movie_ids[column]].title if movie_ids[column] in movies else "",
                stars[movie_ids[column]],
                effect,
            )
            for column, effect in side
        ]

    items = []
    for place, column in enumerate(one.columns.tolist()):
        item = ranked_movie(
            n_before + place + 1,
            movie_ids[column],
            movies.get(movie_ids[column]),
            one.scores[place],
            one.probabilities[place],
            one.confidences[place],
        )
        if one.reasons is not None:
            pro, contra = one.reasons[place]
            item = replace(item, reasons=told(pro), reasons_against=told(contra))
        items.append(item)
    return items


def ranked_movie(
    rank: int,
    movie_id: str,
    movie: MovieCard | None,
    score: float,
    like_probability: float | None,
    confidence: float | None = None,
) -> RankedMovie:
    """An item of a list; a movie that the catalogue lacks has no title."""
    return RankedMovie(
        rank=rank,
        movie_id=movie_id,
        title=movie.title if movie else "",
        year=movie.year if movie else None,
        genres=movie.genres if movie else [],
        score=score,
        like_probability=like_probability,
        confidence=confidence,
    )


def most_rated(
    session: Session, rated: Sequence[Iterable[str]], wanted: Wanted
) -> list[tuple[list[RankedMovie], str | None]]:
    """The fallback before the first version: the movies with the most ratings.

    Args:
        rated: of each list, the ids of movies that are left out, unless rated movies are wanted, too.

    Returns:
        A page of each list and its next cursor.
    """
    shown = Shown.by(session, wanted.cursor)
    hidden = shown.movie_ids.union(wanted.exclude)
    passing = set(wanted.passing(session)) if wanted.filters else None
    ranking = [
        (movie_id, float(n))
        for movie_id, n in ratings.most_rated(session)
        if movie_id not in hidden and (passing is None or movie_id in passing)
    ]
    pages = []
    for one in rated:
        own = frozenset() if wanted.include_rated else frozenset(one)
        pages.append(list(islice((pair for pair in ranking if pair[0] not in own), wanted.limit + 1)))
    movies = catalogue.cards(session, [movie_id for page in pages for movie_id, _ in page])
    found = []
    for page in pages:
        items = [
            ranked_movie(len(shown.keys) + place, movie_id, movies.get(movie_id), n, None)
            for place, (movie_id, n) in enumerate(page[: wanted.limit], start=1)
        ]
        if wanted.explain:
            items = [replace(item, reasons=[], reasons_against=[]) for item in items]
        found.append((items, shown.next_cursor(items, movies, len(page) > wanted.limit)))
    return found


def _known(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    return columns[columns >= 0]
