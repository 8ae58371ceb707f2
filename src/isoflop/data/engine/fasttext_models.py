"""Models of fastText (``.bin``, ``.ftz``), read where the library is installed: languages, quality, any labels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import DataError, UsageError
from ...core.reading import user_path

PREFIX = "__label__"


def fasttext_module(path: str) -> Any:
    """The library ``fasttext``; UsageError if it is not installed."""
    try:
        import fasttext
    except ImportError:
        raise UsageError("needs the library fasttext", where=path, fix="pip install 'isoflop[fasttext]'") from None
    return fasttext


class FastTextModel:
    """A classifier that fastText trained.

    Args:
        path: of its file.

    Example, with the library and a model:
        >>> fasttext_module("lid.176.bin")  # doctest: +SKIP
        >>> FastTextModel("lid.176.bin").probabilities(["A text."])[0]["en"]  # doctest: +SKIP
        0.98
    """

    def __init__(self, path: str) -> None:
        place = Path(user_path(path))
        library = fasttext_module(str(place))
        if not place.is_file():
            raise DataError("does not exist", where=str(place), fix="name a .bin or .ftz file of fastText")
        try:
            self._model = library.FastText._FastText(str(place))
        except (ValueError, RuntimeError) as error:
            raise DataError(f"is no model of fastText ({error})", where=str(place)) from error
        if not str(self._model.get_labels()[:1]).count(PREFIX):
            raise DataError("holds vectors of words and no classifier", where=str(place), fix="name a classifier")
        self.labels = [label.removeprefix(PREFIX) for label in self._model.get_labels()]

    def probabilities(self, texts: Sequence[str], most: int = -1) -> list[dict[str, float]]:
        """Labels of each text with their probabilities, the likeliest first.

        Args:
            texts: any; fastText takes a line, so that their line ends become blanks.
            most: labels of each; -1: all.
        """
        # The library's own `predict` asks numpy for what its second version refuses; this is what it calls.
        read = self._model.f.predict
        found = [read(text.replace("\n", " ") + "\n", most, 0.0, "strict") for text in texts]
        return [{label.removeprefix(PREFIX): min(float(p), 1.0) for p, label in each} for each in found]


@functools.lru_cache(maxsize=4)
def fasttext_model(path: str) -> FastTextModel:
    """The model of a file, read once a process."""
    return FastTextModel(path)
