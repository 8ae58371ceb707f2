"""Mixtures of documents from several sources by shares of text, drawn by a hash of each document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.digests import document_hash
from ...core.errors import DataError, UsageError
from .inputs import Unit
from .jobs import DOCUMENTS, Counts, Desk, JobSettings, conclude, opened_job, work_through, write_array

DRAWN = "drawn.npy"


@dataclass(frozen=True)
class Measuring:
    """The first pass over a unit: a number by each document's text, and its bytes.

    Args:
        seed: another one draws others.

    Example:
        >>> Measuring(0).seed
        0
    """

    seed: int

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, found = Counts(), list[tuple[float, int]]()
        for row in desk.texts(unit, counts):
            place = int.from_bytes(document_hash(f"{self.seed}:{row.text}")[:8], "big") / 2.0**64
            found.append((place, len(row.text.encode())))
        write_array(desk.path("measured", unit.number, "npy"), np.array(found, np.float64).reshape(-1, 2))
        return counts


@dataclass(frozen=True)
class Drawing:
    """The second pass: drawn documents are written, with the name of their source as their domain.

    Args:
        below: number of each unit's source -> the hash below which documents are drawn.
        sources: source of each unit.
        names: of the sources.
        key: that the name is written under; a record's own value there is kept.

    Example:
        >>> Drawing((0.5,), (0,), ("web",), "domain").names
        ('web',)
    """

    below: tuple[float, ...]
    sources: tuple[int, ...]
    names: tuple[str, ...]
    key: str

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, source = Counts(kept=0), self.sources[unit.number]
        measured = np.load(desk.path("measured", unit.number, "npy"), mmap_mode="r")
        with desk.writer(DOCUMENTS, unit.number) as keep:
            for row, (place, size) in zip(desk.rows(unit, counts), measured.tolist(), strict=True):
                if place <= self.below[source]:
                    counts["kept"] += 1
                    counts[f"bytes.{self.names[source]}"] += int(size)
                    if self.key not in row.record:
                        row.record, row.raw = {self.key: self.names[source], **row.record}, b""
                    keep(row.line(desk.keys.text, desk.keys.id))
        return counts


def mix(
    sources: Mapping[str, Sequence[Unit]],
    shares: Mapping[str, float],
    bytes: int,
    settings: JobSettings,
    *,
    key: str = "domain",
    seed: int = 0,
) -> dict[str, Any]:
    """Draw documents of several sources until each has its share of a number of bytes, none twice.

    Args:
        sources: units of each, by name.
        shares: of each; they are taken relative to their sum.
        bytes: of text in all.
        settings: where and how.
        key: that the source's name is written under.
        seed: another one draws other documents.

    Raises:
        DataError: a source holds less than its share.
    """
    if not sources or any(not 0 < shares[name] < float("inf") for name in sources):
        raise UsageError("every source needs a share above 0", where="mix", fix="e.g. books.jsonl=0.7 web.jsonl=0.3")
    names, units, of = tuple(sources), list[Unit](), list[int]()
    for number, name in enumerate(names):
        for unit in sources[name]:
            units.append(replace(unit, number=len(units)))
            of.append(number)
    what = {"verb": "mix", "shares": [[name, shares[name]] for name in names], "bytes": bytes, "seed": seed, "as": key}
    with opened_job(settings, units, what):
        work_through(units, Measuring(seed), settings, "measured-units")
        desk, below = settings.desk, []
        for number, name in enumerate(names):
            mine = [np.load(desk.path("measured", u.number, "npy")) for u in units if of[u.number] == number]
            below.append(_below(np.concatenate(mine), bytes * shares[name] / sum(shares.values()), name))
        counts = work_through(units, Drawing(tuple(below), tuple(of), names, key), settings)
        return conclude(settings, counts, verb="mix", shares=what["shares"])


def _below(measured: npt.NDArray[np.float64], wanted: float, name: str) -> float:
    """The hash up to which documents have at most so many bytes."""
    held = float(measured[:, 1].sum())
    if held < wanted:
        what = f"holds {held:,.0f} bytes, and its share is {wanted:,.0f}"
        raise DataError(
            what, where=name, fix=f"mix at most {held / wanted:.3g} times as much, or give it a smaller share"
        )
    order = np.argsort(measured[:, 0], kind="stable")
    fits = np.searchsorted(np.cumsum(measured[order, 1]), wanted, side="right")
    return float(measured[order[fits - 1], 0]) if fits else -1.0
