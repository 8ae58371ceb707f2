"""Names that come from files, made safe to use as paths and to print."""

from __future__ import annotations

import unicodedata

from pydantic import TypeAdapter, ValidationError

from ..core.errors import UsageError
from ..core.recipe import Name

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def printable(text: str) -> str:
    """``text`` on one line without control, formatting (bidirectional) and surrogate characters.

    So a name from a file cannot move a terminal's cursor, change its colours or reverse what follows.
    """
    harmless = (c for c in text if c.isspace() or not unicodedata.category(c).startswith("C"))
    return " ".join("".join(harmless).split())


def component(name: str) -> str:
    """``name`` if it is one path component as recipes allow it; otherwise a UsageError."""
    try:
        return _NAME.validate_python(name)
    except ValidationError:
        fix = "use at most 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        raise UsageError(f"{printable(name)!r} cannot name a directory", fix=fix) from None
