"""`harmonium recommend`: a list by the active version."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from app.catalogue import movies
from app.cli.terminal import AsJson, open_database, out, print_json, print_result, read_settings
from app.errors import FieldError, InvalidInput
from app.model_versions import activation, store
from app.model_versions.serving import LoadedVersion
from app.recommendations import lists, what_if
from app.recommendations.lists import ListQuery, RankedMovie, Reason, RecommendationList
from app.recommendations.rating_input import movie_ids_of, stars_by_movie
from app.recommendations.what_if import ComparedList, RankChange
from app.storage.identifiers import clean_id

app = typer.Typer()

LIKED = {"liked": True, "disliked": False}

RatingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rating",
        metavar="MOVIE=STARS",
        help="A rating that is not stored, the movie by id, or by title: 'Alien', 'Heat (1995)'; or =liked, "
        "=disliked. May be repeated. With a user: what if.",
    ),
]
RemoveOption = Annotated[
    list[str] | None,
    typer.Option(metavar="MOVIE", help="What if the user had not rated this. May be repeated."),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(metavar="MOVIE", help="Leave this movie out. May be repeated.")
]


@dataclass(frozen=True)
class RatingOption:
    """A `--rating`, in the form of a rating in a request body."""

    movie_id: str | None
    title: str | None
    stars: float | None
    liked: bool | None
    year: int | None = None  # a title carries its year


@app.command()
def recommend(
    user: Annotated[
        str | None, typer.Argument(help="A user's id; not needed with --rating.", show_default=False)
    ] = None,
    rating: RatingsOption = None,
    remove: RemoveOption = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Movies at most.")] = 10,
    exclude: ExcludeOption = None,
    genre: Annotated[str | None, typer.Option(help="A whole genre name, as the catalogue spells it.")] = None,
    year_from: Annotated[int | None, typer.Option(help="No movie of an earlier year.")] = None,
    year_to: Annotated[int | None, typer.Option(help="No movie of a later year.")] = None,
    include_rated: Annotated[bool, typer.Option("--include-rated", help="Rank rated movies, too.")] = False,
    include_obscure: Annotated[
        bool, typer.Option("--include-obscure", help="Rank movies with few likes like all others.")
    ] = False,
    diversity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="0: best first; 1: as unlike one another as can be.")
    ] = 0.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="The ratings that speak for and against each movie.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print recommendations of the active version, for a user or for ratings."""
    if user is None and not rating:
        raise InvalidInput("Say whose list it should be: a user's id, or ratings with --rating.")
    if user is None and remove:
        raise InvalidInput("--remove needs a user, whose ratings it leaves out.")
    settings = read_settings()
    with open_database(settings) as database, database.reading() as session:
        loaded = _active(session)
        query = ListQuery(
            limit=limit,
            exclude=movie_ids_of(session, exclude or (), "--exclude"),
            genre=genre,
            year_from=year_from,
            year_to=year_to,
            include_rated=include_rated,
            include_obscure=include_obscure,
            diversity=diversity,
            explain=explain,
        )
        stars = stars_by_movie(_ratings(session, rating or ()), settings, session, "--rating")
        ranked: RecommendationList
        if user is None:
            ranked = lists.for_ratings(session, loaded, stars, query)
        elif rating or remove:
            removed = movie_ids_of(session, remove or (), "--remove")
            ranked = what_if.what_if(session, loaded, _id(user, "user"), stars, removed, query)
        else:
            ranked = lists.for_user(session, loaded, _id(user, "user"), query)
    if as_json:
        print_json(asdict(ranked))
        return
    out.print(_table(ranked))
    for words in _remarks(ranked):
        print_result(words)


def _active(session: Session) -> LoadedVersion | None:
    pointer = activation.active(session)
    if pointer is None:
        return None
    model = store.load(session, pointer.version)
    return LoadedVersion(pointer.version, pointer.generation, model)


def _id(value: str, location: str) -> str:
    try:
        return clean_id(value)
    except ValueError as error:
        raise InvalidInput(f"{location}: {error}.", errors=[FieldError(location, str(error))]) from error


def _ratings(session: Session, options: Sequence[str]) -> list[RatingOption]:
    """The `--rating`s; what is no movie's id is a title."""
    parts = [option.rpartition("=") for option in options]
    known = movies.of_ids(session, [movie.strip() for movie, _, _ in parts])
    rows = []
    for place, (movie, _, value) in enumerate(parts):
        movie, value = movie.strip(), value.strip().lower()
        try:
            stars = None if value in LIKED else float(value)
        except ValueError:
            movie = ""
        if not movie:
            message = (
                f"{options[place]!r} is not MOVIE=STARS, as in 'Alien=5', 172=4.5 or 'Heat (1995)=liked'"
            )
            raise InvalidInput(f"--rating: {message}.", errors=[FieldError(f"--rating[{place}]", message)])
        is_id = movie in known
        rows.append(
            RatingOption(
                movie_id=movie if is_id else None,
                title=None if is_id else movie,
                stars=stars,
                liked=LIKED.get(value),
            )
        )
    return rows


def _table(ranked: RecommendationList) -> Table:
    """Titles as they are: square brackets in them are no markup.

    Reasons have room in 80 columns.
    """
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("title", min_width=30)
    for name in ("year", "P(like)", "confidence"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("movie", no_wrap=True, max_width=18)
    for item in ranked.items:
        table.add_row(
            str(item.rank),
            _title_and_reasons(item),
            str(item.year or ""),
            "" if item.like_probability is None else f"{item.like_probability:.2f}",
            "" if item.confidence is None else f"{item.confidence:.2f}",
            Text(item.movie_id),
        )
    return table


def _title_and_reasons(item: RankedMovie) -> Text:
    cell = Text(item.title or item.movie_id)
    for reason in (*(item.reasons or ()), *reversed(item.reasons_against or ())):
        cell.append(f"\n{_reason(reason)}", style="dim")
    return cell


def _reason(reason: Reason) -> str:
    """As `+1.14 Alien (5)`: what this rating adds to the score."""
    return f"  {reason.effect:+.2f} {reason.title or reason.movie_id} ({reason.stars:g})"


def _remarks(ranked: RecommendationList) -> list[str]:
    version = (
        "no model version yet" if ranked.model_version is None else f"model version {ranked.model_version}"
    )
    remarks = [f"{ranked.strategy}, {version}"]
    if ranked.ignored_movie_ids:
        remarks.append(f"not known to this version, and ignored: {', '.join(ranked.ignored_movie_ids)}")
    if isinstance(ranked, ComparedList) and (changes := ranked.changes):
        groups = (("entered", changes.entered), ("left", changes.left), ("moved", changes.moved))
        remarks += [
            f"{words}: {', '.join(_change(movie) for movie in movies) or 'none'}" for words, movies in groups
        ]
    return remarks


def _change(change: RankChange) -> str:
    ranks = " to ".join(str(rank) for rank in (change.rank_before, change.rank) if rank is not None)
    return f"{change.title or change.movie_id} ({ranks})"
