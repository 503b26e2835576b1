"""What all answers have in common: a domain's dataclass is what a route returns."""

from dataclasses import is_dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter


def _complete(schema: dict[str, Any], kind: type[Any]) -> None:
    """Describe the fields as JSON has them: null for None, and each of them present."""
    fields = schema["properties"]
    # "Page" for pages of all kinds: the component's name tells them apart.
    del schema["title"]
    for base in filter(is_dataclass, kind.__bases__):
        # Pydantic reads the docstrings of a dataclass's own fields only.
        for name, field in TypeAdapter(base).json_schema(mode="serialization")["properties"].items():
            if "description" in field:
                fields[name].setdefault("description", field["description"])
    for part in (schema, *fields.values()):
        part.pop("default", None)
        if "description" in part:
            part["description"] = part["description"].replace("None", "null")


class Answer:
    """Base of frozen dataclasses that routes return as they are.

    The docstring under a field is its description in the OpenAPI document; examples
    stand in its annotation.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
        json_schema_extra=_complete,
    )
