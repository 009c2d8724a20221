"""Error messages for invalid recipes, in terms of recipes instead of pydantic's."""

from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from kbnet.suggesting import did_you_mean

_BOUNDS = {
    "greater_than": ("gt", "a number greater than {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number less than {}"),
    "less_than_equal": ("le", "a number of at most {}"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text in quotes",
    "tuple": "a list",
    "list": "a list",
    "model": "a table of fields",
    "dict": "a table of fields",
}


def complaints(error: ValidationError, recipe: type[BaseModel]) -> str:
    """Format all errors in one line: for each, the dotted name of the field, the expected and the given value.

    Args:
        error: the error from validating a table as `recipe`.
        recipe: the class; misspelt fields are compared with its fields.
    """
    return "; ".join(_complaint(dict(one), recipe) for one in error.errors())


def _complaint(found: dict[str, Any], recipe: type[BaseModel]) -> str:
    place: Sequence[str | int] = found["loc"]
    name = ".".join(map(str, place)) or "recipe"
    kind, context, value = found["type"], found.get("ctx", {}), found["input"]
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        near = did_you_mean(str(place[-1]), _fields(recipe, place[:-1]))
        return f"{name} is not a recipe field{near}"
    if kind == "value_error":
        return f"{name}: {context['error']}"
    if kind == "literal_error":
        known = context["expected"].replace("'", "")
        near = did_you_mean(str(value), known.replace(" or ", ", ").split(", "))
        return f"{name}: expected {known}, got {_shown(value)}{near}"
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        count = context["min_length" if least else "max_length"]
        what = "characters" if isinstance(value, str) else "entries"
        what = {"characters": "character", "entries": "entry"}[what] if count == 1 else what
        return f"{name}: expected at {'least' if least else 'most'} {count} {what}, got {context['actual_length']}"
    if kind == "string_too_short":
        return f"{name}: expected text, got an empty string"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{name}: expected {words.format(_number(context[key]))}, got {_shown(value)}"
    expected = _KINDS.get(kind.partition("_")[0])
    if expected is not None:
        return f"{name}: expected {expected}, got {_shown(value)}"
    return f"{name}: {found['msg']}"


def _fields(model: type[BaseModel], place: Iterable[str | int]) -> list[str]:
    """Return the valid fields of the table at a place in the recipe."""
    for part in place:
        if isinstance(part, int):
            continue  # an entry of a list, whose table was found in the previous step
        field = model.model_fields.get(part)
        inner = None if field is None else _table(field.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _table(annotation: Any) -> type[BaseModel] | None:
    """Return the section class in an annotation such as `Section | None` or `tuple[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _table(inner)) is not None), None)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
