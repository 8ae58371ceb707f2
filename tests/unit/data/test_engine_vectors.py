"""Vectors of documents: stored and read again they are the same; clusters of them make selections diverse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core.cost import Cost
from isoflop.core.errors import DataError, UsageError
from isoflop.data.engine.choosing import Selection
from isoflop.data.engine.inputs import Unit, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.scoring import score, select
from isoflop.data.engine.vectors import StoredVectors, embed, stored_units, unit_length
from isoflop.data.scorers.clusters import ClustersPart
from isoflop.data.scorers.length import LengthPart


class Letters:
    """Counts of letters, far from the origin, as the states of a language model are."""

    identity, name, bill = "letters", "letters", {"flops": 3}

    def __init__(self) -> None:
        self.cost = Cost()

    def vectors(self, texts: Sequence[str]) -> Any:
        self.cost = self.cost + Cost(flops=sum(map(len, texts)))
        return unit_length(np.array([[9.0, *(text.count(letter) for letter in "abcdef")] for text in texts]))


@pytest.fixture
def units(tmp_path: Path) -> list[Unit]:
    texts = [letter * 5 + other for letter in "abc" for other in ("", "d", "e", "f", "dd", "ee")]
    for number in range(2):
        rows = [{"id": f"{number}-{i}", "text": text} for i, text in enumerate(texts[9 * number : 9 * number + 9])]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return units_of([str(tmp_path / "?.jsonl")])


@pytest.mark.parametrize("format", ["jsonl.gz", "parquet"])
def test_stored_vectors_are_those_of_the_encoder(units: list[Unit], tmp_path: Path, format: str) -> None:
    found = embed(units, Letters(), JobSettings(tmp_path / "v", format=format))
    assert found["scoring"]["flops"] == found["counts"]["characters"]
    assert found["models"] == {"encoder": {"flops": 3}}
    stored = StoredVectors.read(units_of(stored_units(str(tmp_path / "v"))), units)
    texts = [json.loads(line)["text"] for unit in units for line in Path(unit.files[0]).read_text().splitlines()]
    np.testing.assert_allclose(stored.vectors(texts), Letters().vectors(texts), atol=1e-6)
    assert not stored.vectors(["  "]).any()
    with pytest.raises(DataError, match="no vector of the text"):
        stored.vectors(["unheard"])


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([{"id": "0-0", "vector": [1, 2]}], "has no stored vector"),
        ([{"id": 1}], "lacks 'id' or 'vector'"),
        ([{"id": 1, "vector": [1, "x"]}], "no list of finite numbers"),
        ([{"id": 1, "vector": [1, float("inf")]}], "no list of finite numbers"),
        ([{"id": 1, "vector": [1, 2]}, {"id": 2, "vector": [1]}], "has 1 numbers, and those before it 2"),
        ([{"id": 1, "vector": [1, 2]}, {"id": "1", "vector": [2, 1]}], "has two vectors"),
        ([[1]], "holds a list"),
    ],
)
def test_vectors_that_do_not_fit_are_errors(lines: list[Any], what: str, units: list[Unit], tmp_path: Path) -> None:
    (tmp_path / "vectors.ndjson").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=what):
        StoredVectors.read(units_of([str(tmp_path / "vectors.ndjson")]), units)


def test_a_line_that_is_nested_too_deeply_is_no_json(units: list[Unit], tmp_path: Path) -> None:
    (tmp_path / "vectors.ndjson").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is not JSON"):
        StoredVectors.read(units_of([str(tmp_path / "vectors.ndjson")]), units)


def test_clusters_of_vectors_make_a_selection_diverse(units: list[Unit], tmp_path: Path) -> None:
    """What all share is taken off first, the clusters are the planted ones, and none fills more than its share."""
    part = ClustersPart(clusters=3, keep=0.5)
    pool = [json.loads(line)["text"] for unit in units for line in Path(unit.files[0]).read_text().splitlines()]
    found_vectors = part.build({"pool": pool}, {"encoder": Letters()}).encoder.vectors(pool)
    assert np.abs(found_vectors.mean(0)).max() < 0.2 < 0.8 < np.abs(Letters().vectors(pool).mean(0)).max()
    found = score(units, part, JobSettings(tmp_path / "c"), {}, {"encoder": Letters()})
    assert found["scoring"]["flops"] > 0
    score(units, LengthPart(), JobSettings(tmp_path / "l"), {}, {})
    settings = JobSettings(tmp_path / "d", format="jsonl")
    select(units, tmp_path / "l", Selection(documents=6, most=1 / 3), settings, groups=tmp_path / "c")
    parts = sorted((tmp_path / "d" / "documents").iterdir())
    lines = [line for path in parts for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["text"][0] for line in lines) == ["a", "a", "b", "b", "c", "c"]
    with pytest.raises(UsageError, match="these scores know none"):
        select(units, tmp_path / "l", Selection(documents=6, most=0.5), JobSettings(tmp_path / "e"))
