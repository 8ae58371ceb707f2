"""Decontamination: documents that share a run of words with a test are dropped (Brown et al. 2020, appendix C)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError
from ..hashing import Hashes, ngrams
from .features import batches
from .inputs import DocumentRow, Unit, blocks, rows_of, stamps, values_of
from .jobs import ATTRIBUTES, DOCUMENTS, Counts, Desk, JobSettings, conclude, json_line, opened_job, work_through
from .pages import Pages, within

WORDS, FEWEST = 13, 8
"""Words of a run; items of fewer, down to the second, are looked for as a whole."""


@dataclass(frozen=True)
class TestGrams:
    """Runs of words of tests.

    Args:
        grams: words of a run -> sorted hashes.
        short: items of too few words to be looked for.
        items: how many there are.

    Example:
        >>> words = " ".join(f"word{i}" for i in range(20))
        >>> found = TestGrams.of([words, "too short"])
        >>> len(found.grams[13]), found.short
        (8, 1)
    """

    __test__ = False

    grams: dict[int, Hashes]
    short: int
    items: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> TestGrams:
        """Of items, each a text."""
        found: dict[int, list[Hashes]] = {}
        short = 0
        for batch in batches(texts):
            pages = Pages(batch)
            counts, bounds = pages.words.counts, pages.words.bounds
            found.setdefault(WORDS, []).append(ngrams(pages.word_hashes, WORDS)[within(pages.words, WORDS)])
            for text in np.flatnonzero(counts < WORDS).tolist():
                size = int(counts[text])
                short += size < FEWEST
                if size >= FEWEST:
                    whole = ngrams(pages.word_hashes[bounds[text] : bounds[text + 1]], size)
                    found.setdefault(size, []).append(whole)
        grams = {n: np.unique(np.concatenate(each)) for n, each in sorted(found.items())}
        return cls({n: each for n, each in grams.items() if len(each)}, short, len(texts))

    def hits(self, pages: Pages) -> npt.NDArray[np.int64]:
        """int64 (texts,): words of each text that lie in a run of some test's."""
        words = pages.words
        inside = np.zeros(len(words.text) + WORDS + 1, np.int64)
        for n, known in self.grams.items():
            mine = ngrams(pages.word_hashes, n)
            place = np.minimum(np.searchsorted(known, mine), len(known) - 1)
            found = np.flatnonzero((known[place] == mine) & within(words, n)) if len(mine) else np.empty(0, np.int64)
            np.add.at(inside, found, 1)
            np.add.at(inside, found + n, -1)
        return words.per_text(np.cumsum(inside)[: len(words.text)] > 0).astype(np.int64)


@dataclass(frozen=True)
class Decontaminate:
    """The work on a unit.

    Args:
        tests: what is looked for.

    Example:
        >>> Decontaminate(TestGrams.of(["a b"])).tests.items
        1
    """

    tests: TestGrams

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts = Counts()
        with desk.writer(DOCUMENTS, unit.number) as keep, desk.writer(ATTRIBUTES, unit.number, "jsonl.gz") as note:
            for block in blocks(desk.rows(unit, counts)):
                hits = self.tests.hits(Pages([row.text for row in block])).tolist()
                for row, words in zip(block, hits, strict=True):
                    counts["kept"] += not words
                    counts["contaminated"] += words > 0
                    counts["words_in_tests"] += words
                    note(json_line({"id": row.id, "keep": not words, "words_in_tests": words}))
                    if not words:
                        keep(row.line(desk.keys.text, desk.keys.id))
        return counts


def decontaminate(units: Sequence[Unit], tests: Sequence[Unit], settings: JobSettings) -> dict[str, Any]:
    """Drop every document that shares 13 words in a row with a test, or a shorter item as a whole.

    Args:
        units: of the input.
        tests: files of tests: of each record all text is looked for, whatever its keys.
        settings: where and how.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from isoflop.data.engine.inputs import units_of
        >>> words = " ".join(f"word{i}" for i in range(20))
        >>> _ = Path("a.jsonl").write_text(json.dumps({"text": f"so {words} it ends"}))
        >>> _ = Path("t.jsonl").write_text(json.dumps({"query": words, "gold": 1}))
        >>> found = decontaminate(units_of(["a.jsonl"]), units_of(["t.jsonl"]), JobSettings(Path("out")))
        >>> found["counts"]["contaminated"]
        1
    """
    with opened_job(settings, units, {"verb": "decontaminate", "tests": stamps(tests), "words": [WORDS, FEWEST]}):
        grams = TestGrams.of(list(items_of(tests)))
        if not grams.grams:
            what = f"holds no item of {FEWEST} words or more"
            raise DataError(what, where=", ".join(tests[0].files), fix="name files of tests")
        counts = work_through(units, Decontaminate(grams), settings)
        facts = {"items": grams.items, "items_too_short": grams.short}
        return conclude(settings, counts, verb="decontaminate", **facts)


def items_of(units: Sequence[Unit]) -> Iterator[str]:
    """All text of every record, whatever its keys: each string by itself, and all of them together in order.

    Raises:
        DataError: a line is no JSON: a test must not be missed.
    """
    for unit in units:
        if unit.kind == "text":
            yield from (row.text for row in rows_of(unit) if isinstance(row, DocumentRow))
            continue
        for _, value in values_of(unit, fix="repair that line: a test must not be missed"):
            yield from _strings(value if isinstance(value, dict) else {"text": value})


def _strings(record: dict[str, Any]) -> Iterator[str]:
    """A record's texts by themselves, and question and answers joined, since a pool may hold them in one piece."""
    found = [value for value in record.values() if isinstance(value, str)]
    lists = [value for value in record.values() if isinstance(value, list)]
    found += [each for value in lists for each in value if isinstance(each, str)]
    yield from found
    if len(found) > 1:
        yield " ".join(found)
