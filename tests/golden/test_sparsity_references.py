"""N:M masks, fading, schedules and soft thresholds beside what their authors' code made of the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compress_tables import tables
from isoflop.compress.parametrizations.nm import NMPart
from isoflop.compress.parametrizations.soft_threshold import soft_threshold
from isoflop.compress.sparsity import budget_masks, decay, decayed, group_mask, timetable


def test_masks_and_fading_are_the_authors(shared: Path) -> None:
    stored, seen = tables(shared, "nm_golden.npz"), set()
    for key, expected in stored.items():
        kind, case, *rest = key.split("__")
        weight = stored.get(f"in__{case}")
        if weight is None:
            continue
        seen.add(kind)
        if kind in ("mask_row", "mask_col"):
            n, m = map(int, rest[0].split("_"))
            found = group_mask(weight, n, m, "row" if kind == "mask_row" else "column")
            assert torch.equal(found, expected), key
        elif kind == "mask_unstructured":
            (found,) = budget_masks([weight], [1 - float(rest[0])])
            assert torch.equal(found, expected), key
        elif kind.startswith("mdgf"):
            n, m = map(int, rest[0].split("_"))
            rate, t = float(rest[1].removeprefix("c")), int(rest[2].removeprefix("t"))
            left = decay("linear" if kind == "mdgf_linear" else "exponential", rate, t)
            torch.testing.assert_close(decayed(weight, group_mask(weight, n, m), left), expected, rtol=1e-6, atol=1e-6)
        elif kind == "srste_fwd":
            n, m = map(int, rest[0].split("_"))
            live = NMPart(n=n, m=m, rule="sr_ste").build(*weight.shape, None)  # type: ignore[arg-type]
            point = weight.clone().requires_grad_()
            made = live.effective(point)
            assert torch.equal(made, expected), key
            made.backward(stored[f"grad_out__{case}"])
            own = live.own_gradient(weight)
            assert point.grad is not None
            assert own is not None
            gradient = stored[f"srste_grad__{case}__{n}_{m}__lam2e-4"]
            torch.testing.assert_close(point.grad + own, gradient, rtol=1e-6, atol=1e-6)
    assert {"mask_row", "mask_col", "mask_unstructured", "mdgf_linear", "mdgf_exp", "srste_fwd"} <= seen


def test_structures_change_when_the_authors_do(shared: Path) -> None:
    path = shared / "data/compress/nm_structure_schedules.json"
    if not path.exists():
        pytest.skip("no nm_structure_schedules.json below ISOFLOP_SHARED/data/compress")
    names = {"sparsify": "stepwise", "fine": "geometric", "densify": "densify"}
    for key, expected in json.loads(path.read_text()).items():
        kind, pattern, *lengths = key.replace("total", "").replace("dense", "").replace("ft", "").split("__")
        kind = key.split("__")[0]
        n, m = map(int, pattern.split(":"))
        total, dense, tune = (int(x) for x in lengths[0].split("_"))
        found = timetable(names[kind], n, m, total, dense, tune)  # type: ignore[arg-type]
        assert {str(start): f"{a}:{b}" for start, (a, b) in found.items()} == expected, key


def test_soft_thresholds_are_the_authors(shared: Path) -> None:
    stored = tables(shared, "misc_golden.npz")
    cases = [key.removesuffix("__w") for key in stored if key.startswith("str_") and key.endswith("__w")]
    assert cases
    for case in cases:
        w = stored[f"{case}__w"].clone().requires_grad_()
        s = torch.full((1, 1), float(case.split("_s")[1]), requires_grad=True)
        made = soft_threshold(w, s)
        torch.testing.assert_close(made, stored[f"{case}__out"], rtol=1e-6, atol=1e-6)
        made.backward(stored[f"{case}__grad_out"])
        torch.testing.assert_close(w.grad, stored[f"{case}__grad_w"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(s.grad, stored[f"{case}__grad_s"], rtol=1e-6, atol=1e-6)
