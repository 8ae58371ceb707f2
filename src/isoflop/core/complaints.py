"""What pydantic finds wrong with a value, in the words of whoever wrote the file: tables and lists, not objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_TABLE = "should be a table, with keys in braces or below a [header]"
_LIST = "should be a list, in brackets"
_SAID = {
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
    "dict_type": _TABLE,
    "dataclass_type": _TABLE,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "string_type": "should be text",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "int_parsing": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "finite_number": "should be a finite number",
    "missing": "is missing",
}
_BOUNDS = {
    "greater_than": ("gt", "should be above"),
    "greater_than_equal": ("ge", "should be at least"),
    "less_than": ("lt", "should be below"),
    "less_than_equal": ("le", "should be at most"),
    "literal_error": ("expected", "should be"),
    "enum": ("expected", "should be"),
    "multiple_of": ("multiple_of", "should be a multiple of"),
}
"""By kind of error: the key of its context that holds the bound, and the words before it."""
_COUNTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "too_short": lambda of: f"should have at least {_entries(of['min_length'])}, has {of['actual_length']}",
    "too_long": lambda of: f"should have at most {_entries(of['max_length'])}, has {of['actual_length']}",
    "string_too_short": lambda of: (
        "should not be empty" if of["min_length"] == 1 else f"should have at least {of['min_length']} characters"
    ),
    "string_too_long": lambda of: f"should have at most {of['max_length']} characters",
}
SEEDS = 3
"""Fewest seeds of which an interval is given."""
TELLING = frozenset({"missing", *_COUNTED})
"""Errors whose words say all: the value would add nothing."""
TOLD_BY: dict[tuple[str, ...], tuple[str, str]] = {
    ("ladder",): ("study", "compare {}"),
    ("stages", "texts"): ("pipeline", "pipeline {}"),
    ("batches", "target"): ("study of batch sizes", "compare {}"),
    ("studies", "bars"): ("claim", "claims run"),
    ("budget",): ("recipe", "train {}"),
}
"""Keys that only one kind of document has -> the kind, and the verb that runs it, {} being the file."""


def words(error: Mapping[str, Any]) -> str:
    """What is wrong, without the value, of one of the errors that pydantic lists."""
    kind = error["type"]
    if kind in _SAID:
        return _SAID[kind]
    if kind in _COUNTED:
        return _COUNTED[kind](error["ctx"])
    if kind in _BOUNDS:
        name, said = _BOUNDS[kind]
        bound = error["ctx"][name]
        return f"{said} {bound:g}" if isinstance(bound, float) else f"{said} {bound}"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message.removeprefix("Input ")
    return message if kind == "value_error" else f"{message[:1].lower()}{message[1:]}"


def few_seeds(given: int) -> str:
    """Why no interval is given of so few seeds.

    Example:
        >>> few_seeds(2)[:42]
        'an interval needs at least 3 seeds, not 2:'
    """
    why = "Student's 95 % interval of two is 18 of their standard deviations wide, of three 5"
    return f"an interval needs at least {SEEDS} seeds, not {given}: {why}"


def form_of(value: Any) -> str:
    """A value as an error shows it: short ones as they are, tables and lists by what they are."""
    if isinstance(value, dict | list | tuple):
        return "a table" if isinstance(value, dict) else "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"
