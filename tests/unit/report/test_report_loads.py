"""The load of experts on a run's page."""

from __future__ import annotations

from typing import Any

from isoflop.report import loads, render
from isoflop.report.footprints import Told, weights_told
from isoflop.report.page import run_page
from isoflop.report.runs import RunRecord
from report_sample import make_run_directory


def facts(*shares: float) -> dict[str, float]:
    return {f"expert {number}": share for number, share in enumerate(shares)}


TOLD: Told = [
    (100, {"blocks.0.feed_forward": facts(0.7, 0.1, 0.1, 0.1), "blocks.10.feed_forward": facts(0.25, 0.75)}),
    (200, {"blocks.0.feed_forward": facts(0.4, 0.3, 0.3, 0.0), "blocks.10.feed_forward": facts(0.5, 0.5)}),
]


def values(spec: dict[str, Any], layer: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["datasets"][spec["layer"][layer]["data"]["name"]]
    return found


def test_every_expert_is_drawn_and_the_busiest_over_steps() -> None:
    charts = {name: chart.to_dict() for name, chart in loads.figures(TOLD).items()}
    even, experts = values(charts["load"], 0), values(charts["load"], 1)
    assert [point["share"] for point in even] == [0.25, 0.5]
    assert [(point["layer"], point["share"]) for point in experts] == [
        *(("0", share) for share in (0.4, 0.3, 0.3, 0.0)),
        *(("10", share) for share in (0.5, 0.5)),
    ]
    busiest = values(charts["busiest"], 1)
    assert [(p["step"], p["layer"], round(p["times"], 6)) for p in busiest] == [
        (100, "layer 0", 2.8), (100, "layer 10", 1.5), (200, "layer 0", 1.6), (200, "layer 10", 1.0),
    ]  # fmt: skip
    assert "at the end layer 0 1.60, layer 10 1.00" in charts["busiest"]["description"]
    assert "layer 0 from 0.0% to 40.0%, even 25.0%" in charts["load"]["description"]


def test_the_table_says_the_same_in_figures() -> None:
    assert loads.load_sheet(TOLD).rows == [
        ("0", "4", "25.0%", "40.0% (expert 0)", "0.0%", "1"),
        ("10", "2", "50.0%", "50.0% (expert 0)", "50.0%", "0"),
    ]


def test_it_stands_on_the_page_where_layers_told_it_and_nowhere_else(tmp_path: Any) -> None:
    record = RunRecord.read(make_run_directory(tmp_path))
    plain = run_page(record, render.specifications(record.figures()))
    assert "Load of the experts" not in plain
    record.told[:] = TOLD
    assert {"load", "busiest"} <= set(record.figures())
    assert "Load of the experts" in run_page(record, render.specifications(record.figures()))


def test_what_weights_tell_and_what_experts_tell_do_not_disturb_each_other() -> None:
    mixed: Told = [(1, {"blocks.0.feed_forward": {"density": 0.5, **facts(0.5, 0.5), "expert x": 1.0}})]
    assert set(weights_told(mixed)) == {"density"}
    assert len(loads.load_sheet(mixed).rows) == 1
    assert loads.figures([(1, {"blocks.0.mixer.q": {"density": 0.5}})]) == {}
    assert loads.figures([]) == {}
