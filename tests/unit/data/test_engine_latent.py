"""Latent semantic analysis: the directions of a dense decomposition, and a count of what finding them took."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError
from isoflop.core.rng import Rng
from isoflop.data.engine import latent
from isoflop.data.engine.features import hashed
from isoflop.data.engine.latent import LatentVectors, leading
from isoflop.data.scorers.clusters import ClustersPart
from isoflop.ledger.formulas import svd

TOPICS = ("sun sea sand boat wave shell", "wolf tree moss fern deer owl", "loop call list byte hash stack")


def pool(count: int = 60, words: int = 12, seed: int = 0) -> list[str]:
    """Texts of words of one topic each, in turn."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(TOPICS[number % 3].split(), k=words)) for number in range(count)]


def dense(texts: Sequence[str], dim: int, buckets: int) -> np.ndarray:
    """Vectors of a pool by the decomposition of the whole matrix, entry by entry as the module's docstring says."""
    counts = np.zeros((len(texts), buckets))
    found, bounds = hashed(texts, buckets)
    for number in range(len(texts)):
        for bucket in found[bounds[number] : bounds[number + 1]]:
            counts[number, bucket] += 1
    weights = np.log((counts.sum() + 1) / (counts.sum(0) + 1))
    rows = np.sqrt(counts) * weights
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    vectors = rows @ np.linalg.svd(rows, full_matrices=False)[2][:dim].T
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(40, 200), (200, 40), (7, 30), (20, 60), (21, 60)])
def test_directions_are_those_of_a_dense_decomposition(rows: int, columns: int) -> None:
    matrix = csr_array(random_array((rows, columns), density=0.2, rng=np.random.default_rng(1)))
    directions, largest, cost = leading(matrix, 6, Rng(0))
    _, values, wanted = np.linalg.svd(matrix.toarray(), full_matrices=False)
    np.testing.assert_allclose(largest, values[:6], rtol=1e-9)
    np.testing.assert_allclose(np.abs(wanted[:6] @ directions), np.eye(6), atol=1e-7)
    highest = np.abs(directions).argmax(axis=0)
    assert (directions[highest, np.arange(6)] > 0).all()
    again = leading(matrix, 6, Rng(0))
    np.testing.assert_array_equal(directions, again[0])
    assert cost == again[2]
    if rows <= 20:
        assert cost == svd(columns, rows, itemsize=8)
    else:
        assert cost.flops > 2 * matrix.nnz * 2 * 6


def test_vectors_are_those_of_a_dense_decomposition_and_charged() -> None:
    texts = pool()
    encoder = LatentVectors.fit(iter(texts), dim=5, buckets=512)
    wanted, spent = dense(texts, 5, 512), encoder.cost.flops
    found = encoder.vectors(texts)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-7)
    features = sum(len(set(hashed([text], 512)[0].tolist())) for text in texts)
    assert encoder.cost.flops - spent == 2 * 5 * features
    assert encoder.bill["flops"] == spent > 0
    alone = np.concatenate([encoder.vectors([text]) for text in [*texts, ""]])
    np.testing.assert_array_equal(alone[:-1], found)
    assert not alone[-1].any()
    same = LatentVectors.fit(texts, dim=5, buckets=512)
    np.testing.assert_array_equal(same.table, encoder.table)
    assert same.identity == encoder.identity
    assert LatentVectors.fit(texts[1:], dim=5, buckets=512).identity != encoder.identity


@pytest.mark.parametrize("texts", [["one two"], ["one two"] * 90, ["one", "two", ""] * 40, [*pool(20), " ", "!?"]])
def test_a_pool_of_few_directions_has_short_vectors(texts: list[str]) -> None:
    encoder = LatentVectors.fit(texts, dim=8, buckets=256)
    assert 1 <= encoder.table.shape[1] <= 8
    found = encoder.vectors(texts)
    length = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(length, [float(any(c.isalnum() for c in text)) for text in texts], atol=1e-9)


def test_a_pool_without_words_is_an_error() -> None:
    with pytest.raises(DataError, match="pool: holds no words"):
        LatentVectors.fit([" ", "!?"])


def test_of_a_large_pool_the_first_documents_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent, "ENTRIES", 3)
    read = list[str]()
    texts = (read.append(text) or text for text in ["word " * 300_000, "other " * 300_000, *pool()])  # type: ignore[func-returns-value]
    LatentVectors.fit(texts, dim=2, buckets=64)
    assert len(read) < 30


def test_clusters_of_few_directions_are_the_topics() -> None:
    texts = pool(90)
    scorer = ClustersPart(clusters=3, dim=3, buckets=1024, words="svd").build({"pool": texts}, {})
    labels = scorer.grouped([("", text) for text in texts])[1]
    assert len({tuple(labels[topic::3]) for topic in range(3)}) == 3
    assert all(len(set(labels[topic::3])) == 1 for topic in range(3))
    assert scorer.cost.flops > scorer.encoder.cost.flops > 0  # type: ignore[attr-defined]


def test_the_verb_writes_vectors_whose_making_is_on_the_bill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(pool(30))]
    Path("pool.jsonl").write_text("\n".join(lines))
    assert invoke(["data", "embed", "pool.jsonl", "--svd", "3", "--out", "v", "--workers", "1", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    spent = made["models"]["encoder"]["flops"] + made["scoring"]["flops"]
    table = '{name="clusters", clusters=3}'
    asked = [
        "data",
        "score",
        "pool.jsonl",
        "--scorer",
        table,
        "--vectors",
        "v",
        "--out",
        "s",
        "--workers",
        "1",
        "--json",
    ]
    assert invoke(asked) == 0
    assert json.loads(capsys.readouterr().out)["models"]["encoder"] == {"flops": spent, "stored": True}
    assert invoke(["data", "embed", "pool.jsonl", "--out", "w"]) == 2
    assert "takes one of --model and --svd" in capsys.readouterr().err
