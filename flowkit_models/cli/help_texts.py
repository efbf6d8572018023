"""Help of the command line: defaults that the texts say in words are left out of it."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any

import tyro


def hide_defaults(kinds: Iterable[Any]) -> None:
    """Hides the defaults of options that are None, empty or switches; those that are numbers or words are shown.

    Args:
        kinds: dataclasses of options, among anything else.
    """
    for kind in [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]:
        for field in dataclasses.fields(kind):
            if field.name in kind.__annotations__ and (field.default in (None, "", ()) or field.type is bool):
                kind.__annotations__[field.name] = Annotated[field.type, tyro.conf.arg(help_behavior_hint="")]
