"""A study under way: its page and its tables say what the store says; the page over everything lists and searches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, UsageError
from isoflop.core.files import write_json
from isoflop.report.index_page import index_page, write_index
from isoflop.report.live import LiveStudy, live_page
from isoflop.store.progress import PROGRESS, AskedRun, ProgressBoard
from isoflop.store.run import Run, run_directories
from report_sample import make_run, make_study
from toy import recipe

pytestmark = pytest.mark.usefixtures("toys")
FACTS: dict[str, Any] = {
    "name": "duel",
    "title": "A duel <b>",
    "baseline": "adamw",
    "arms": ["muon"],
    "rung_axis": "steps",
    "rungs": [200.0, 400.0],
    "unit": "bits per byte",
    "higher_is_better": False,
    "definition": "",
    "workers": 2,
}


def made(root: Path, seed: int, state: str, evaluations: int) -> Run:
    """A run of four evaluations at most, in some state."""
    run = Run.open(root, recipe(f"seed={seed}"))
    for point in make_run("adamw", 0, seed).curve[:evaluations]:
        run.record("evaluation", **point.model_dump())
    if state == "done":
        run.write_result({"status": "done", "value": 2.5, "flops": 10, "seconds": 1.0})
    run.set_status(state, step=50 * evaluations, horizon=200)  # type: ignore[arg-type]
    return run


def ask(root: Path, asked: list[AskedRun], error: BaseException) -> None:
    """What a study does that an error ends."""
    with ProgressBoard(root, **FACTS) as board:
        board.ask(asked, ahead=200.0)
        raise error


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs asked for: one done, one stopped half-way, one not begun."""
    hashes = [made(tmp_path, 1, "done", 4).hash, made(tmp_path, 2, "stopped", 2).hash, recipe("seed=3").hash]
    hyper = {"optimizer.lr": 0.01}
    asked = [
        AskedRun(arm="adamw", rung=0, seed=seed, role="evaluation", hyper=hyper, recipe_hash=key, flops=100)
        for seed, key in enumerate(hashes, 1)
    ]
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, asked, KeyboardInterrupt())
    return tmp_path


def test_a_study_under_way_is_read_from_its_runs(root: Path) -> None:
    live = LiveStudy.read(root, root / "duel")
    assert [(run.state, run.step, run.share) for run in live.runs] == [
        ("done", 200, 1.0),
        ("stopped", 100, 0.5),
        ("waiting", 0, 0.0),
    ]
    assert live.headline().startswith("1 of 3 runs are done; about ")
    by_arm, under_way = live.sheets()
    assert by_arm.rows[0][:4] == ("adamw", "evaluation", "200 steps", "1 done, 1 stopped, 1 waiting")
    assert [row[2:5] for row in under_way.rows] == [("seed 2, lr 0.01", "stopped", "100 of 200")]
    html = live_page(live)
    assert "A duel &lt;b&gt;" in html
    assert 'data-chart="learning"' in html  # of what is not done yet, too
    assert 'data-refresh="5"' in html
    facts = live.facts()
    assert [run["state"] for run in facts["runs"]] == ["done", "stopped", "waiting"]


def test_what_stopped_says_so_and_its_page_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.store.progress.process_lives", lambda pid: False)
    live = LiveStudy.read(root, root / "duel")
    assert live.headline() == "Stopped: 1 of 3 runs are done. The same command goes on from here."
    assert "data-refresh=" not in live_page(live).partition("<script>")[0]


def test_nothing_is_left_of_a_study_that_ended_or_was_refused(tmp_path: Path) -> None:
    with ProgressBoard(tmp_path, **FACTS) as board:
        board.ask([], ahead=0.0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError):
        ask(tmp_path, [], UsageError("an unknown part"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError):
        LiveStudy.read(tmp_path, tmp_path / "duel")


def test_watch_follows_it_from_another_terminal(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["watch", "duel", "--root", str(root), "--once", "--page"]) == 0
    assert "1 of 3 runs are done" in capsys.readouterr().out
    assert (root / "duel" / "live.html").exists()
    assert invoke(["watch", "duel", "--root", str(root), "--json"]) == 0
    assert '"state": "waiting"' in capsys.readouterr().out
    assert invoke(["watch", "nothing", "--root", str(root)]) != 0
    (root / "duel" / PROGRESS).unlink()
    make_study(name="duel").write(root / "duel" / "study.json")
    assert invoke(["watch", "duel", "--root", str(root)]) == 2
    assert "isoflop report duel" in capsys.readouterr().err


def test_watch_tells_programs_where_a_run_stands(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(run for run in map(Run.read, run_directories(root)) if run.state == "stopped")
    assert invoke(["watch", str(run.path), "--root", str(root), "--json"]) == 0
    facts = {"state": "stopped", "step": 100, "horizon": 200, "value": run.metrics("evaluation")[-1]["value"]}
    assert json.loads(capsys.readouterr().out) == {"run": str(run.path), **facts}


def entries(html: str) -> Iterator[str]:
    return iter(re.findall(r"<tr>(.*?)</tr>", html.partition("<main")[2], re.DOTALL))


def test_everything_stands_on_one_page_that_leads_to_the_others(root: Path) -> None:
    make_study(title="<script>").write(root / "demo #1" / "study.json")
    (root / "demo #1" / "report.html").write_text("")
    write_json(root / "broken" / "study.json", {})
    claims = [{"name": "lion", "verdict": "contradicted", "statement": "Lion saves.", "published": "5x"}]
    assert invoke(["report", "--all", "--root", str(root)]) == 0
    html = index_page(root, claims)
    assert write_index(root, claims).read_text() == html
    for heading in ("Studies", "Studies under way", "Claims", "Runs"):
        assert f">{heading}</h2>" in html
    assert '<a href="demo%20%231/report.html">demo #1</a>' in html
    assert "<script>" not in html.partition("<main")[2].partition("</main>")[0]
    assert "muon 2.81x, lion &lt; 1.00x" in html
    assert any("contradicted" in entry for entry in entries(html))
    assert sum("first-" in entry for entry in entries(html)) == 2
    assert 'type="search"' in html
    assert "nan" not in html.partition("<main")[2].partition("</main>")[0]


def test_a_page_is_one_or_of_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in ([], ["demo", "--all"]):
        assert invoke(["report", *arguments, "--root", str(tmp_path)]) == 2
        assert "--all for a page over everything" in capsys.readouterr().err
