"""In which language a text is written: by models that others made, or by documents of each language."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError, UsageError
from ..hashing import mixed
from .fasttext_models import fasttext_model
from .inputs import DocumentRow, rows_of, units_of

BUCKETS = 1 << 16
"""That runs of bytes are hashed to."""
MOST = 4
"""Bytes of the longest runs."""


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


class LearnedLanguages:
    """Naive Bayes over hashed runs of one to four bytes, learned from documents of each language.

    Args:
        names: of the languages.
        table: (buckets, languages) log probabilities of a run in each.

    Example:
        >>> texts = {"en": ["the house that they have built"], "de": ["das Haus, das sie gebaut haben"]}
        >>> LearnedLanguages.fit(texts).identify(["they have that", "sie haben das"])[1][0]
        'de'
    """

    def __init__(self, names: Sequence[str], table: npt.NDArray[np.float64]) -> None:
        self.names, self.table = tuple(names), table

    @classmethod
    def fit(cls, texts: Mapping[str, Iterable[str]]) -> LearnedLanguages:
        """Learn from documents, by the language of each; how many there are of one does not count for it.

        Raises:
            DataError: fewer than two languages, or one without text.
        """
        if len(texts) < 2:
            raise DataError("are told apart where there are two or more", where="languages", fix="name files of others")
        counts = np.zeros((BUCKETS, len(texts)))
        for place, (name, documents) in enumerate(texts.items()):
            for document in documents:
                counts[:, place] += np.bincount(_runs(document), minlength=BUCKETS)
            if not counts[:, place].any():
                raise DataError("holds no text", where=f"language {name}", fix="name a file of documents in it")
        smooth = 0.5  # of an occurrence, so that what was never seen in a language is unlikely and not impossible
        return cls(list(texts), np.log((counts + smooth) / (counts.sum(0) + smooth * BUCKETS)))

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest language of each and its probability, all being equally likely before."""
        found = list[tuple[str, float]]()
        for text in texts:
            runs, counts = np.unique(_runs(text), return_counts=True)
            odds = counts @ self.table[runs]
            odds = np.exp(odds - odds.max())
            best = int(odds.argmax())
            found.append((self.names[best], float(odds[best] / odds.sum())))
        return found


def _runs(text: str) -> npt.NDArray[np.int64]:
    """Buckets of the runs of bytes of a text in lower case, with a blank before and behind it; none of an empty one."""
    words = text.lower().split()
    data = np.frombuffer(f" {' '.join(words)} ".encode("utf-8", "replace") if words else b"", np.uint8)
    found, value = [np.zeros(0, np.uint64)], np.zeros(len(data), np.uint64)
    for length in range(1, min(MOST, len(data)) + 1):
        value = value[: len(data) - length + 1] * np.uint64(256) + data[length - 1 :]
        found.append(mixed(value + np.uint64(length << 32)))
    return np.asarray(np.concatenate(found) % np.uint64(BUCKETS), np.int64)


@functools.cache
def _py3langid() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        fix = "pip install 'isoflop[data]'; a filter may be given examples of each language instead"
        raise UsageError("needs py3langid", where="languages", fix=fix) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.lru_cache(maxsize=4)
def _learned(files: tuple[tuple[str, str], ...]) -> LearnedLanguages:
    return LearnedLanguages.fit({name: _texts(path) for name, path in files})


def _texts(path: str) -> Iterable[str]:
    for unit in units_of([path]):
        for row in rows_of(unit):
            if not isinstance(row, DocumentRow):
                raise DataError(f"{row.what}: {row.quote}", where=row.where, fix="repair or drop that line")
            yield row.text


def identifier(model: str | None = None, examples: Mapping[str, str] | None = None) -> Identifies:
    """What names languages: what is learned from files of documents, the fastText model of a file, or py3langid.

    Args:
        model: path of that model.
        examples: language -> file of documents in it.

    Raises:
        UsageError: the library is not installed.
        DataError: a file is no model, or holds no documents.
    """
    if examples:
        return _learned(tuple(examples.items()))
    return NaiveBayes() if model is None else FastTextLanguages(model)
