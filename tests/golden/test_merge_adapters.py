"""Adapters beside PEFT 0.21.2 and LoRA Soups' CAT; each kind has a sibling that needs no outside file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from isoflop.merge import task_arithmetic, ties_peft
from isoflop.merge.lora import Adapter, cat_weights, concatenated, merged_factors, merged_updates
from isoflop.merge.lora_files import read_adapter, write_adapter
from isoflop.merge.lora_merge import fold


@pytest.fixture
def data(shared: Path) -> Path:
    path = shared / "data" / "posttrain"
    if not (path / "peft").is_dir():
        pytest.skip("reference adapters not found below ISOFLOP_SHARED/data/posttrain")
    return path


def updates(adapter: Adapter) -> dict[str, Tensor]:
    return {name: factor.update() for name, factor in adapter.modules.items()}


def assert_same(ours: Adapter, theirs: Adapter, atol: float) -> None:
    mine, other = updates(ours), updates(theirs)
    for name in set(mine) | set(other):
        one, two = (u.get(name, torch.zeros(1, dtype=torch.float64)) for u in (mine, other))
        torch.testing.assert_close(*torch.broadcast_tensors(one, two), atol=atol, rtol=0, msg=name)


def pruned(tensors: Any, weights: Any, density: float) -> Tensor:
    """PEFT's magnitude_prune: what ties_peft keeps of each alone, added."""
    kept = [ties_peft(torch.zeros_like(t), [t], density=density) for t in tensors]
    return task_arithmetic(torch.zeros_like(tensors[0]), kept, weight=weights)


def combination(arguments: dict[str, Any], kind: str) -> Any:
    density, election = arguments.get("density", 1.0), arguments.get("majority_sign_method", "total")
    if kind == "ties":
        return lambda t, w: ties_peft(torch.zeros_like(t[0]), t, weight=w, density=density, election=election)
    if kind == "magnitude_prune":
        return lambda t, w: pruned(t, w, density)
    return lambda t, w: task_arithmetic(torch.zeros_like(t[0]), t, weight=w)


def test_every_weighted_adapter_of_peft_is_met(data: Path) -> None:
    root, met = data / "peft/peft_llama_a", 0
    for name, arguments in json.loads((root / "recipes.json").read_text()).items():
        adapters = [read_adapter(root / f"adapter_{number}") for number in arguments["idx"]]
        theirs = read_adapter(root / "weighted" / name)
        kind, weights = arguments["combination_type"], arguments["weights"]
        if kind.startswith("dare"):
            continue  # random masks: below
        if kind == "cat":
            ours = concatenated(adapters, weights)
        elif kind == "svd" or kind.endswith("_svd"):
            rank = arguments.get("svd_rank", max(f.rank for a in adapters for f in a.modules.values()))
            ours, _ = merged_updates(adapters, weights, combination(arguments, kind.removesuffix("_svd")), rank)
        else:
            ours = merged_factors(adapters, weights, combination(arguments, kind))
        assert_same(ours, theirs, 1e-6)
        met += 1
    assert met == 11


def test_dare_factors_of_peft_are_zero_or_divided_by_the_density_as_ours(data: Path) -> None:
    root = data / "peft/peft_llama_a"
    theirs = read_adapter(root / "weighted/dare_linear_seed0")
    adapters = [read_adapter(root / f"adapter_{number}") for number in (0, 2)]
    for name, factor in theirs.modules.items():
        one, two = (a.modules[name] for a in adapters)
        halves = [2 * f.scale**0.5 * f.b for f in (one, two)]  # density 0.5
        possible = torch.stack([torch.zeros_like(halves[0]), halves[0], halves[1], halves[0] + halves[1]])
        assert float((possible - factor.b).abs().amin(0).max()) < 1e-6


def test_adapters_merge_into_the_base_as_merge_and_unload_does(data: Path, tmp_path: Path) -> None:
    root = data / "peft/peft_llama_a"
    for number in (0, 3):
        fold(data / "merge/llama_a/base", root / f"adapter_{number}", tmp_path / str(number))
        made = load_file(tmp_path / str(number) / "model.safetensors")
        for name, reference in load_file(root / f"merged_adapter_{number}/model.safetensors").items():
            torch.testing.assert_close(made[name], reference, atol=1e-6, rtol=0, msg=name)


def test_cat_is_an_ordinary_adapter_of_summed_rank(data: Path, tmp_path: Path) -> None:
    for number in range(3):
        case = json.loads((data / f"cat/peft_llama_a_case{number}.json").read_text())
        adapters = [read_adapter(data / path) for path in case["adapters"]]
        raw = {name: entry["raw"] for name, entry in case["modules"].items()}
        weights = cat_weights(raw, softmax=case["mode"] == "softmax")
        for name, entry in case["modules"].items():
            assert weights[name] == pytest.approx(entry["weight"], abs=1e-7)
        write_adapter(concatenated(adapters, weights), tmp_path / str(number))
        found = updates(read_adapter(tmp_path / str(number)))
        for name, reference in load_file(data / f"cat/peft_llama_a_case{number}.safetensors").items():
            if name.startswith("delta/"):
                module = name.removeprefix("delta/")
                torch.testing.assert_close(found[module], reference.double(), atol=1e-6, rtol=0, msg=module)
