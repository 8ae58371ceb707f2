"""A study shows itself in a notebook: what it will run, and its verdict once it has; its plan shows itself, too."""

from __future__ import annotations

import pytest

from isoflop.lab.compare import compare, planned_flops
from isoflop.lab.plan import priced
from isoflop.lab.preflight import Speed


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOFLOP_ROOT", str(tmp_path))
    return tmp_path


def test_a_study_shows_what_it_will_run_and_its_verdict_once_it_has(tiny, planted, root):
    before = tiny._repr_html_()
    plan = priced(tiny, {arm: Speed(1e9, 0.1) for arm in tiny.everyone}, workers=1)
    assert before.count("<tr>") == 1 + len(plan.batches)
    assert f"not run below {root} yet: {plan.runs} runs, {planned_flops(tiny):.3e} FLOPs" in before
    result = compare(tiny, root, executor=planted({"muon": 3.0}), corpus={})
    assert tiny._repr_html_() == result._repr_html_() != before
    assert "not run below" in tiny.with_("seeds=[4, 5, 6]")._repr_html_(), "an edited study is another one"


def test_a_broken_result_is_none_and_titles_are_text(tiny, root):
    (root / "tiny").mkdir()
    (root / "tiny" / "study.json").write_text("{", encoding="utf-8")
    page = tiny.with_('title="<script>"')._repr_html_()
    assert "not run below" in page
    assert "&lt;script&gt;" in page


def test_a_plan_shows_its_text(tiny):
    plan = priced(tiny, {arm: Speed(1e9, 0.1) for arm in tiny.everyone}, workers=1)
    assert plan._repr_html_().startswith("<pre>phase")
    assert "chance of 80%" in plan._repr_html_()
