"""What `isoflop data` writes, other libraries load; what fastText writes, we load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.core.errors import DataError
from isoflop.data.engine.cleaning import clean, filter_of
from isoflop.data.engine.inputs import rows_of, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.rephrasing import Rephrasing, rephrase
from isoflop.data.engine.templates import TemplateRephraser
from isoflop.data.scorers.fasttext import FasttextPart

TEXT = "The boat of number {} lies by the river."
RECORDS = [{"id": f"d{i}", "text": TEXT.format(i), "n": i, "tags": ["a"]} for i in range(50)]


@pytest.fixture
def documents(tmp_path: Path) -> str:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)))
    return str(path)


@pytest.mark.parametrize(("format", "builder"), [("jsonl", "json"), ("jsonl.gz", "json"), ("parquet", "parquet")])
def test_datasets_loads_what_is_kept(documents: str, tmp_path: Path, format: str, builder: str) -> None:
    datasets = pytest.importorskip("datasets")
    settings = JobSettings(tmp_path / "out", format=format)
    clean(units_of([documents]), [filter_of("strip_urls")], settings)
    files, cache = str(tmp_path / "out" / "documents" / "*"), str(tmp_path / "cache")
    found = datasets.load_dataset(builder, data_files=files, split="train", cache_dir=cache)
    assert [dict(row) for row in found] == RECORDS
    found.save_to_disk(str(tmp_path / "saved"))
    again = [row for unit in units_of([str(tmp_path / "saved")]) for row in rows_of(unit)]
    assert [row.record for row in again] == RECORDS  # type: ignore[union-attr]


def test_datasets_loads_pairs(documents: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rephrase(units_of([documents]), TemplateRephraser(), Rephrasing(("qa",)), JobSettings(tmp_path / "out"))
    files, cache = str(tmp_path / "out" / "documents" / "*"), str(tmp_path / "cache")
    found = datasets.load_dataset("json", data_files=files, split="train", cache_dir=cache)
    assert sorted(found["kind"]) == ["real"] * 50 + ["rephrased"] * 50
    assert len(set(found["pair"])) == 50


def test_a_model_of_fasttext_scores(tmp_path: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    lines = [f"__label__{label} {text}" for label, text in (("hq", "red fox runs"), ("cc", "blue sea lies"))] * 100
    (tmp_path / "train.txt").write_text("\n".join(lines))
    settings = {"epoch": 20, "dim": 8, "wordNgrams": 2, "minCount": 1, "verbose": 0, "thread": 1}
    fasttext.train_supervised(str(tmp_path / "train.txt"), **settings).save_model(str(tmp_path / "m.bin"))
    live = FasttextPart(path=str(tmp_path / "m.bin")).build({}, {})
    scores = live.score([("a", "red fox\nruns"), ("b", "blue sea"), ("c", "")])
    assert scores[0] > 0.9 > 0.1 > scores[1]
    assert np.isfinite(scores).all()
    unsupervised = {"dim": 4, "minCount": 1, "verbose": 0, "thread": 1}
    fasttext.train_unsupervised(str(tmp_path / "train.txt"), **unsupervised).save_model(str(tmp_path / "v.bin"))
    with pytest.raises(DataError, match="no classifier"):
        FasttextPart(path=str(tmp_path / "v.bin")).build({}, {})
