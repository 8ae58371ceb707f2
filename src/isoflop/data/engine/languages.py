"""In which language a text is written, by models that others made."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

from ...core.errors import UsageError
from .fasttext_models import fasttext_model


class Identifies(Protocol):
    """Names languages of texts."""

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest language of each and its probability."""


class NaiveBayes:
    """py3langid: naive Bayes over byte n-grams of 139 languages, by ISO 639 codes.

    Example:
        >>> NaiveBayes().identify(["This is the house that they have built."])[0][0]
        'en'
    """

    def __init__(self) -> None:
        self._model = _py3langid()

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest language of each and its probability."""
        return [(str(code), float(p)) for code, p in map(self._model.classify, texts)]


class FastTextLanguages:
    """A fastText model whose labels are languages, such as lid.176.

    Args:
        path: of its file.

    Example, with the library and a model:
        >>> FastTextLanguages("lid.176.bin").identify(["This is a house."])[0][0]  # doctest: +SKIP
        'en'
    """

    def __init__(self, path: str) -> None:
        self._model = fasttext_model(path)

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest language of each and its probability."""
        found = self._model.probabilities(texts, most=1)
        return [next(iter(each.items()), ("none", 0.0)) for each in found]


@functools.cache
def _py3langid() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UsageError("needs py3langid", where="filter language", fix="pip install 'isoflop[data]'") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identifier(model: str | None) -> Identifies:
    """What names languages: py3langid, or the fastText model of a file.

    Args:
        model: path of that file.

    Raises:
        UsageError: the library is not installed.
        DataError: the file is no model.
    """
    return NaiveBayes() if model is None else FastTextLanguages(model)
