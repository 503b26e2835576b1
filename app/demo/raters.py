"""Synthetic raters with recognisable tastes, and their ratings.

No real person's data is bundled, so the demo's ratings are drawn here, equal for equal
seeds. A rater has one or two tastes. Which films a rater watches depends on the films'
fame and on the tastes; the stars depend on the tastes, the film, the rater's mood and
chance. Some films are watched regardless of taste, and not always liked: without such
ratings a model would learn who watches what, and nothing about liking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.demo.catalogue import GENRES, ID_PREFIX, Film, films, movie_id

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DemoRating:
    """One rating of a demo user."""

    user_id: str
    movie_id: str
    stars: float
    """0.5 to 5.0 in half steps."""
    rated_at: datetime
    """With its time zone, UTC."""


@dataclass(frozen=True, slots=True)
class Taste:
    """The preferences of one kind of rater, in units of affinity."""

    name: str
    share: float
    """Share of the raters whose first taste this is; the shares sum to 1."""
    genres: Mapping[str, float]
    """Affinity by genre, 0 for genres left out."""
    age: float = 0.0
    """Affinity for films from before 1970, negative for later; full at 40 years."""
    fame: float = 0.0
    """Affinity for famous films, negative for obscure ones."""


TASTES: Final = (
    Taste(
        "science fiction",
        0.13,
        {"Sci-Fi": 1.2, "Romance": -0.7, "Musical": -0.6, "Western": -0.3, "Children": -0.3, "War": -0.2},
    ),
    Taste(
        "romance",
        0.12,
        {"Romance": 1.1, "Comedy": 0.1, "Sci-Fi": -0.7, "Horror": -0.7, "War": -0.3, "Western": -0.5}
        | {"Action": -0.3, "Children": -0.2, "Animation": -0.2, "Crime": -0.2, "Film-Noir": -0.3},
    ),
    Taste(
        "family",
        0.11,
        {"Children": 0.8, "Animation": 0.6, "Horror": -0.8, "Crime": -0.5, "War": -0.5, "Thriller": -0.4}
        | {"Drama": -0.2, "Romance": -0.2, "Film-Noir": -0.5, "Sci-Fi": -0.2},
    ),
    Taste(
        "horror",
        0.08,
        {"Horror": 1.2, "Mystery": 0.1, "Romance": -0.6, "Children": -0.5, "Musical": -0.5, "War": -0.2},
    ),
    Taste(
        "crime and suspense",
        0.13,
        {"Crime": 0.7, "Thriller": 0.5, "Mystery": 0.5, "Film-Noir": 0.4, "Musical": -0.5, "Children": -0.5}
        | {"Sci-Fi": -0.4, "Fantasy": -0.4, "Horror": -0.3, "Romance": -0.3},
    ),
    Taste(
        "adventure",
        0.11,
        {"Action": 0.6, "Adventure": 0.6, "Romance": -0.5, "Documentary": -0.6, "Drama": -0.2}
        | {"Musical": -0.6, "Children": -0.3, "Animation": -0.3},
        age=-0.1,
        fame=0.2,
    ),
    Taste(
        "westerns and war",
        0.07,
        {"Western": 1.3, "War": 0.9, "Sci-Fi": -0.5, "Children": -0.5, "Romance": -0.4, "Musical": -0.6}
        | {"Horror": -0.4, "Animation": -0.5},
        age=0.1,
    ),
    Taste(
        "musicals",
        0.06,
        {"Musical": 1.3, "Horror": -0.6, "Sci-Fi": -0.5, "War": -0.3, "Crime": -0.3, "Action": -0.3},
    ),
    Taste(
        "comedy",
        0.09,
        {"Comedy": 1.0, "Horror": -0.5, "War": -0.4, "Drama": -0.3, "Romance": -0.2, "Documentary": -0.3}
        | {"Children": -0.2, "Sci-Fi": -0.2, "Musical": -0.3},
        age=-0.1,
    ),
    Taste(
        "art house",
        0.07,
        {"Drama": 0.5, "Action": -0.5, "Children": -0.4, "Horror": -0.2, "Sci-Fi": -0.2, "Musical": -0.2},
        age=0.3,
        fame=-0.4,
    ),
    Taste(
        "documentaries",
        0.03,
        {"Documentary": 1.6, "Drama": 0.2, "Action": -0.4, "Fantasy": -0.4, "Horror": -0.5, "Children": -0.3},
    ),
)

RATERS: Final = 600
FEWEST_RATINGS: Final = 25  # of a synthetic rater
MOST_RATINGS: Final = 90

_INDIFFERENT: Final = 3.1  # stars for a film of affinity 0
_WATCHED_BY_FAME: Final = np.array([0.65, 0.8, 1.0, 1.5, 2.3])  # of fame 1 to 5, against one another
_CHOOSINESS: Final = 2.3  # how strongly taste decides what is watched
_CHOSEN_BY_OTHERS: Final = 0.2  # share of the films that are watched regardless of taste
_SECOND_TASTE: Final = 0.35  # share of raters with two tastes
_FIRST_DAY: Final = datetime(2025, 1, 1, tzinfo=UTC)  # every film was out by then
_JOINING_DAYS: Final = 240  # the raters join within this time


@dataclass(frozen=True, slots=True)
class Rater:
    """A synthetic user."""

    user_id: str
    tastes: tuple[str, ...]
    """Names of TASTES, the stronger one first."""
    seed: tuple[int, int]
    """Each rater's own, so that more raters leave the first ones as they are."""


@dataclass(frozen=True, slots=True)
class Persona:
    """A named user with ratings chosen by hand, of a clear taste."""

    user_id: str
    description: str
    """The taste in a few words."""
    stars: Mapping[tuple[str, int], float]
    """By title and year."""

    def ratings(self) -> list[DemoRating]:
        """The ratings, a minute apart, in the order of `stars`."""
        return [
            DemoRating(self.user_id, movie_id(*film), stars, _FIRST_DAY + timedelta(minutes=minute))
            for minute, (film, stars) in enumerate(self.stars.items())
        ]


PERSONAS: Final = (
    Persona(
        f"{ID_PREFIX}ada",
        "science fiction, and no romances",
        {
            ("Blade Runner", 1982): 5.0,
            ("Arrival", 2016): 5.0,
            ("Alien", 1979): 4.5,
            ("The Matrix", 1999): 4.5,
            ("2001: A Space Odyssey", 1968): 5.0,
            ("Moon", 2009): 4.5,
            ("Gattaca", 1997): 4.0,
            ("Children of Men", 2006): 4.5,
            ("Forbidden Planet", 1956): 3.5,
            ("The Notebook", 2004): 1.5,
            ("Pretty Woman", 1990): 2.0,
            ("Grease", 1978): 1.5,
        },
    ),
    Persona(
        f"{ID_PREFIX}luis",
        "romance, and nothing that bleeds",
        {
            ("Casablanca", 1942): 5.0,
            ("Before Sunrise", 1995): 5.0,
            ("Pride & Prejudice", 2005): 4.5,
            ("When Harry Met Sally...", 1989): 4.5,
            ("In the Mood for Love", 2000): 5.0,
            ("Notting Hill", 1999): 4.0,
            ("Roman Holiday", 1953): 4.5,
            ("La La Land", 2016): 4.0,
            ("The Thing", 1982): 1.0,
            ("Saving Private Ryan", 1998): 2.5,
            ("The Terminator", 1984): 2.0,
        },
    ),
    Persona(
        f"{ID_PREFIX}mina",
        "animated films for the whole family",
        {
            ("My Neighbor Totoro", 1988): 5.0,
            ("Toy Story", 1995): 5.0,
            ("Coco", 2017): 4.5,
            ("The Lion King", 1994): 4.5,
            ("Paddington", 2014): 4.5,
            ("Finding Nemo", 2003): 4.0,
            ("The Jungle Book", 1967): 4.0,
            ("How to Train Your Dragon", 2010): 5.0,
            ("Seven", 1995): 1.0,
            ("The Shining", 1980): 1.0,
        },
    ),
    Persona(
        f"{ID_PREFIX}noor",
        "crime and film noir",
        {
            ("Double Indemnity", 1944): 5.0,
            ("Chinatown", 1974): 5.0,
            ("The Third Man", 1949): 4.5,
            ("L.A. Confidential", 1997): 4.5,
            ("Heat", 1995): 4.0,
            ("Memories of Murder", 2003): 4.5,
            ("Fargo", 1996): 4.5,
            ("The Maltese Falcon", 1941): 4.0,
            ("Frozen", 2013): 2.0,
            ("Mamma Mia!", 2008): 1.5,
        },
    ),
    Persona(
        f"{ID_PREFIX}otto",
        "westerns, old and new",
        {
            ("Once Upon a Time in the West", 1968): 5.0,
            ("The Searchers", 1956): 4.5,
            ("Unforgiven", 1992): 5.0,
            ("High Noon", 1952): 4.5,
            ("The Good, the Bad and the Ugly", 1966): 5.0,
            ("True Grit", 2010): 4.0,
            ("Rio Bravo", 1959): 4.0,
            ("Love Actually", 2003): 2.0,
            ("Star Trek: The Motion Picture", 1979): 2.5,
        },
    ),
)


def people(seed: int = 1, raters: int = RATERS) -> list[Rater]:
    """The synthetic raters `demo-user-001` and on, with their tastes."""
    shares = np.array([taste.share for taste in TASTES])
    synthetic = []
    for number in range(1, raters + 1):
        random = np.random.default_rng((seed, number, 0))
        first, second = random.choice(len(TASTES), size=2, replace=False, p=shares)
        chosen = (first, second) if random.random() < _SECOND_TASTE else (first,)
        tastes = tuple(TASTES[taste].name for taste in chosen)
        synthetic.append(Rater(f"{ID_PREFIX}user-{number:03d}", tastes, (seed, number)))
    return synthetic


def ratings(seed: int = 1, raters: int = RATERS) -> list[DemoRating]:
    """The ratings of the personas and of `raters` synthetic raters, by the seed."""
    watching = _Watching.of(films(), seed)
    return [rating for persona in PERSONAS for rating in persona.ratings()] + [
        rating for rater in people(seed, raters) for rating in watching.ratings_of(rater)
    ]


@dataclass(frozen=True)
class _Watching:
    """What all raters share: the films and the affinity of each taste to each film."""

    movie_ids: list[str]
    fame: Floats
    """Relative frequency of watching without regard to taste, shape (n_films,)."""
    quality: Floats
    """Stars that a film gains or loses with every rater, shape (n_films,)."""
    affinity: Mapping[str, Floats]
    """Affinity by name of the taste, each of shape (n_films,), unbounded."""
    genre_share: Floats
    """1 / number of genres where a film has the genre, shape (n_films, n_genres)."""

    @classmethod
    def of(cls, catalogue: Sequence[Film], seed: int) -> "_Watching":
        fame = np.array([film.fame for film in catalogue])
        age = np.clip((1970 - np.array([film.year for film in catalogue])) / 40, -1, 1)
        has = np.array([[genre in film.genres for genre in GENRES] for film in catalogue], dtype=float)
        affinity = {
            taste.name: has @ np.array([taste.genres.get(genre, 0.0) for genre in GENRES])
            + taste.age * age
            + taste.fame * (fame - 3) / 2
            for taste in TASTES
        }
        chance = np.random.default_rng((seed, 0, 0)).normal(0.0, 0.3, len(catalogue))
        return cls(
            movie_ids=[film.movie_id for film in catalogue],
            fame=_WATCHED_BY_FAME[fame - 1],
            quality=0.1 * (fame - 3) + chance,  # famous films are a little better on average
            affinity=affinity,
            genre_share=has / has.sum(axis=1, keepdims=True),
        )

    def ratings_of(self, rater: Rater) -> list[DemoRating]:
        """A rater's ratings in the order of time."""
        random = np.random.default_rng((*rater.seed, 1))
        affinity = self._affinity_of(rater, random)  # (n_films,)

        own_choice = self.fame * np.exp(_CHOOSINESS * affinity)
        chance = (1 - _CHOSEN_BY_OTHERS) * own_choice / own_choice.sum()
        chance += _CHOSEN_BY_OTHERS * self.fame / self.fame.sum()
        count = round(FEWEST_RATINGS + (MOST_RATINGS - FEWEST_RATINGS) * random.beta(1.4, 1.8))
        watched = random.choice(len(chance), size=count, replace=False, p=chance)

        mood = random.normal(0.0, 0.25)
        stars = _INDIFFERENT + 1.15 * affinity[watched] + self.quality[watched] + mood
        stars += random.normal(0.0, 0.65, count)
        stars = np.clip(np.round(2 * stars) / 2, 0.5, 5.0)

        joined = int(random.integers(_JOINING_DAYS * 86_400))
        # Most ratings follow the one before within minutes, a few after days: a
        # heavy-tailed step, capped.
        steps = 30 + np.minimum(random.lognormal(6.0, 2.0, count), 5 * 86_400)  # seconds
        return [
            DemoRating(
                rater.user_id,
                self.movie_ids[film],
                float(rating),
                _FIRST_DAY + timedelta(seconds=joined + int(since)),
            )
            for film, rating, since in zip(watched, stars, np.cumsum(steps), strict=True)
        ]

    def _affinity_of(self, rater: Rater, random: np.random.Generator) -> Floats:
        """The rater's affinity to each film, from -1 to 1, shape (n_films,)."""
        affinity = self.affinity[rater.tastes[0]]
        for weaker in rater.tastes[1:]:
            affinity = np.maximum(affinity, self.affinity[weaker] - 0.15)
        leanings = random.normal(0.0, 0.25, len(GENRES))  # raters of one taste differ
        return np.tanh(affinity + self.genre_share @ leanings)
