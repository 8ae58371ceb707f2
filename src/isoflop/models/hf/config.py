"""What a ``config.json`` says, value by value: each has the type that it must have, or one clear error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.complaints import form_of
from ...core.errors import DataError, nearest
from ...core.reading import read_json
from ...store.published import CONFIG as FILE
from .wholes import text_config

LARGEST = 2**31 - 1
"""What no size is above: more would be no size of a model, and overflow what is computed from it."""


@dataclass(frozen=True)
class Config:
    """A configuration and where it lies.

    Args:
        tree: the JSON table.
        where: the file, for errors.

    Example:
        >>> config = Config({"hidden_size": 64, "tie_word_embeddings": True}, "config.json")
        >>> config.whole("hidden_size"), config.flag("tie_word_embeddings", False), config.number("rms_norm_eps", 1e-6)
        (64, True, 1e-06)
        >>> config.whole("num_hidden_layers")
        Traceback (most recent call last):
        isoflop.core.errors.DataError: config.json: num_hidden_layers is missing
    """

    tree: Mapping[str, Any]
    where: str

    @classmethod
    def read(cls, directory: Path) -> Config:
        """That of a directory, of its text model where it has several; DataError if it has none that is a table."""
        path = directory / FILE
        if not path.is_file():
            raise DataError(f"has no {FILE}", where=str(directory), fix="a Hugging Face directory has one")
        tree = read_json(path)
        if not isinstance(tree, dict):
            raise DataError("is no table", where=str(path))
        return cls(text_config(tree), str(path))

    def whole(self, key: str, default: int | None = None, most: int = LARGEST) -> int:
        """A whole number from 1 to ``most``."""
        value = self._given(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.problem(key, f"is {form_of(value)}, not a whole number above 0")
        if value > most:
            raise self.problem(key, f"is above {most}, the most that is read")
        return value

    def maybe_whole(self, key: str, default: int | None = None) -> int | None:
        """A whole number, at least 1; None where it is null, or absent without a default."""
        value = self.tree.get(key, default)
        return None if value is None else self.whole(key, default)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._given(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise self.problem(key, f"is {form_of(value)}, not a number above 0")
        return float(value)

    def maybe_number(self, key: str, default: float | None = None) -> float | None:
        """A positive number; None where it is null, or absent without a default."""
        return None if self.tree.get(key, default) is None else self.number(key, default)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value; null is the default."""
        value = self.tree.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.problem(key, f"is {value!r}, not true or false")
        return value

    def choice(self, key: str, known: Mapping[str, Any], default: str | None = None, what: str = "") -> Any:
        """What stands for the word at ``key``; DataError with the nearest known word otherwise."""
        value = self._given(key, default)
        if not isinstance(value, str) or value not in known:
            name = what or key
            raise self.problem(
                key, f"is {value!r}, and no {name} of that name is known here", fix=nearest(str(value), known)
            )
        return known[value]

    def listed(self, key: str, length: int) -> list[Any] | None:
        """A list with one entry for each layer; None where there is none."""
        value = self.tree.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length:
            raise self.problem(key, f"should be a list of {length} entries, one for each layer")
        return value

    def table(self, key: str) -> Config | None:
        """A table within this one; None where it is null or absent."""
        value = self.tree.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.problem(key, "is no table")
        return Config(value, f"{self.where}: {key}")

    def refuse(self, key: str, neutral: tuple[Any, ...], what: str) -> None:
        """DataError if ``key`` says anything but one of the neutral values (or nothing)."""
        value = self.tree.get(key)
        if value is not None and value not in neutral:
            raise self.problem(key, f"is {value!r}: {what}")

    def problem(self, key: str, what: str, fix: str = "") -> DataError:
        """An error about a key."""
        return DataError(f"{key} {what}", where=self.where, fix=fix)

    def _given(self, key: str, default: Any) -> Any:
        value = self.tree.get(key)
        value = default if value is None else value
        if value is None:
            raise self.problem(key, "is missing")
        return value
