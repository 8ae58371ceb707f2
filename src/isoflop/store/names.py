"""Names that come from files, made safe to use as paths and to print; names that the store uses itself."""

from __future__ import annotations

import unicodedata

from pydantic import TypeAdapter, ValidationError

from ..core.errors import UsageError
from ..core.recipe import Name

CACHE = "cache"
"""Folder of a root: tokens, tokenizers and what was measured once."""
MACHINE = "machine.json"
"""File of a root: how fast this machine is."""
INDEX = "index.sqlite"
"""File of a root: the index of its runs."""
_OWN = {CACHE, MACHINE, INDEX, *(f"{INDEX}-{suffix}" for suffix in ("wal", "shm", "journal"))}
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def reserved(name: str) -> str:
    """Why no run and no study may have this name; "" where it may. Some file systems do not tell a from A."""
    return f"{name!r} is a name that the store uses itself; choose another" if name.casefold() in _OWN else ""


def printable(text: str) -> str:
    """``text`` on one line without control, formatting (bidirectional) and surrogate characters.

    So a name from a file cannot move a terminal's cursor, change its colours or reverse what follows.

    Example:
        >>> printable("two" + chr(10) + "lines")
        'two lines'
    """
    harmless = (c for c in text if c.isspace() or not unicodedata.category(c).startswith("C"))
    return " ".join("".join(harmless).split())


def component(name: str) -> str:
    """``name`` if it is one path component as recipes allow it, and not the store's own; otherwise a UsageError.

    Example:
        >>> component("small-1")
        'small-1'
    """
    if problem := reserved(name):
        raise UsageError(problem)
    try:
        return _NAME.validate_python(name)
    except ValidationError:
        fix = "use at most 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        raise UsageError(f"{printable(name)!r} cannot name a directory", fix=fix) from None
