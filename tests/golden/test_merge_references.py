"""Merges of tiny models beside what mergekit 0.1.5 made of them; each kind has a sibling that needs no outside file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from isoflop.merge.execute import merge
from isoflop.merge.recipe import load

FAMILIES = {"llama_a": 27, "gpt2_a": 13, "llama_bf16": 12}
SELECTING = ("ties", "breadcrumbs", "breadcrumbs_ties")


def references(shared: Path) -> list[Path]:
    found = [path for family in FAMILIES for path in (shared / "data/posttrain/merge" / family / "merged").glob("*")]
    if not found:
        pytest.skip("reference merges not found below ISOFLOP_SHARED/data/posttrain/merge")
    return sorted(found)


def merged(recipe: Path, out: Path, monkeypatch: pytest.MonkeyPatch, family: Path) -> dict[str, torch.Tensor]:
    monkeypatch.chdir(family)
    merge(load(recipe), out)
    return load_file(out / "model.safetensors")


def at_a_threshold(family: Path, recipe: Path, name: str) -> torch.Tensor:
    """Elements whose magnitude equals the smallest kept one or the largest dropped one of a model: any may be kept."""
    tree = yaml.safe_load(recipe.read_text())
    compute = torch.bfloat16 if tree["dtype"] == "bfloat16" else torch.float32
    base = load_file(family / "base/model.safetensors")[name].to(compute)
    doubtful = torch.zeros_like(base, dtype=torch.bool)
    for entry in tree["models"]:
        vector = load_file(family / entry["model"] / "model.safetensors")[name].to(compute) - base
        ordered = vector.abs().float().reshape(-1).sort(descending=True).values
        kept = max(1, int(entry["parameters"]["density"] * len(ordered)))
        gamma = entry["parameters"].get("gamma", 0.01 if "breadcrumbs" in tree["merge_method"] else 0.0)
        top = min(int(gamma * len(ordered)), len(ordered) - kept)
        for edge in (kept + top, top):
            if 0 < edge < len(ordered) and ordered[edge - 1] == ordered[edge]:
                doubtful |= vector.abs().float() == ordered[edge]
    return doubtful


def test_every_reference_is_met(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(FAMILIES, 0)
    for path in references(shared):
        family, name = path.parents[1], path.name
        counts[family.name] += 1
        if name.endswith("_s42"):
            continue
        made = merged(path / "recipe.yaml", tmp_path / family.name / name, monkeypatch, family)
        wanted = load_file(path / "model.safetensors")
        assert set(made) == set(wanted), name
        for tensor, reference in wanted.items():
            ours = made[tensor]
            assert (ours.dtype, ours.shape) == (reference.dtype, reference.shape)
            label = f"{family.name} {name} {tensor}"
            method = yaml.safe_load((path / "recipe.yaml").read_text())["merge_method"]
            if method in SELECTING:
                same = ours == reference
                if family.name == "llama_bf16":  # coarse values: equal magnitudes at the threshold
                    same |= at_a_threshold(family, path / "recipe.yaml", tensor)
                assert bool(same.all()), label
            elif reference.dtype == torch.bfloat16:
                ulp = torch.exp2(torch.frexp(reference.float().abs()).exponent.float() - 8)
                assert bool(((ours.float() - reference.float()).abs() <= ulp).all()), label
            else:
                torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0, msg=label)
    assert counts == FAMILIES


def test_random_references_have_the_properties_of_ours(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references' masks follow the order of their tasks; ours must have the same shares and one ratio a tensor."""
    for path in references(shared):
        family, name = path.parents[1], path.name
        if not name.endswith("_s42"):
            continue
        made = merged(path / "recipe.yaml", tmp_path / family.name / name, monkeypatch, family)
        tree = yaml.safe_load((path / "recipe.yaml").read_text())
        base = load_file(family / "base/model.safetensors")
        models = [load_file(family / entry["model"] / "model.safetensors") for entry in tree["models"]]
        shares = [float(entry["parameters"]["density"]) for entry in tree["models"]]
        nothing = (1 - shares[0]) * (1 - shares[1])
        for tensors in (made, load_file(path / "model.safetensors")):
            untouched = total = 0
            for tensor in base:
                if all(float((model[tensor] != base[tensor]).float().mean()) > 0.9 for model in models):
                    untouched += int((tensors[tensor] == base[tensor]).sum())
                    total += base[tensor].numel()
            assert untouched / total == pytest.approx(nothing, abs=0.02), name


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
def test_without_outside_files_a_yaml_with_gradients_and_filters_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    layer, attention = ("model.layers", "self_attn") if layout == "llama" else ("transformer.h", "attn")
    draw = torch.Generator().manual_seed(0)
    models = []
    for number in range(2):
        tensors = {
            f"{layer}.{i}.{kind}.w": torch.randn(3, 4, generator=draw) for i in range(3) for kind in (attention, "mlp")
        }
        tensors["wte.weight" if layout == "gpt2" else "model.embed_tokens.weight"] = torch.randn(5, 4, generator=draw)
        (tmp_path / f"m{number}").mkdir()
        save_file(tensors, tmp_path / f"m{number}" / "model.safetensors")
        models.append(tensors)
    (tmp_path / "merge.yaml").write_text(f"""
merge_method: linear
models:
- model: m0
  parameters:
    weight:
    - filter: {attention}
      value: [0, 0.5, 2]
    - filter: mlp
      value: [1, 0]
    - value: 0.4
- model: m1
  parameters: {{weight: 5e-1}}
parameters: {{normalize: false}}
dtype: float32
""")
    made = merged(tmp_path / "merge.yaml", tmp_path / "out", monkeypatch, tmp_path)
    weights = {f"{layer}.{i}.{attention}.w": (0, 0.5, 2)[i] for i in range(3)} | {
        f"{layer}.{i}.mlp.w": (1, 0.5, 0)[i] for i in range(3)
    }
    for name, ours in made.items():
        torch.testing.assert_close(ours, weights.get(name, 0.4) * models[0][name] + 0.5 * models[1][name])
