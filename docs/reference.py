"""How the reference reads docstrings: an `Example:` is doctest code, as `Examples:` is to the parser."""

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Renames the section before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that has been read."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
