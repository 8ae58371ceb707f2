"""Pages and prints of what is neither a study, a run nor a fit: pipelines, and studies of batch sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.store.measured import TARGETS, MeasuredResult
from isoflop.store.pipelines import PIPELINE, BarVerdict, Chosen, PipelineResult, StageRow

MADE = "2026-01-01T00:00:00+00:00"


def pipeline() -> PipelineResult:
    spent = {"ledger": {}, "ancestors": {}, "flops": 600.0, "flops_with_ancestors": 900.0}
    rows = [
        StageRow(
            stage=stage,
            seed=seed,
            role="evaluation",
            made=f"two-{stage}-{seed}",
            identity="ab",
            values={"old": {"bits_per_byte": 2.0 + 0.1 * seed}},
            **spent,
        )
        for stage in ("base", "<tuned>")
        for seed in (1, 2, 3)
    ]
    figures = {"per_seed": [-0.12, -0.08, -0.1], "mean": -0.1, "low": -0.15, "high": -0.05, "most": 0.0, "p": 0.01}
    return PipelineResult(
        name="two",
        title="Two domains",
        created=MADE,
        texts=["old"],
        metrics=["bits_per_byte"],
        stages=["base", "<tuned>"],
        rows=rows,
        chosen=[
            Chosen(
                stage="<tuned>",
                tried=[{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}],
                scores=[2.25, None],
                chosen={"optimizer.lr": 0.1},
                edge=True,
            )
        ],
        verdicts=[BarVerdict(says="forgets less", **figures, verdict="met")],
        bill={"train": {"flops": 600.0}},
        notes=["small models"],
        definition='name = "two"',
        recipes={"base": "seed = 1"},
        environment={"cpu": "some"},
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a pipeline and a study of batch sizes, and runs that begin with the pipeline's name."""
    measured = MeasuredResult(
        name="sizes",
        created=MADE,
        values={"critical_batch": [8.0, 9.0, 10.0], "steps_4": [100.0, 110.0]},
        notes=["rates: 4 0.01"],
        script="0" * 64,
        environment={},
        cpu_seconds=61.0,
    )
    for name, file, result in (("two", PIPELINE, pipeline()), ("sizes", TARGETS, measured)):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(result.model_dump_json())
    for run in ("two-base-0123456789ab", "two-tuned-0123456789ab"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "resolved.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("name", ["two", "sizes"])
def test_a_name_means_its_result_before_runs_that_begin_with_it(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["report", name, "--root", str(root)]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == root / name / "report.html"
    assert invoke(["report", str(root / name), "--root", str(root / "elsewhere")]) == 0


def test_the_page_of_a_pipeline_tells_all_of_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["report", "two", "--root", str(root)]) == 0
    html = (root / "two" / "report.html").read_text()
    for told in (
        "Of 1 bars: 1 met, 0 missed, 0 open.",
        "forgets less",
        "2.2000 ± 0.100",
        "lr 0.1",
        "2.2500",
        "at its grid&#x27;s end",
        "small models",
        "isoflop pipeline pipeline.toml",
    ):
        assert told in html
    assert "<tuned>" not in html.partition("</style>")[2].partition("<script")[0]


def test_the_page_of_batch_sizes_tells_all_values(root: Path) -> None:
    assert invoke(["report", "sizes", "--root", str(root)]) == 0
    html = (root / "sizes" / "report.html").read_text()
    for told in ("2 measured values", "critical_batch", "rates: 4 0.01"):
        assert told in html


def test_show_prints_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["runs", "show", "two", "--root", str(root)]) == 0
    assert "forgets less" in capsys.readouterr().out
    assert invoke(["runs", "show", "sizes", "--root", str(root)]) == 0
    assert "critical_batch: 8, 9, 10" in capsys.readouterr().out
    assert invoke(["runs", "show", "two", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "two"


def test_a_damaged_result_is_told_with_its_place(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "two" / PIPELINE).write_text('{"name": 1}')
    assert invoke(["report", "two", "--root", str(root)]) == 3
    assert str(root / "two" / PIPELINE) in capsys.readouterr().err
