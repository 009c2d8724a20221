"""Teaches griffe our docstring style: `Example:`, shared descriptions, fields that describe themselves.

griffe reads the docstrings for the documentation; zensical.toml loads this extension.
"""

import ast
import re
from typing import Any

import griffe

SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): ")


def shared_descriptions(lines: list[str]) -> list[str]:
    """Lines of a docstring, where `a, b: text` describes `a` and `b` one by one, each with the whole text."""
    result: list[str] = []
    while lines:
        line, *lines = lines
        found = SHARED.match(line)
        if found is None:
            result.append(line)
            continue
        indent, names = found[1], found[2]
        count = next((i for i, more in enumerate(lines) if not more.startswith(indent + " ")), len(lines))
        text = [line[found.end() :], *lines[:count]]
        lines = lines[count:]
        for name in names.split(", "):
            result += [f"{indent}{name}: {text[0]}", *text[1:]]
    return result


class DocstringRules(griffe.Extension):
    """Changes docstrings after they are read and before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section `Example:` to `Examples:`, which griffe shows as code, and split shared descriptions."""
        if obj.docstring is not None:
            lines = shared_descriptions(obj.docstring.value.split("\n"))
            obj.docstring.value = "\n".join("Examples:" if line == "Example:" else line for line in lines)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Give a field made by `Field(default=..., description=...)` that description, and that default."""
        call = attr.value
        if not isinstance(call, griffe.ExprCall) or str(call.function) != "Field":
            return
        given = {word.name: word.value for word in call.arguments if isinstance(word, griffe.ExprKeyword)}
        if "description" in given:
            text = ast.literal_eval(str(given["description"]))
            attr.docstring = griffe.Docstring(text[0].upper() + text[1:] + ".", parent=attr)
            attr.value = given.get("default")
