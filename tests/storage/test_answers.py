"""How the OpenAPI document describes the dataclasses that routes return."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from app.storage.answers import Answer


@dataclass(frozen=True)
class Film(Answer):
    """A film."""

    title: str
    """Its name."""
    year: int | None = None
    """None where it is unknown."""


@dataclass(frozen=True)
class RankedFilm(Film):
    """A film of a list."""

    rank: int = 1


def test_fields_are_present_and_described_in_words_of_json() -> None:
    schema = TypeAdapter(RankedFilm).json_schema(mode="serialization")
    assert schema["required"] == ["title", "year", "rank"]
    assert schema["properties"]["title"]["description"] == "Its name."
    assert schema["properties"]["year"]["description"] == "null where it is unknown."
    assert not any("default" in field for field in schema["properties"].values())
