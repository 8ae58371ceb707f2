"""Scores are stored once and used again; choices keep what they say they keep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from isoflop.core.errors import DataError, UsageError
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.data.engine.allocation import Clusters, shares, waterfill
from isoflop.data.engine.inputs import Keys, Unit, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.scoring import Selection, flops_of, sample_of, score, select
from isoflop.data.scorers.length import Length, LengthPart
from isoflop.data.tokenizers.bytes import BytesPart

DRAW = np.random.default_rng(3)
VALUES, SIZES = DRAW.normal(size=500), DRAW.integers(1, 50, 500)


@pytest.fixture
def units(tmp_path: Path) -> list[Unit]:
    for number in range(3):
        lines = [json.dumps({"text": "x" * (1 + (7 * i + number) % 20), "domain": "ab"[i % 2]}) for i in range(30)]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    return units_of([str(tmp_path / "*.jsonl")])


def texts_in(folder: Path) -> list[str]:
    lines = [line for path in sorted((folder / "documents").iterdir()) for line in path.read_text().splitlines()]
    return [json.loads(line)["text"] for line in lines]


def test_every_scorer_may_read_a_sample_of_the_pool(units: list[Unit], tmp_path: Path) -> None:
    """Whatever it is called and however little else it wants."""
    seen: list[int] = []

    class OfThePoolPart(LengthPart):
        name: ClassVar[str] = "of_the_pool"

        def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> Length:
            seen.extend(len(list(texts["pool"])) for _ in range(2))
            return Length()

    score(units, OfThePoolPart(), JobSettings(tmp_path / "s"), {}, {}, sample=50)
    assert seen == [50, 50]


def test_a_selection_by_stored_scores(units: list[Unit], tmp_path: Path) -> None:
    score(units, get("scorer", "length")(), JobSettings(tmp_path / "s"), {}, {})  # type: ignore[arg-type]
    settings = JobSettings(tmp_path / "d", format="jsonl")
    found = select(units, tmp_path / "s", Selection(documents=9), settings)
    kept = texts_in(tmp_path / "d")
    assert sorted(map(len, kept)) == sorted(len(t) for t in kept if len(t) >= 18)
    assert found["counts"]["kept"] == len(kept) == 9
    assert flops_of(found["bill"])["all"] == 0
    found = select(units, tmp_path / "s", Selection(bytes=600, repeats=3), JobSettings(tmp_path / "r", format="jsonl"))
    assert 180 <= found["counts"]["kept_bytes"] <= 200
    half = select(
        units, tmp_path / "s", Selection(ratio=4, key="domain", most=0.5), JobSettings(tmp_path / "h", format="jsonl")
    )
    assert half["counts"]["kept_bytes"] <= half["pool_bytes"] / 4


def test_scores_of_other_files_are_refused(units: list[Unit], tmp_path: Path) -> None:
    score(units, get("scorer", "random")(), JobSettings(tmp_path / "s"), {}, {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="other files"):
        select(units[:2], tmp_path / "s", Selection(ratio=2), JobSettings(tmp_path / "d"))
    with pytest.raises(UsageError, match="no finished scores"):
        select(units, tmp_path, Selection(ratio=2), JobSettings(tmp_path / "d"))
    with pytest.raises(DataError, match="are to be kept"):
        select(units, tmp_path / "s", Selection(documents=1000), JobSettings(tmp_path / "e"))
    for wrong in ({}, {"bytes": 3, "ratio": 2.0}, {"ratio": 0.5}):
        with pytest.raises(UsageError):
            Selection(**wrong)  # type: ignore[arg-type]


def test_texts_are_asked_for(units: list[Unit], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--text target=FILE"):
        score(units, get("scorer", "dsir")(), JobSettings(tmp_path / "s"), {}, {})  # type: ignore[arg-type]


def test_documents_that_a_scorer_was_fitted_to_are_counted_in_the_pool(units: list[Unit], tmp_path: Path) -> None:
    part = get("scorer", "dsir")(buckets=64)
    found = score(units, part, JobSettings(tmp_path / "s"), {"target": units[:1]}, {})  # type: ignore[arg-type]
    texts = {json.loads(line)["text"] for line in Path(units[0].files[0]).read_text().splitlines()}
    every = [json.loads(line)["text"] for unit in units for line in Path(unit.files[0]).read_text().splitlines()]
    assert found["counts"]["also_fitted_to"] == sum(text in texts for text in every) >= 30


def test_the_sample_does_not_depend_on_the_order_of_files(units: list[Unit]) -> None:
    assert sample_of(units, Keys(), 10) == sample_of(units[::-1], Keys(), 10)
    assert len(sample_of(units, Keys(), 1000)) == 90


@pytest.mark.parametrize("lowest", [False, True])
def test_the_best_are_kept_within_the_budget(lowest: bool) -> None:
    kept = Selection(documents=100, lowest=lowest).choose(VALUES, SIZES)
    order = np.argsort(VALUES if lowest else -VALUES)
    assert set(np.flatnonzero(kept)) == set(order[:100])
    kept = Selection(ratio=5, lowest=lowest).choose(VALUES, SIZES)
    assert SIZES.sum() / 5 - 50 < SIZES[kept].sum() <= SIZES.sum() / 5


def test_batches_keep_their_share_each() -> None:
    choice = Selection(documents=50, rule="batched", batch=100)
    kept = choice.choose(VALUES, SIZES)
    assert kept.sum() == 50
    drawn = Rng(0)("select")("order").at().permutation(500)
    for number in range(5):
        mine = drawn[100 * number : 100 * number + 100]
        assert kept[mine].sum() == 10
        assert VALUES[mine][kept[mine]].min() > np.delete(VALUES[mine], np.flatnonzero(kept[mine])).max()


def test_gumbel_noise_draws_in_proportion() -> None:
    logs = np.log(np.array([1.0, 3.0] * 5000))
    kept = Selection(documents=1000, gumbel=1.0).choose(logs, np.ones(10_000, np.int64))
    assert kept[1::2].sum() / 1000 == pytest.approx(0.75, abs=0.04)


def test_no_value_of_a_key_fills_more_than_its_share() -> None:
    groups = ["a" if value > 0 else "b" for value in VALUES]
    kept = Selection(documents=100, key="g", most=0.6).choose(VALUES, SIZES, groups)
    assert sum(groups[i] == "a" for i in np.flatnonzero(kept)) == 60
    assert kept.sum() == 100


def test_water_is_filled_to_the_reference(shared: Path) -> None:
    for case in json.loads((shared / "data" / "data" / "ref" / "concept_cluster_qp.json").read_text()):
        size = np.array(case["sizes"], np.float64)
        share = shares(np.array(case["d_inter"]), np.array(case["d_intra"]), case["tau"])
        np.testing.assert_allclose(share, case["probs"], rtol=1e-9)
        ratio, total, k = case["cls_bal_ratio"], case["target"], len(size)
        low = np.minimum(total / k * ratio, size - 1) if ratio else np.minimum(1.0, size)
        np.testing.assert_allclose(waterfill(share * total, total, low, size), case["x"], rtol=0, atol=1e-9)


def test_water_is_the_nearest_point() -> None:
    """No move of a little from one to another brings it nearer to what was wanted."""
    for _ in range(200):
        n = int(DRAW.integers(1, 8))
        low = DRAW.random(n)
        high = low + DRAW.random(n) * 3
        wanted, total = DRAW.normal(1, 2, n), float(DRAW.uniform(low.sum(), high.sum()))
        x = waterfill(wanted, total, low, high)
        assert x.sum() == pytest.approx(total, abs=1e-9)
        assert (x >= low - 1e-12).all()
        assert (x <= high + 1e-12).all()
        pull = wanted - x
        for i in range(n):
            for j in range(n):
                if x[i] < high[i] - 1e-9 and x[j] > low[j] + 1e-9:
                    assert pull[i] <= pull[j] + 1e-9
    with pytest.raises(DataError):
        waterfill(np.ones(2), 5.0, np.zeros(2), np.ones(2))


def test_clusters_find_planted_directions() -> None:
    centres = np.linalg.qr(DRAW.normal(size=(8, 8)))[0][:4]
    vectors = np.repeat(centres, 25, axis=0) + 0.1 * DRAW.normal(size=(100, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = Clusters.fit(vectors, 4, Rng(1))
    assert sorted(np.bincount(found.labels(vectors)).tolist()) == [25] * 4
    assert (found.distances(vectors, found.labels(vectors)) < 0.2).all()
    assert (found.spread() > 0.7).all()


def test_a_budget_of_tokens_is_filled_by_tokens(units: list[Unit], tmp_path: Path) -> None:
    """Each document with its end; repeats divide it, and the diversity rule counts in it too."""
    score(units, get("scorer", "random")(), JobSettings(tmp_path / "s"), {}, {})  # type: ignore[arg-type]

    def chosen(name: str, workers: int = 1, **keep: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        settings = JobSettings(tmp_path / name, workers, format="jsonl")
        found = select(units, tmp_path / "s", Selection(**keep), settings, BytesPart())
        parts = sorted((tmp_path / name / "documents").iterdir())
        lines = [line for path in parts for line in path.read_text().splitlines()]
        return found, [json.loads(line) for line in lines]

    found, kept = chosen("once", tokens=300)
    tokens = sum(len(row["text"]) + 1 for row in kept)
    assert tokens == found["counts"]["kept_tokens"]
    assert 298 <= tokens <= 300
    assert found["pool_tokens"] == found["pool_bytes"] + 90
    found, _ = chosen("thrice", tokens=300, repeats=3)
    assert 98 <= found["counts"]["kept_tokens"] <= 100
    _, kept = chosen("apart", tokens=300, key="domain", most=0.25)
    shares = [sum(len(row["text"]) + 1 for row in kept if row["domain"] == name) for name in "ab"]
    assert max(shares) <= 75 < max(shares) + 21
    with pytest.raises(UsageError, match="--tokenizer"):
        select(units, tmp_path / "s", Selection(tokens=300), JobSettings(tmp_path / "none"))
    with pytest.raises(DataError, match=r"holds [0-9,]+ tokens"):
        chosen("all", tokens=10**6)
    for wrong in ({"tokens": 3, "bytes": 3}, {"tokens": 0}, {"documents": -1}):
        with pytest.raises(UsageError):
            Selection(**wrong)


def test_what_a_choice_is_does_not_change_where_no_tokens_are_asked_for() -> None:
    """Folders and runs are named after it."""
    assert "tokens" not in Selection(ratio=8).facts
    assert Selection(tokens=8).facts["tokens"] == 8
