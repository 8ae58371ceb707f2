"""GRACE's scores beside the authors' on the same gradients, and what they mean on a toy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.compress.grace import projected, score
from isoflop.core.errors import UsageError

NAMES = {"smooth_coeff": "smoothing", "n_splits": "splits", "test_fraction": "test_fraction"}


def test_scores_are_the_authors(shared: Path) -> None:
    path = shared / "data/compress/misc_golden_scalars.json"
    if not path.exists():
        pytest.skip("no misc_golden_scalars.json below ISOFLOP_SHARED/data/compress")
    stored, seen = np.load(path.with_name("misc_golden.npz")), 0
    for key, expected in json.loads(path.read_text()).items():
        if not key.startswith("grace_"):
            continue
        _, number, rest = key.replace("__", "_", 1).split("_", 2)
        responses, settings = rest.removeprefix("G").split("__")
        how: dict[str, float | int | bool] = {}
        for setting in filter(None, settings.split(",")):
            name, _, value = setting.partition("=")
            how[NAMES.get(name, name)] = json.loads(value.lower())
        found = score(stored[f"grace_grads_{number}"], int(responses), **how)  # type: ignore[arg-type]
        assert found == pytest.approx(expected, rel=1e-6), key
        seen += 1
    assert seen >= 10


def test_gradients_that_span_the_others_score_lower() -> None:
    draw = np.random.default_rng(0)
    shared_space = draw.standard_normal((200, 4)) @ draw.standard_normal((4, 16)) + 0.1 * draw.standard_normal(
        (200, 16)
    )
    spread = draw.standard_normal((200, 16))
    spread[:180, 8:] *= 0.05
    assert score(shared_space, 2, normalize_test=True) < 1.5 * 16
    low, high = (score(rows, 1, splits=3, normalize_test=True) for rows in (draw.standard_normal((400, 16)), spread))
    assert low < high
    whole = np.linalg.norm(projected(draw.standard_normal((20, 4000)), 512), axis=1) / np.sqrt(4000)
    assert abs(whole.mean() - 1) < 0.05


def test_what_is_no_whole_number_of_prompts_is_refused() -> None:
    for rows, responses, message in ((np.ones((5, 2)), 2, "whole number"), (np.ones((2, 2)), 2, "nothing to train on")):
        with pytest.raises(UsageError, match=message):
            score(rows, responses)
    with pytest.raises(UsageError, match="not finite"):
        score(np.full((8, 2), np.nan), 2)
