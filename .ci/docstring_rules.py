"""What the documentation tool does not know of the docstrings: sections `Example:`, fields that describe themselves."""

import ast
from typing import Any

import griffe


class DocstringRules(griffe.Extension):
    """Changes docstrings after they are read and before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Name the section `Example:` `Examples:`, which is the one that is shown as code."""
        if obj.docstring is not None:
            lines = obj.docstring.value.split("\n")
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
