"""CORE, EXTENDED and calibration beside recorded values of the programs that defined them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.evals.calibration import Binning, PlattScaling, calibration_error, marginal_error, top
from isoflop.evals.core_score import CHANGED, CORE, core_score


def read(shared: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((shared / "data" / "data" / "ref" / name).read_text())
    return found


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_record_of_dclm_is_reproduced(shared: Path, version: Any) -> None:
    """93 of CORE; of EXTENDED those that have all tasks, and the others are said to lack the same ones."""
    assert len(CORE) == 22
    assert len(CHANGED) == 12
    for record in read(shared, "dclm_evals.json"):
        core = core_score(record["icl"], version)
        assert core.value == pytest.approx(record[f"Core_{version}"], abs=3e-7)
        whole, known = core_score(record["icl"], version, extended=True), record[f"Extended_{version}"]
        if isinstance(known, float):
            assert whole.value == pytest.approx(known, abs=3e-7)
        else:
            assert whole.value is None
            assert all(f"'{task}'" in known for task in whole.missing)
        assert version in str(core)
        assert version in str(whole)


def test_calibration_is_that_of_the_library(shared: Path) -> None:
    for case in read(shared, "calibration.json"):
        p, y = np.array(case["probs"]), np.array(case["labels"])
        confidence, right = top(p, y)
        assert calibration_error(confidence, right) == pytest.approx(case["ece_15_equal_width_top"], abs=1e-12)
        mass = calibration_error(confidence, right, kind="mass")
        assert mass == pytest.approx(case["ece_em_15_equal_mass_top"], abs=1e-12)
        assert marginal_error(p, y) == pytest.approx(case["calibration_error_l2_debiased_marginal"], abs=1e-12)
        half = case["n"] // 2
        c, r, rest = confidence[:half], right[:half], confidence[half:]
        for name, calibrator, error in (
            ("Platt", PlattScaling.fit(c, r), 1e-4),  # the library stops its search a little earlier
            ("PlattBinner", Binning.scaled(c, r), 1e-4),
            ("Histogram", Binning.fit(c, r), 1e-6),
        ):
            known = case[f"{name}TopCalibrator_fit_first_half_apply_second"]
            np.testing.assert_allclose(calibrator(rest), known, rtol=0, atol=error)
