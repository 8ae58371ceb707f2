"""Every well-posed trajectory of the authors' own codes, through our class and argument names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import isoflop.optim as ours

FOLDER = Path(os.environ.get("ISOFLOP_SHARED", Path(__file__).parents[3] / "shared")) / "data/optim/trajectories"
CASES: list[dict[str, Any]] = json.loads((FOLDER / "index.json").read_text()) if FOLDER.is_dir() else []
SENSITIVE = 1e-6
"""Cases that a relative change of 1e-10 moves further than this are reported, not gated."""

CLASSES = {
    "ademamix": "AdEMAMix",
    "adafactorw_rank1mean": "Adafactor",
    "adalayerw": "Adalayer",
    "dshampoo": "Shampoo",
    "gpa_adamw": "GPA",
    "lion": "Lion",
    "mars": "MARS",
    "muon_f64ns": "Muon",
    "sim_ademamix": "SimplifiedAdEMAMix",
    "soap": "SOAP",
    "sophiag": "SophiaG",
}
COMMENTS = {"cls", "desc", "note", "lr_schedule", "hessian_every"}


def arguments(case: dict[str, Any]) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
    """Class and arguments of a case: as recorded, lists as tuples, and what the record says only in words."""
    hyper = {k: tuple(v) if isinstance(v, list) else v for k, v in case["hyper"].items() if k not in COMMENTS}
    name = case["optimizer"]
    if name.startswith("torch_"):
        return getattr(torch.optim, case["hyper"]["cls"]), hyper
    if name == "schedulefree":
        cls = case["hyper"]["cls"]
        base, _, paper = cls.partition("ScheduleFree")
        return getattr(ours, f"ScheduleFree{base}"), hyper | ({"paper": True} if paper else {})
    if name == "muon_f64ns":
        hyper["ns_dtype"] = torch.float64
    if name == "soap" and "normalize_grads" in hyper:
        hyper["variant"] = ours.SOAPVariant(normalize_grads=hyper.pop("normalize_grads"))
    if name == "dshampoo":
        description = case["hyper"]["desc"]
        hyper["root"] = 2 if "override" in description else 4
        if "grafting beta2" in description:
            hyper |= {"grafting": "adam", "grafting_eps": 1e-8}
    return getattr(ours, CLASSES[name]), hyper


def gradients_of(problem: Any, params: dict[str, Tensor]) -> Callable[[int], None]:
    """A function that fills the gradients of step t (from 0)."""
    if "X" not in problem:
        recorded = {name: torch.from_numpy(problem[f"g/{name}"]) for name in params}

        def replay(t: int) -> None:
            for name, p in params.items():
                p.grad = recorded[name][t].to(p.dtype)

        return replay

    def differentiate(t: int) -> None:
        dtype = next(iter(params.values())).dtype
        fixed = {k[3:]: torch.from_numpy(problem[k]).to(dtype) for k in problem if k.startswith("p0/")}
        w0, b0, w1, b1 = ({**fixed, **params}[name] for name in ("w0", "b0", "w1", "b1"))
        x, y = (torch.from_numpy(problem[k]).to(dtype) for k in ("X", "Y"))
        for p in params.values():
            p.grad = None
        ((torch.tanh(x @ w0.T + b0) @ w1.T + b1 - y) ** 2).mean().backward()

    return differentiate


def run(case: dict[str, Any], dtype: torch.dtype) -> Iterator[tuple[int, str, Tensor]]:
    """Replay a case; (step, array name, our value) after every step."""
    problem = np.load(FOLDER / case["problem"])
    recorded = np.load(FOLDER / case["file"])
    names = [key[2:] for key in recorded if key.startswith("p/")]
    params = {n: torch.nn.Parameter(torch.from_numpy(problem[f"p0/{n}"]).to(dtype)) for n in names}
    cls, hyper = arguments(case)
    optimizer = cls(list(params.items()), **hyper)
    fill = gradients_of(problem, params)
    every = case["hyper"].get("hessian_every", 0)
    for t in range(len(recorded[f"p/{names[0]}"]) - 1):
        fill(t)
        if "lr" in recorded:
            for group in optimizer.param_groups:
                group["lr"] = float(recorded["lr"][t])
        optimizer.step()
        if every and (t + 1) % every == 0:
            for name, p in params.items():
                p.grad = torch.from_numpy(problem[f"h/{name}"][t]).to(dtype)
            optimizer.update_hessian()  # type: ignore[attr-defined]
        for name, p in params.items():
            yield t, f"p/{name}", p.detach()
        if "x" in case["arrays"]:
            with optimizer.evaluation_weights():  # type: ignore[attr-defined]
                for name, p in params.items():
                    yield t, f"x/{name}", p.detach().clone()


def deviation(case: dict[str, Any], dtype: torch.dtype) -> float:
    """Largest deviation from the record, relative to the furthest that any parameter moved."""
    recorded = np.load(FOLDER / case["file"])
    paths = {key: recorded[key].astype(np.float64) for key in recorded if key[:2] in ("p/", "x/")}
    moved = max(float(np.abs(path - path[0]).max()) for key, path in paths.items() if key[:2] == "p/")
    worst = 0.0
    for t, key, value in run(case, dtype):
        expected = paths[key][t + 1 if key[:2] == "p/" else t]
        worst = max(worst, float(np.abs(value.double().numpy() - expected).max()))
    return worst / moved


def label(case: dict[str, Any]) -> str:
    return str(case["file"].removesuffix(".npz"))


def tolerance64(case: dict[str, Any]) -> float:
    if case["dtype"] == "float32":
        return 1e-2 if "bfloat16" in str(case["hyper"]) else 1e-4
    return max(1e-6, 100 * case["spread_grad_perturbed_1e-10"])


def tolerance32(case: dict[str, Any]) -> float:
    if case["dtype"] == "float32":
        return tolerance64(case)
    spread = case.get("spread_vs_float32_run", 0.0)
    return max(10 * spread, 1e-5) if spread else 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_trajectory(case: dict[str, Any], dtype: torch.dtype, shared: Path) -> None:
    if "warning" in case:
        pytest.skip("ill-posed: tested with the recorded basis instead")
    if case.get("spread_grad_perturbed_1e-10", 0) > SENSITIVE:
        pytest.skip(f"sensitive to rounding: deviation {deviation(case, dtype):.1e}")
    wide = dtype == torch.float64 and case["dtype"] == "float64"
    allowed = tolerance64(case) if wide else tolerance32(case)
    assert deviation(case, dtype if case["dtype"] == "float64" else torch.float32) <= allowed


@pytest.mark.parametrize("case", [case for case in CASES if "warning" in case], ids=label)
def test_trajectory_from_the_recorded_basis(case: dict[str, Any], shared: Path) -> None:
    """Where the first basis is arbitrary: take the recorded one, compare until the first refresh."""
    problem, recorded = np.load(FOLDER / case["problem"]), np.load(FOLDER / case["file"])
    names = [key[2:] for key in recorded if key.startswith("p/")]
    params = {n: torch.nn.Parameter(torch.from_numpy(problem[f"p0/{n}"]).double()) for n in names}
    cls, hyper = arguments(case)
    optimizer, fill = cls(list(params.items()), **hyper), gradients_of(problem, params)
    moved = max(float(np.abs(recorded[f"p/{n}"] - recorded[f"p/{n}"][0]).max()) for n in names)
    for t in range(hyper["precondition_frequency"]):
        fill(t)
        optimizer.step()
        for name, p in params.items():
            error = np.abs(p.detach().numpy() - recorded[f"p/{name}"][t + 1]).max()
            assert error < 1e-9 * moved, (t, name)
            for key in [key for key in optimizer.state[p] if key[0] == "Q" and t == 0]:
                optimizer.state[p][key] = torch.from_numpy(recorded[f"state_1/{name}/{key}"]).contiguous()
