"""Vectors of documents: from hashed words, from a model's states, or stored ones; written and read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ...core.cost import Cost
from ...core.digests import digest, document_hash
from ...core.errors import DataError
from ...core.reading import read_json, user_path
from ...ledger.formulas import products
from . import features
from .inputs import DocumentRow, Keys, Unit, blocks, rows_of, stamps, values_of
from .jobs import (
    DOCUMENTS,
    SUMMARY,
    Counts,
    Desk,
    JobSettings,
    add_cost,
    conclude,
    json_line,
    opened_job,
    take_cost,
    work_through,
)
from .scoring import flops_of

Array = npt.NDArray[np.float64]
VECTOR = "vector"
"""Key of a record's vector."""


@runtime_checkable
class Embeds(Protocol):
    """Turns texts into vectors."""

    @property
    def cost(self) -> Cost:
        """What that has cost so far."""

    def vectors(self, texts: Sequence[str]) -> Array:
        """float64 (texts, d), each of unit length; a text's own is the same whatever lies beside it."""


class HashedVectors:
    """Hashed words and pairs by the rows of a table.

    Args:
        table: (buckets, d) rows, e.g. random ones, which nearly keep angles.
        weights: (buckets,) of features.

    Example:
        >>> found = HashedVectors(np.eye(8), np.ones(8)).vectors(["red fox", "red fox", ""])
        >>> np.allclose(found[0], found[1]), found[2].any()
        (True, np.False_)
    """

    def __init__(self, table: Array, weights: Array) -> None:
        self.table, self.weights, self.cost = table, weights, Cost()

    def vectors(self, texts: Sequence[str]) -> Array:
        """float64 (texts, d) of unit length; zero for a text without words."""
        found, summed = features.vectors(texts, self.table, self.weights)
        self.cost = self.cost + products(2 * summed * self.table.shape[1])
        return found


class CentredVectors:
    """Vectors less what all of them share, of unit length again: states of a language model point much the same way.

    Args:
        encoder: whose vectors.
        centre: (d,) their mean over a pool.

    Example:
        >>> encoder = HashedVectors(np.eye(8), np.ones(8))
        >>> centred = CentredVectors(encoder, encoder.vectors(["red"])[0])
        >>> centred.vectors(["red"]).any(), float(np.linalg.norm(centred.vectors(["blue"])).round(6))
        (np.False_, 1.0)
    """

    def __init__(self, encoder: Embeds, centre: Array) -> None:
        self.encoder, self.centre = encoder, centre

    @property
    def cost(self) -> Cost:
        """The encoder's."""
        return self.encoder.cost

    def vectors(self, texts: Sequence[str]) -> Array:
        """float64 (texts, d) of unit length; zero where nothing is left."""
        return unit_length(self.encoder.vectors(texts) - self.centre)


def unit_length(vectors: Array) -> Array:
    """Rows of length 1; those of length 0 stay.

    Example:
        >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.where(length > 0, vectors / np.maximum(length, 1e-300), vectors))


class StoredVectors:
    """Vectors that were stored beside documents, by their texts.

    Args:
        rows: float32 (n, d).
        places: hash of a document's text -> its row.
        identity: digest of what they were read from.
        name: of it, for messages.
        flops: that making them took.

    Example:
        >>> stored = StoredVectors(np.ones((1, 4), np.float32), {document_hash("red"): 0}, "", "vectors.jsonl")
        >>> stored.vectors(["red"]).tolist()
        [[0.5, 0.5, 0.5, 0.5]]
    """

    def __init__(
        self, rows: npt.NDArray[np.float32], places: dict[bytes, int], identity: str, name: str, flops: int = 0
    ) -> None:
        self.rows, self.places, self.identity, self.name = rows, places, identity, name
        self.bill: dict[str, Any] = {"flops": flops, "stored": True}
        self.cost = Cost()

    @classmethod
    def read(
        cls, stored: Sequence[Unit], pool: Sequence[Unit], keys: Keys = Keys(), key: str = VECTOR, flops: int = 0
    ) -> StoredVectors:
        """Vectors of a pool's documents, joined by their ids.

        Args:
            stored: files of records with an id and a vector, a list of numbers under ``key``.
            pool: the documents.
            keys: of both.
            key: of a vector.
            flops: that making them took.

        Raises:
            DataError: a document has no vector, an id has two that differ, or vectors differ in length.

        Example:
            >>> from isoflop.data.engine.inputs import units_of
            >>> _ = Path("a.jsonl").write_text('{"id": 7, "text": "red"}')
            >>> _ = Path("v.jsonl").write_text('{"id": "7", "vector": [3, 4]}')
            >>> StoredVectors.read(units_of(["v.jsonl"]), units_of(["a.jsonl"])).vectors(["red"]).tolist()
            [[0.6, 0.8]]
        """
        named, rows = _by_id(stored, keys.id, key)
        places: dict[bytes, int] = {}
        for unit in pool:
            for row in rows_of(unit, keys.only()):
                if not isinstance(row, DocumentRow):
                    continue
                if row.id not in named:
                    fix = "store one of every document: `isoflop data embed`"
                    raise DataError(f"the document {row.id!r} has no stored vector", where=row.where, fix=fix)
                place = places.setdefault(document_hash(row.text), named[row.id])
                if place != named[row.id] and not np.allclose(rows[place], rows[named[row.id]], rtol=1e-4, atol=1e-5):
                    raise DataError("equal texts have different vectors", where=row.where, fix="deduplicate first")
        return cls(rows, places, digest([stamps(stored), key]), stored[0].files[0], flops)

    def vectors(self, texts: Sequence[str]) -> Array:
        """float64 (texts, d) of unit length; zero for a text of white space alone.

        Raises:
            DataError: a text has none.
        """
        found = np.zeros((len(texts), self.rows.shape[1]))
        for number, text in enumerate(texts):
            place = self.places.get(document_hash(text))
            if place is not None:
                found[number] = self.rows[place]
            elif text.strip():
                raise DataError(f"has no vector of the text {text[:60]!r}", where=self.name)
        return unit_length(found)


def _by_id(units: Sequence[Unit], id_key: str, key: str) -> tuple[dict[str, int], npt.NDArray[np.float32]]:
    named: dict[str, int] = {}
    rows = list[npt.NDArray[np.float32]]()
    for where, record in records_of(units):
        found = record.get(key)
        if record.get(id_key) is None or not isinstance(found, list) or not found:
            raise DataError(f"lacks {id_key!r} or {key!r}, a list of numbers", where=where)
        try:
            row = np.array(found, np.float32)
        except (TypeError, ValueError):
            row = np.array([np.nan], np.float32)
        if row.ndim != 1 or not np.isfinite(row).all():
            raise DataError(f"{key!r} is no list of finite numbers", where=where)
        if rows and len(row) != len(rows[0]):
            raise DataError(f"{key!r} has {len(row)} numbers, and those before it {len(rows[0])}", where=where)
        place = named.setdefault(str(record[id_key]), len(rows))
        if place < len(rows) and not np.array_equal(rows[place], row):
            raise DataError(f"the id {record[id_key]!r} has two vectors", where=where, fix="give every document its id")
        rows.append(row)
    if not rows:
        raise DataError("holds no vectors", where=units[0].files[0])
    return named, np.stack(rows)


def records_of(units: Sequence[Unit]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each record of files stands, and what it holds, whatever its keys.

    Raises:
        DataError: a line is no JSON object; or the files are of a kind that has no records.
    """
    for unit in units:
        if unit.kind == "text":
            raise DataError("holds no records", where=unit.files[0], fix="name JSONL or Parquet")
        for where, record in values_of(unit):
            if not isinstance(record, dict):
                raise DataError(f"holds a {type(record).__name__}, not an object", where=where)
            yield where, record


@dataclass(frozen=True)
class Embedding:
    """The work on a unit: the id and the vector of each document.

    Args:
        encoder: live.

    Example:
        >>> Embedding(HashedVectors(np.eye(4), np.ones(4))).encoder.vectors(["a"]).shape
        (1, 4)
    """

    encoder: Embeds

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, before = Counts(), self.encoder.cost
        with desk.writer(DOCUMENTS, unit.number) as keep:
            for block in blocks(desk.texts(unit, counts)):
                for row, vector in zip(block, self.encoder.vectors([row.text for row in block]), strict=True):
                    keep(json_line({desk.keys.id: row.id, VECTOR: [float(f"{x:.7g}") for x in vector.tolist()]}))
        add_cost(counts, self.encoder.cost - before)
        return counts


def embed(units: Sequence[Unit], encoder: Any, settings: JobSettings) -> dict[str, Any]:
    """Write the vector of every document, for scorers that compare them; what that cost is in the summary.

    Args:
        units: of the input.
        encoder: an ``Embeds`` that says what it is (``identity``) and what making it cost (``bill``).
        settings: where and how.
    """
    with opened_job(settings, units, {"verb": "embed", "encoder": encoder.identity}):
        counts = work_through(units, Embedding(encoder), settings)
        spent = take_cost(counts)
        bills = {"encoder": encoder.bill}
        return conclude(settings, counts, verb="embed", fitting=asdict(Cost()), scoring=spent, models=bills)


def stored_units(path: str) -> list[str]:
    """The files of vectors that a folder of ``embed`` holds, or the path as it is."""
    inside = Path(user_path(path)) / DOCUMENTS
    return [str(inside)] if inside.is_dir() else [path]


def stored_flops(path: str) -> int:
    """What the vectors of a folder of ``embed`` took, the training of the model that was asked included; else 0."""
    summary = Path(user_path(path)) / SUMMARY
    return flops_of(read_json(summary, dict[str, Any]))["all"] if summary.exists() else 0
