"""The pipelines in ``claims/``: each is legal, and what is stored is what its file and its rows say."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.core.reading import read_json
from isoflop.pipelines.judging import judge
from isoflop.pipelines.pipeline import Pipeline
from isoflop.store.pipelines import PIPELINE, PipelineResult

CLAIMS = Path(__file__).parents[3] / "claims"
STUDIES = sorted(CLAIMS.glob("*/study.toml"))
STORED = sorted(CLAIMS.glob(f"*/{PIPELINE}"))


def test_there_are_studies_with_and_without_results() -> None:
    assert len(STUDIES) >= 5
    assert STORED


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.parent.name)
def test_a_study_is_legal_and_has_bars(file: Path) -> None:
    pipeline = Pipeline.load(file)
    assert pipeline.name == file.parent.name
    assert pipeline.bars
    assert len(pipeline.seeds) >= 3


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.parent.name)
def test_a_stored_result_is_that_of_its_study(file: Path) -> None:
    result: PipelineResult = read_json(file, PipelineResult)
    pipeline = Pipeline.load(file.with_name("study.toml"))
    assert result.definition == pipeline.to_toml()
    assert result.verdicts == judge(pipeline.bars, result.rows, pipeline.metrics[0])
    assert result.environment["commit"]
    assert result.environment["dirty"] is False
    evaluated = [(row.stage, row.seed) for row in result.rows if row.role == "evaluation"]
    assert evaluated == [(stage, seed) for seed in pipeline.seeds for stage in pipeline.models]
