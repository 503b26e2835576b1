"""`harmonium recommend`: a list for a user, or for whoever's ratings are given, by the active version."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from app import catalogue, model_registry, recommendations
from app.cli.terminal import AsJson, open_database, out, print_json, read_settings, tell
from app.errors import FieldError, InvalidInput
from app.identifiers import clean_id
from app.model_registry import Serving
from app.recommendations import Change, Changes, RankedMovie, Reason, RecommendationList, Wanted
from app.recommendations.given import movie_ids_of, stars_by_movie

app = typer.Typer()

MOVIE = "by id, or by title: 'Alien', 'Heat (1995)'"
LIKED = {"liked": True, "disliked": False}


@dataclass(frozen=True)
class GivenRating:
    """One `--rating`, as `recommendations.given` takes it."""

    movie_id: str | None
    title: str | None
    stars: float | None
    liked: bool | None
    year: int | None = None  # a title carries its year


@app.command()
def recommend(
    user: Annotated[
        str | None, typer.Argument(help="A user's id; nobody, with --rating.", show_default=False)
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--rating",
            metavar="MOVIE=STARS",
            help=f"A rating that is not stored, the movie {MOVIE}; or =liked, =disliked. May be repeated. "
            "With a user: what if.",
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="MOVIE", help="What if the user had not rated this. May be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Movies at most.")] = 10,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="MOVIE", help="Leave this movie out. May be repeated.")
    ] = None,
    genre: Annotated[str | None, typer.Option(help="A whole genre name, as the catalogue spells it.")] = None,
    year_from: Annotated[int | None, typer.Option(help="No movie of an earlier year.")] = None,
    year_to: Annotated[int | None, typer.Option(help="No movie of a later year.")] = None,
    include_rated: Annotated[bool, typer.Option("--include-rated", help="Rank rated movies, too.")] = False,
    include_obscure: Annotated[
        bool,
        typer.Option("--include-obscure", help="Rank movies that hardly anybody liked like all others."),
    ] = False,
    diversity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="0: best first; 1: as unlike one another as can be.")
    ] = 0.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="The ratings that speak for and against each movie.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a user's recommendations, or those of ratings that are not stored, by the active version."""
    if user is None and not given:
        raise InvalidInput("Say whose list it should be: a user's id, or ratings with --rating.")
    if user is None and remove:
        raise InvalidInput("--remove needs a user, whose ratings it leaves aside.")
    settings = read_settings()
    with open_database(settings) as database, database.reading() as session:
        serving = _active(session)
        wanted = Wanted(
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
        stars = stars_by_movie(_ratings(session, given or ()), settings, session, "--rating")
        changes: Changes | None = None
        if user is None:
            found = recommendations.for_ratings(session, serving, stars, wanted)
        elif given or remove:
            removed = movie_ids_of(session, remove or (), "--remove")
            found, changes = recommendations.what_if(
                session, serving, _id(user, "user"), stars, removed, wanted
            )
        else:
            found = recommendations.for_user(session, serving, _id(user, "user"), wanted)
    if as_json:
        print_json(asdict(found) | ({} if changes is None else {"changes": asdict(changes)}))
        return
    out.print(_table(found))
    for words in _remarks(found, changes):
        tell(words)


def _active(session: Session) -> Serving | None:
    pointer = model_registry.active(session)
    if pointer is None:
        return None
    machines = model_registry.load(session, pointer.version)
    return Serving(pointer.version, pointer.generation, machines)


def _id(value: str, location: str) -> str:
    try:
        return clean_id(value)
    except ValueError as error:
        raise InvalidInput(f"{location}: {error}.", errors=[FieldError(location, str(error))]) from error


def _ratings(session: Session, given: Sequence[str]) -> list[GivenRating]:
    """The `--rating`s; what is no movie's id is a title."""
    parts = [words.rpartition("=") for words in given]
    known = catalogue.of_ids(session, [movie.strip() for movie, _, _ in parts])
    found = []
    for place, (movie, _, said) in enumerate(parts):
        movie, said = movie.strip(), said.strip().lower()
        try:
            stars = None if said in LIKED else float(said)
        except ValueError:
            movie = ""
        if not movie:
            message = f"{given[place]!r} is not MOVIE=STARS, as in 'Alien=5', 172=4.5 or 'Heat (1995)=liked'"
            raise InvalidInput(f"--rating: {message}.", errors=[FieldError(f"--rating[{place}]", message)])
        is_id = movie in known
        found.append(
            GivenRating(
                movie_id=movie if is_id else None,
                title=None if is_id else movie,
                stars=stars,
                liked=LIKED.get(said),
            )
        )
    return found


def _table(found: RecommendationList) -> Table:
    """Titles as they are: square brackets in them are no markup. Reasons have room in 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("", justify="right", no_wrap=True)
    shown.add_column("title", min_width=30)
    for name in ("year", "P(like)", "confidence"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("movie", no_wrap=True, max_width=18)
    for item in found.items:
        shown.add_row(
            str(item.rank),
            _title_and_reasons(item),
            str(item.year or ""),
            "" if item.like_probability is None else f"{item.like_probability:.2f}",
            "" if item.confidence is None else f"{item.confidence:.2f}",
            Text(item.movie_id),
        )
    return shown


def _title_and_reasons(item: RankedMovie) -> Text:
    cell = Text(item.title or item.movie_id)
    for reason in (*(item.reasons or ()), *reversed(item.reasons_against or ())):
        cell.append(f"\n{_reason(reason)}", style="dim")
    return cell


def _reason(reason: Reason) -> str:
    """As `+1.14 Alien (5)`: what this rating adds to the score."""
    return f"  {reason.effect:+.2f} {reason.title or reason.movie_id} ({reason.stars:g})"


def _remarks(found: RecommendationList, changes: Changes | None) -> list[str]:
    version = (
        "no model version yet" if found.model_version is None else f"model version {found.model_version}"
    )
    remarks = [f"{found.strategy}, {version}"]
    if found.ignored_movie_ids:
        remarks.append(f"not known to this version, and ignored: {', '.join(found.ignored_movie_ids)}")
    if changes is not None:
        sides = (("entered", changes.entered), ("left", changes.left), ("moved", changes.moved))
        remarks += [f"{words}: {', '.join(_change(one) for one in some) or 'none'}" for words, some in sides]
    return remarks


def _change(one: Change) -> str:
    ranks = " to ".join(str(rank) for rank in (one.rank_before, one.rank) if rank is not None)
    return f"{one.title or one.movie_id} ({ranks})"
