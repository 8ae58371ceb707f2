"""Adapters as values: what is exact is exact, what is not says its error, what does not fit is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from isoflop.core.digests import digest
from isoflop.core.errors import DataError, RecipeError, UsageError
from isoflop.merge import ties
from isoflop.merge.lora import (
    Adapter,
    Factor,
    cat_weights,
    concatenated,
    extracted,
    merged_factors,
    merged_updates,
    merged_weight,
    recompressed,
    scale_of,
    scaled,
    subtracted,
)
from isoflop.merge.lora_files import read_adapter, write_adapter
from isoflop.merge.lora_merge import extract, fold
from isoflop.store.tensors import Checkpoint
from merge_models import save, tensors_of

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"


def adapter(seed: int, ranks: dict[str, int], shapes: dict[str, tuple[int, int]] | None = None) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    shapes = shapes or {Q: (4, 4), UP: (8, 4)}
    return Adapter(
        {
            name: Factor(
                torch.randn(rank, shapes[name][1], generator=draw),
                torch.randn(shapes[name][0], rank, generator=draw),
                scale_of(8, rank, rslora=seed % 2 == 1),
            )
            for name, rank in ranks.items()
        }
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 4), st.floats(-2, 2)), min_size=1, max_size=4))
def test_a_sum_of_adapters_is_the_sum_of_their_updates_at_the_sum_of_their_ranks(
    parts: list[tuple[int, float]],
) -> None:
    adapters = [adapter(seed, {Q: rank} | ({UP: rank} if seed != 1 else {})) for seed, (rank, _) in enumerate(parts)]
    weights = [weight for _, weight in parts]
    made = concatenated(adapters, weights)
    for name, factor in made.modules.items():
        there = [(w, a.modules[name]) for w, a in zip(weights, adapters, strict=True) if name in a.modules]
        wanted = sum(w * f.update() for w, f in there)
        assert factor.rank == sum(f.rank for _, f in there)
        torch.testing.assert_close(factor.update(), wanted, atol=1e-5, rtol=1e-5)


def test_one_adapter_with_weight_one_is_itself_and_minus_itself_nothing() -> None:
    one = adapter(3, {Q: 2, UP: 3})
    for name, factor in concatenated([one], [1.0]).modules.items():
        torch.testing.assert_close(factor.update(), one.modules[name].update(), atol=1e-6, rtol=1e-6)
    for factor in subtracted(one, one).modules.values():
        assert float(factor.update().abs().max()) < 1e-6
    for name, factor in scaled(one, -0.5).modules.items():
        torch.testing.assert_close(factor.update(), -0.5 * one.modules[name].update())


def test_factors_merged_apart_have_cross_terms_and_stacked_ones_do_not() -> None:
    one, two = adapter(0, {Q: 2}), adapter(2, {Q: 2})

    def add(tensors: Any, weights: Any) -> torch.Tensor:
        return sum(w * t for w, t in zip(weights, tensors, strict=True))  # type: ignore[return-value]

    wanted = one.modules[Q].update() - two.modules[Q].update()
    apart = merged_factors([one, two], [1.0, -1.0], add).modules[Q].update()
    assert float((apart - wanted).norm() / wanted.norm()) > 0.3
    dense, errors = merged_updates([one, two], [1.0, -1.0], add, 4)
    torch.testing.assert_close(dense.modules[Q].update(), wanted, atol=1e-5, rtol=1e-5)
    assert errors[Q] < 1e-6
    with pytest.raises(UsageError, match="ranks differ"):
        merged_factors([one, adapter(1, {Q: 3})], [1.0, 1.0], add)


@pytest.mark.parametrize("rank", [1, 2, 3, 9])
def test_compression_is_the_best_of_its_rank_and_says_what_it_lost(rank: int) -> None:
    made = concatenated([adapter(0, {UP: 2}), adapter(2, {UP: 2})], [1.0, 0.7])
    update = made.modules[UP].update()
    small, errors = recompressed(made, rank)
    singular = torch.linalg.svdvals(update)
    wanted = math.sqrt(float(singular[rank:].square().sum() / singular.square().sum()))
    assert small.modules[UP].rank <= rank
    assert errors[UP] == pytest.approx(wanted, abs=1e-6)
    lost = (small.modules[UP].update() - update).norm() / update.norm()
    assert float(lost) == pytest.approx(wanted, abs=1e-6)
    factor, error = extracted(update, rank)
    torch.testing.assert_close(factor.update(), small.modules[UP].update(), atol=1e-5, rtol=1e-5)
    assert error == pytest.approx(wanted, abs=1e-6)


def test_a_merge_method_acts_on_dense_updates() -> None:
    adapters = [adapter(0, {UP: 2}), adapter(2, {UP: 2})]
    zeros = torch.zeros(8, 4)
    made, _ = merged_updates(adapters, [0.6, 0.4], lambda u, w: ties(zeros, u, weight=w, density=0.5), 4)
    wanted = ties(zeros, [a.modules[UP].update().float() for a in adapters], weight=(0.6, 0.4), density=0.5)
    torch.testing.assert_close(made.modules[UP].update().float(), wanted, atol=1e-5, rtol=1e-5)


def test_cat_weights_are_a_softmax_of_each_module_alone() -> None:
    weights = cat_weights({Q: [0.0, math.log(3)], UP: [1.0, 1.0]})
    assert weights[Q] == pytest.approx([0.25, 0.75])
    made = concatenated([adapter(0, {Q: 1, UP: 2}), adapter(2, {Q: 2})], weights)
    assert made.modules[Q].rank == 3
    # an adapter that lacks a module keeps its share of the softmax
    torch.testing.assert_close(
        made.modules[UP].update(), 0.5 * adapter(0, {Q: 1, UP: 2}).modules[UP].update(), atol=1e-6, rtol=1e-6
    )


def test_merged_and_taken_off_again_gives_the_base_back(tmp_path: Path) -> None:
    tensors = tensors_of(0)
    save(tmp_path / "base", tensors, words=("a", "b"))
    write_adapter(adapter(1, {Q: 2, UP: 3}), tmp_path / "lora")
    fold(tmp_path / "base", tmp_path / "lora", tmp_path / "merged")
    fold(tmp_path / "merged", tmp_path / "lora", tmp_path / "again", sign=-1.0)
    merged, again = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "again"))
    for name, tensor in tensors.items():
        touched = name in (f"{Q}.weight", f"{UP}.weight")
        assert torch.equal(merged[name], tensor) != touched
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=0)
    assert (tmp_path / "merged/tokenizer.json").read_bytes() == (tmp_path / "base/tokenizer.json").read_bytes()
    assert "SHA-256" in (tmp_path / "merged/README.md").read_text()


def test_transposed_bases_embeddings_and_magnitudes() -> None:
    factor = Factor(torch.randn(2, 3), torch.randn(5, 2), 0.5)
    weight = torch.randn(5, 3)
    turned = merged_weight(weight.T.contiguous(), factor, transposed=True)
    torch.testing.assert_close(turned, merged_weight(weight, factor).T)
    embedding = Factor(torch.randn(2, 7), torch.randn(5, 2), 0.5, "embedding")
    made = merged_weight(torch.zeros(7, 5), embedding)
    torch.testing.assert_close(made, (0.5 * embedding.b @ embedding.a).T)
    magnitude = torch.rand(5) + 1
    dora = Factor(factor.a, factor.b, 0.5, magnitude=magnitude)
    torch.testing.assert_close(merged_weight(weight, dora).norm(dim=1), magnitude)
    with pytest.raises(UsageError, match="DoRA"):
        merged_weight(weight, dora, sign=-1.0)
    for function in (lambda a: scaled(a, 2.0), lambda a: recompressed(a, 1), lambda a: concatenated([a], [1.0])):
        with pytest.raises(UsageError, match="no sum"):
            function(Adapter({Q: dora}))
        with pytest.raises(UsageError, match="no sum"):
            function(Adapter({Q: factor}, {"lm_head.weight": weight}))


def test_a_whole_extraction_folds_back_to_the_tuned_model_and_a_short_one_says_its_error(tmp_path: Path) -> None:
    base = tensors_of(0)
    tuned = {name: tensor + 0.1 * tensors_of(9)[name] for name, tensor in base.items()}
    save(tmp_path / "base", base)
    save(tmp_path / "tuned", tuned)
    full = extract(tmp_path / "base", tmp_path / "tuned", 8, rest=True)
    assert full.left == []
    assert max(full.errors.values()) < 1e-6
    write_adapter(full.adapter, tmp_path / "lora")
    fold(tmp_path / "base", tmp_path / "lora", tmp_path / "back")
    for name, tensor in load_file(tmp_path / "back/model.safetensors").items():
        torch.testing.assert_close(tensor, tuned[name], atol=1e-6, rtol=0)
    short = extract(tmp_path / "base", tmp_path / "tuned", 1, targets=["q_proj"])
    assert set(short.adapter.modules) == {f"model.layers.{layer}.self_attn.q_proj" for layer in range(3)}
    for module, error in short.errors.items():
        difference = tuned[f"{module}.weight"] - base[f"{module}.weight"]
        lost = (short.adapter.modules[module].update() - difference).norm() / difference.norm()
        assert error == pytest.approx(float(lost), abs=1e-5)
    assert "model.norm.weight" in short.left


def test_patterns_rslora_embeddings_and_saved_modules_are_read_and_written(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    path = tmp_path / "in"
    path.mkdir()
    prefix = "base_model.model."
    tensors = {
        f"{prefix}{Q}.lora_A.weight": torch.randn(2, 4, generator=draw),
        f"{prefix}{Q}.lora_B.weight": torch.randn(4, 2, generator=draw),
        f"{prefix}{UP}.lora_A.weight": torch.randn(3, 4, generator=draw),
        f"{prefix}{UP}.lora_B.weight": torch.randn(8, 3, generator=draw),
        f"{prefix}model.embed_tokens.lora_embedding_A": torch.randn(2, 6, generator=draw),
        f"{prefix}model.embed_tokens.lora_embedding_B": torch.randn(4, 2, generator=draw),
        f"{prefix}lm_head.weight": torch.randn(6, 4, generator=draw),
    }
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_rslora": True, "rank_pattern": {"up_proj": 3}}
    config |= {"alpha_pattern": {"layers.1.mlp.up_proj": 12}, "an_unknown_key": [1]}
    (path / "adapter_config.json").write_text(json.dumps(config))
    found = read_adapter(path)
    assert found.modules[Q].scale == pytest.approx(8 / math.sqrt(2))
    assert found.modules[UP].scale == pytest.approx(12 / math.sqrt(3))
    assert found.modules["model.embed_tokens"].kind == "embedding"
    assert list(found.saved) == ["lm_head.weight"]
    write_adapter(found, tmp_path / "out")
    again = read_adapter(tmp_path / "out")
    for name, factor in found.modules.items():
        assert again.modules[name].scale == 1
        torch.testing.assert_close(again.modules[name].update(), factor.update(), atol=1e-5, rtol=1e-5)
    written = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert written["an_unknown_key"] == [1]
    assert written["modules_to_save"] == ["lm_head"]
    save(tmp_path / "base", tensors_of(0, head=False))
    fold(tmp_path / "base", path, tmp_path / "folded")
    folded = Checkpoint(tmp_path / "folded")
    assert torch.equal(folded.read("lm_head.weight"), tensors[f"{prefix}lm_head.weight"])
    assert not folded.tied, "the head was tied and is a tensor of its own now"


BROKEN: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], str]] = {
    "other kind": ({"peft_type": "IA3"}, {}, "only LORA"),
    "not known": ({"use_qalora": True}, {}, "use_qalora"),
    "half": ({}, {f"base_model.model.{Q}.lora_A.weight": torch.ones(2, 4)}, "only one of its two"),
    "misfit": (
        {},
        {
            f"base_model.model.{Q}.lora_A.weight": torch.ones(2, 4),
            f"base_model.model.{Q}.lora_B.weight": torch.ones(4, 3),
        },
        "do not fit",
    ),
    "other rank": (
        {"r": 5},
        {
            f"base_model.model.{Q}.lora_A.weight": torch.ones(2, 4),
            f"base_model.model.{Q}.lora_B.weight": torch.ones(4, 2),
        },
        "has rank 2",
    ),
    "bad pattern": (
        {"rank_pattern": {"(": 3}},
        {
            f"base_model.model.{Q}.lora_A.weight": torch.ones(2, 4),
            f"base_model.model.{Q}.lora_B.weight": torch.ones(4, 2),
        },
        "no pattern",
    ),
}


@pytest.mark.parametrize(("config", "tensors", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_lora_as_it_is_known_here_is_refused(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config))
    with pytest.raises(DataError, match=message):
        read_adapter(tmp_path)


def test_a_base_that_was_saved_without_its_head_takes_the_same_adapter(tmp_path: Path) -> None:
    tensors = {f"{Q}.weight": torch.randn(4, 4), "model.norm.weight": torch.ones(4)}
    save(tmp_path / "whole", tensors)
    save(tmp_path / "bare", {name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    write_adapter(adapter(0, {Q: 2}, {Q: (4, 4)}), tmp_path / "lora")
    for name in ("whole", "bare"):
        fold(tmp_path / name, tmp_path / "lora", tmp_path / f"{name}-out")
    whole, bare = (Checkpoint(tmp_path / f"{name}-out") for name in ("whole", "bare"))
    for name in tensors:
        assert torch.equal(bare.read(name.removeprefix("model.")), whole.read(name))
    assert not torch.equal(whole.read(f"{Q}.weight"), tensors[f"{Q}.weight"])


def test_an_adapter_for_another_base_is_refused_by_module_and_file(tmp_path: Path) -> None:
    save(tmp_path / "base", tensors_of(0))
    write_adapter(adapter(0, {Q: 2}, {Q: (6, 4)}), tmp_path / "wide")
    with pytest.raises(RecipeError, match=rf"wide: updates '{Q}.weight' by \[6, 4\].*another base"):
        fold(tmp_path / "base", tmp_path / "wide", tmp_path / "out")
    write_adapter(adapter(0, {"model.layers.7.x": 2}, {"model.layers.7.x": (4, 4)}), tmp_path / "deep")
    with pytest.raises(RecipeError, match=r"deep: adapts module 'model\.layers\.7\.x'"):
        fold(tmp_path / "base", tmp_path / "deep", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="shapes differ"):
        concatenated([adapter(0, {Q: 2}), adapter(0, {Q: 2}, {Q: (6, 4)})], [1.0, 1.0])
    with pytest.raises(DataError, match="nothing to extract"):
        extract(tmp_path / "base", tmp_path / "base", 2)


ODD: list[Any] = [None, True, 0, -1, 3, 1.5, 10**400, float("nan"), "x", [], ["x"], {}, {"(": 1}, {".*": "x"}, [{}]]


@pytest.mark.parametrize("key", ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "unknown"])
def test_settings_of_any_values_are_read_or_refused_by_their_file(key: str, tmp_path: Path) -> None:
    factor = Factor(torch.randn(2, 8), torch.randn(8, 2), 1.0)
    write_adapter(Adapter({"layers.0.q_proj": factor}), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    tree = json.loads(path.read_text())
    for value in ODD:
        path.write_text(json.dumps({**tree, key: value}))
        try:
            problem = str(digest(dict(read_adapter(path.parent).config))) and str(path.parent)
        except DataError as error:
            problem = str(error)
        assert str(path.parent) in problem, (value, problem)
