"""Deduplication by a Bloom filter of n-grams, of paragraphs and of whole documents, in the order of the input.

As the filter of DCLM does it (its mode "old-both"): of each paragraph the n-grams that were seen before are counted.
The paragraph goes if their share is above the threshold, and else becomes known. A document goes if the share over all
its n-grams is. What is dropped depends on the order, so units are worked on in theirs, by one process; killed, the
filter is filled again from those that are done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.errors import UsageError
from ..hashing import FACTOR, Hashes, mixed, ngrams
from .inputs import Unit, blocks
from .jobs import ATTRIBUTES, DOCUMENTS, Counts, Desk, JobSettings, conclude, json_line, opened_job, work_through
from .pages import Pages


@dataclass(frozen=True)
class BloomSettings:
    """How repeats are told.

    Args:
        words: of an n-gram.
        fewest: of a paragraph that is looked at; one of fewer than ``words`` is one n-gram.
        threshold: share of n-grams seen before above which text goes.
        expected: n-grams that the filter is made for.
        error: share of n-grams that are wrongly taken for seen, then.

    Example:
        >>> BloomSettings(expected=1_000_000).bits
        9585059
    """

    words: int = 13
    fewest: int = 13
    threshold: float = 0.8
    expected: int = 100_000_000
    error: float = 0.01

    @property
    def bits(self) -> int:
        """Of the filter: -n ln p / (ln 2)^2."""
        return math.ceil(-self.expected * math.log(self.error) / math.log(2) ** 2)

    @property
    def probes(self) -> int:
        """Bits of an n-gram: (bits / n) ln 2."""
        return max(1, round(self.bits / self.expected * math.log(2)))


class BloomFilter:
    """A set that answers "perhaps" or "surely not".

    Args:
        settings: its size.

    Example:
        >>> known = BloomFilter(BloomSettings(expected=1000))
        >>> known.add(np.array([1, 2], np.uint64))
        >>> known.has(np.array([1, 2, 3], np.uint64)).tolist()
        [True, True, False]
    """

    def __init__(self, settings: BloomSettings) -> None:
        self.bits, self.probes = settings.bits, settings.probes
        self.table = np.zeros(self.bits // 8 + 1, np.uint8)

    def _places(self, grams: Hashes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        step = mixed(grams ^ FACTOR) | np.uint64(1)
        probe = np.arange(self.probes, dtype=np.uint64)
        places = (mixed(grams)[:, None] + step[:, None] * probe) % np.uint64(self.bits)
        return places >> np.uint64(3), (np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)).astype(np.uint8)

    def has(self, grams: Hashes) -> npt.NDArray[np.bool_]:
        """bool (n,)."""
        place, bit = self._places(grams)
        return np.asarray((self.table[place] & bit).all(1) if self.probes > 1 else (self.table[place] & bit)[:, 0] > 0)

    def add(self, grams: Hashes) -> None:
        """Make them known."""
        place, bit = self._places(grams)
        np.bitwise_or.at(self.table, place.ravel(), bit.ravel())


class BloomDedup:
    """The work on units, in order.

    Args:
        settings: how repeats are told.

    Example:
        >>> work = BloomDedup(BloomSettings(words=3, fewest=3, expected=1000))
        >>> work.kept("one two three four"), work.kept("new words stand here\\none two three four")
        ('one two three four', 'new words stand here')
    """

    def __init__(self, settings: BloomSettings) -> None:
        self.settings, self.filter = settings, BloomFilter(settings)

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts = Counts()
        with desk.writer(DOCUMENTS, unit.number) as keep, desk.writer(ATTRIBUTES, unit.number, "jsonl.gz") as note:
            for block in blocks(desk.rows(unit, counts)):
                for row in block:
                    text = self.kept(row.text)
                    counts["kept"] += text is not None
                    counts["edited"] += text is not None and text != row.text
                    counts["dropped"] += text is None
                    edited = text is not None and text != row.text
                    note(json_line({"id": row.id, "keep": text is not None, "edited": edited}))
                    if text is not None:
                        row.text = text
                        counts["kept_characters"] += len(text)
                        keep(row.line(desk.keys.text, desk.keys.id))
        return counts

    def kept(self, text: str) -> str | None:
        """What stays of a document; None if it goes. Its own text becomes known."""
        lines = text.split("\n")
        pages, n = Pages(lines), self.settings.words
        words, kept, seen, total = pages.words, list[str](), 0, 0
        for line, first, last in zip(lines, words.bounds[:-1].tolist(), words.bounds[1:].tolist(), strict=True):
            if last - first < self.settings.fewest:
                kept.append(line)
                continue
            grams = ngrams(pages.word_hashes[first:last], min(n, last - first))
            known = int(self.filter.has(grams).sum())
            seen, total = seen + known, total + len(grams)
            if known > self.settings.threshold * len(grams):
                continue
            self.filter.add(grams)
            kept.append(line)
        return None if total and seen > self.settings.threshold * total else "\n".join(kept)


def bloom(units: Sequence[Unit], how: BloomSettings, settings: JobSettings) -> dict[str, Any]:
    """Drop paragraphs and documents whose n-grams were seen before.

    Args:
        units: of the input.
        how: repeats are told.
        settings: where and how; one process works, whatever ``workers`` says.

    Example:
        >>> from pathlib import Path
        >>> from isoflop.data.engine.inputs import units_of
        >>> _ = Path("a.jsonl").write_text('{"text": "one two three"}\\n' * 2)
        >>> how = BloomSettings(words=3, fewest=3, expected=1000)
        >>> bloom(units_of(["a.jsonl"]), how, JobSettings(Path("out")))["counts"]["kept"]
        1
    """
    if not (0 < how.error < 1 and 0 < how.threshold <= 1 and 0 < how.fewest <= how.words and how.expected > 0):
        raise UsageError("its settings are out of range", where="bloom", fix="0 < error < 1, 0 < threshold <= 1")
    facts = dict(how.__dict__)
    with opened_job(settings, units, {"verb": "dedup", "method": "bloom", "bloom": facts}):
        work = BloomDedup(how)
        for unit in units:
            if settings.desk.done(unit.number).exists():  # fill the filter as it was
                for row in settings.desk.texts(unit, Counts()):
                    work.kept(row.text)
        counts = work_through(units, work, settings.alone)
        return conclude(settings, counts, verb="dedup", method="bloom", bloom=facts)
