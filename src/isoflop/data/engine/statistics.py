"""What is in files of documents: lengths, languages' scripts, repeats, in one pass."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...core.digests import document_hash
from ...store.corpora import CorpusFacts
from .dropped import step_of
from .inputs import Unit, blocks
from .jobs import Counts, Desk, JobSettings, conclude, opened_job, work_through, write_array
from .languages import identifier
from .pages import Pages

HASHES = "hashes"
BEGINNING = 2000
"""Characters by which a document's language is told."""


@dataclass(frozen=True)
class Describing:
    """The work on a unit.

    Args:
        key: a key of records whose values are counted.
        languages: count languages, too, by their beginnings.

    Example:
        >>> Describing("domain").key
        'domain'
    """

    key: str
    languages: bool = False

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, hashes = Counts(), list[bytes]()
        for block in blocks(desk.texts(unit, counts, self.key)):
            pages = Pages([row.text for row in block])
            if self.languages:
                counts.update(f"language.{name}" for name in _languages([row.text for row in block]))
            for row, words in zip(block, pages.words.counts.tolist(), strict=True):
                counts["words"] += words
                counts["bytes"] += len(row.text.encode())
                counts["empty"] += not row.text.strip()
                counts[f"length.{len(row.text).bit_length():02d}"] += 1
                counts[f"script.{script_of(row.text)}"] += 1
                if self.key in row.record:
                    counts[f"{self.key}.{str(row.record[self.key])[:40]}"] += 1
                hashes.append(document_hash(row.text)[:8] + document_hash(row.id)[:8])
        write_array(desk.path(HASHES, unit.number, "npy"), np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2))
        return counts


def _languages(texts: Sequence[str]) -> list[str]:
    """The language of each text by its beginning; "unsure" where none is likelier than all others together."""
    found = identifier().identify([text[:BEGINNING] for text in texts])
    return [name if p >= 0.5 else "unsure" for name, p in found]


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "OTHER").split(" ")[0].lower() if character.isalpha() else ""


def script_of(text: str) -> str:
    """The commonest script of a text's first thousand characters, as Unicode names it.

    Example:
        >>> script_of("text"), script_of("1 2")
        ('latin', 'none')
    """
    found = Counts(name for name in map(_script, text[:1000]) if name)
    return max(found, key=lambda name: (found[name], name)) if found else "none"


def statistics(
    units: Sequence[Unit],
    settings: JobSettings,
    key: str = "domain",
    *,
    languages: bool = False,
    steps: Sequence[Path] = (),
) -> dict[str, Any]:
    """Count documents, words, bytes, lengths, scripts, values of a key, equal texts and equal ids.

    What a page about them shows is kept beside the summary (``corpus.json``; ``isoflop.report.corpora``).

    Args:
        units: of the input.
        settings: where and how.
        key: a key of records whose values are counted.
        languages: count languages, too (py3langid).
        steps: folders of earlier jobs, whose drops the page is to show.

    Example:
        >>> from isoflop.data.engine.inputs import units_of
        >>> _ = Path("a.jsonl").write_text('{"text": "one two"}\\n{"text": "one two"}')
        >>> found = statistics(units_of(["a.jsonl"]), JobSettings(Path("out")))
        >>> found["counts"]["words"], found["counts"]["equal_texts"]
        (4, 1)
    """
    told = [step_of(folder) for folder in steps]
    with opened_job(settings, units, {"verb": "stats", "key": key} | ({"languages": True} if languages else {})):
        counts = work_through(units, Describing(key, languages), settings)
        hashes = np.concatenate([np.load(settings.desk.path(HASHES, unit.number, "npy")) for unit in units])
        for column, name in enumerate(("equal_texts", "equal_ids")):
            counts[name] = len(hashes) - len(np.unique(hashes[:, column]))
        shown = key if any(name.startswith(f"{key}.") for name in counts) else ""
        CorpusFacts(counts=dict(sorted(counts.items())), key=shown, steps=tuple(told)).write(settings.out)
        return conclude(settings, counts, verb="stats")


def histogram(counts: dict[str, int], width: int = 40) -> list[str]:
    """Lines of a bar chart of documents by length, in powers of two of characters."""
    rows = sorted((int(name[7:]), count) for name, count in counts.items() if name.startswith("length."))
    most = max((count for _, count in rows), default=1)
    return [
        f"{2 ** (bits - 1) if bits else 0:>12,}  {'#' * -(-width * count // most)} {count:,}" for bits, count in rows
    ]
