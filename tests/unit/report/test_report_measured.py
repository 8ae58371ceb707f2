"""What a script measured: which values belong together, their charts, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isoflop.core.files import write_json
from isoflop.report import measured, render
from isoflop.report.page import write_report
from isoflop.store.measured import MEASURED, Axes, MeasuredResult
from report_sample import make_run_directory

AXES = {"microseconds": {"across": "positions <decoded>", "up": "microseconds a token"}}


def made(values: dict[str, list[float]], **more: Any) -> MeasuredResult:
    given = {"name": "decode", "created": "2026-01-01T00:00:00+00:00", "environment": {}, "cpu_seconds": 2.0}
    return MeasuredResult.model_validate({**given, "script": "0" * 64, "values": values, **more})


def decoding(seeds: int = 3) -> dict[str, list[float]]:
    ways = {"lazy": 0.1, "eager": 0.05, "online": 0.001}
    return {
        f"microseconds_{way}_{at}": [5 + rate * at * (1 + seed / 10) for seed in range(seeds)]
        for way, rate in ways.items()
        for at in (64, 1024, 65536)
    }


def test_values_belong_together_where_several_ways_were_measured_at_several_numbers() -> None:
    alone = {"gap_22": [1.0], "gap_44": [1.0], "ratio": [2.0], "error_at_3": [0.1], "bits_a_1": [1.0], "bits_a_2": []}
    assert made(alone).families() == {}, "one way, one number or none"
    one_short = {"bits_a_1": [1.0], "bits_a_2": [1.0], "bits_b_1": [1.0]}
    assert made(one_short).families() == {}
    both = made({**one_short, "bits_b_2.5": [3.0, 4.0], "x_bits_c_1": [1.0], "gap_3": [1.0], "gap_4": [1.0]}).families()
    assert made({f"{way}_{at}": [1.0] for way in "ab" for at in (1, 2)}).families().keys() == {""}
    assert both == {"bits": {"a": {1.0: [1.0], 2.0: [1.0]}, "b": {1.0: [1.0], 2.5: [3.0, 4.0]}}}


def test_a_family_is_drawn_with_every_seed_on_logarithmic_axes() -> None:
    chart = measured.figures(measured.families(made(decoding(), axes=AXES)))["measured_microseconds"].to_dict()
    line, dots = chart["layer"]
    data = {layer["mark"]["type"]: chart["datasets"][layer["data"]["name"]] for layer in (line, dots)}
    assert (len(data["line"]), len(data["point"])) == (9, 27)
    assert {point["seed"] for point in data["point"]} == {1, 2, 3}
    assert line["encoding"]["x"]["scale"]["type"] == line["encoding"]["y"]["scale"]["type"] == "log"
    assert line["encoding"]["x"]["axis"]["title"] == "positions <decoded>"
    assert "online: 5.07 at 64, 77.09 at 65,536" in chart["description"]


def test_near_numbers_and_shares_of_nought_have_linear_axes() -> None:
    values = {f"accuracy_{way}_{at}": [0.0, 1.0] for way in ("cell", "transformer") for at in (64, 96, 128)}
    line = measured.figures(measured.families(made(values)))["measured_accuracy"].to_dict()["layer"][0]["encoding"]
    assert "type" not in line["x"]["scale"]
    assert "type" not in line["y"]["scale"]
    assert line["y"]["axis"]["title"] == "accuracy"


def test_the_table_tells_what_a_way_was_not_asked() -> None:
    family = {"nested": {22.0: [2.25], 44.0: [2.0]}, "apart": {22.0: [2.5, 2.75], 176.0: [1.5]}}
    sheet = measured.family_sheet(family, Axes(across="width", up="bits per byte"))
    assert sheet.columns == ("width", "nested", "apart")
    assert sheet.rows == [("22", "2.25", "2.625"), ("44", "2", "–"), ("176", "–", "1.5")]


@pytest.mark.parametrize("beside", ["run", "alone"])
def test_it_stands_on_the_page_of_a_run_or_on_one_of_its_own(tmp_path: Path, beside: str) -> None:
    place = make_run_directory(tmp_path) if beside == "run" else tmp_path
    write_json(place / MEASURED, made(decoding(), axes=AXES).model_dump(mode="json"))
    page = write_report(place).read_text(encoding="utf-8")
    assert "positions &lt;decoded&gt;" in page
    assert ("Training loss" in page) == (beside == "run")
    assert (place / "charts" / "measured_microseconds.svg").exists()


def test_without_a_family_the_page_has_the_table_alone() -> None:
    page = measured.page(made({"cosine": [0.9, 0.8]}), render.specifications({}))
    assert "cosine" in page
    assert "<figure>" not in page
