"""Verbs with many options: those that belong together are the fields of a dataclass, one argument of the function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def gathered(verb: Callable[..., None]) -> Callable[..., None]:
    """A function whose arguments that are dataclasses stand on the command line as their fields.

    Args:
        verb: annotated as ``typer`` wants it; every field of its dataclasses has a default.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     width: int = 2
        ...     depth: int = 3
        >>> def volume(size: Size, times: int = 1) -> None:
        ...     print(size.width * size.depth * times)
        >>> volume.__annotations__ = {"size": Size, "times": int, "return": None}
        >>> gathered(volume)(width=5)
        15
    """
    hints = get_type_hints(verb, include_extras=True)
    plain: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if not is_dataclass(hints[name]):
            plain.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
            continue
        kind = hints[name]
        inner = get_type_hints(kind, include_extras=True)
        groups[name] = (kind, [field.name for field in fields(kind)])
        for field in fields(kind):
            plain.append(
                inspect.Parameter(
                    field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=inner[field.name]
                )
            )

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        made = {
            name: kind(**{key: given.pop(key) for key in keys if key in given}) for name, (kind, keys) in groups.items()
        }
        verb(**made, **given)

    called.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in plain}
    return called
