"""The text model within a directory of a model for images and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.models.hf.directory import Published, load
from isoflop.models.hf.wholes import text_config
from isoflop.pipelines.adapters import publish_adapter
from isoflop.pipelines.publishing import publish_directory
from isoflop.train.run import train
from published_toys import CONFIGS, directory, write

TOKENS = torch.tensor([[1, 5, 2, 9, 3, 3, 0]])
OLDER = {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
NEWER = {"model.": "model.language_model.", "lm_head.": "lm_head."}
WHOLES = {"gemma3": "gemma3_text", "mistral3": "mistral", "llava": "llama"}


def whole(path: Path, kind: str = "gemma3", names: dict[str, str] = OLDER, **changes: Any) -> tuple[Path, Path]:
    """A directory of a whole, and of its text model alone."""
    alone = directory(path / "alone", WHOLES[kind], tokenizer=True, vocab_size=304)
    there = directory(path / "whole", WHOLES[kind], tokenizer=True, vocab_size=304)
    config = json.loads((alone / "config.json").read_text())
    tree = {"model_type": kind, "architectures": ["Whole"], "text_config": config, "vision_config": {"hidden_size": 3}}
    (there / "config.json").write_text(json.dumps({**tree, **changes}))
    moved: dict[str, Tensor] = {
        "vision_tower.layers.0.weight": torch.ones(3),
        "multi_modal_projector.weight": torch.ones(2),
    }
    for name, tensor in load_file(alone / "model.safetensors").items():
        old = next(each for each in names if name.startswith(each))
        moved[names[old] + name.removeprefix(old)] = tensor
    write(there, moved)
    return there, alone


@pytest.mark.parametrize("names", [OLDER, NEWER])
@pytest.mark.parametrize("kind", WHOLES)
def test_the_text_model_is_read_and_goes_out_alone(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    there, alone = whole(tmp_path, kind, names)
    wanted = load(alone)[0](TOKENS)
    assert torch.equal(load(there)[0](TOKENS), wanted)
    form = publish_directory(there, tmp_path / "out")
    assert form.remarks == (f"it is the text part of a {kind}: what reads images is left aside",)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], "text_config" in config) == (WHOLES[kind], False)
    assert torch.equal(load(tmp_path / "out")[0](TOKENS), wanted)
    assert Published(alone).remarks == []


def test_it_is_used_as_any_other_and_what_it_is_is_said(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, _ = whole(tmp_path)
    assert invoke(["generate", str(there), "--prompt", "the cat", "--tokens", "3"]) == 0
    assert "it is the text part of a gemma3" in capsys.readouterr().err
    tree = {
        "name": "tuned",
        "source": {"name": "text", "paths": [f"{corpus}/*.txt"]},
        "start": str(there),
        "parametrization": {"name": "lora", "rank": 2},
        "train": {"length": 16, "batch": 2, "evaluations": 1},
        "budget": {"steps": 1},
    }
    recipe = Recipe.from_json(tree)
    assert recipe.model.d_model == 12  # type: ignore[attr-defined]
    assert Recipe.from_toml(recipe.to_toml()).hash == recipe.hash
    run = train(recipe, tmp_path / "runs")
    with pytest.raises(UsageError, match="began with the text part of a gemma3, whose modules PEFT knows by other"):
        publish_adapter(run, tmp_path / "adapter")


def test_what_the_published_configuration_leaves_out_is_the_familys(tmp_path: Path) -> None:
    """Of Gemma 3's text part the files name what differs from transformers' defaults alone."""
    there, _ = whole(tmp_path, text_config={"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34})
    found = Published(there)
    mixer: Any = found.part.blocks()[0][0]
    assert (found.part.d_model, found.part.layers, found.vocab_size, found.context) == (2560, 34, 262_208, 131_072)
    assert (mixer.heads, mixer.kv_heads, mixer.head_dim) == (8, 4, 256)


def test_a_value_of_the_whole_is_the_text_models_where_that_has_none() -> None:
    tree = {"model_type": "gemma3", "eos_token_id": [1, 106], "tie_word_embeddings": False}
    found = text_config(
        {**tree, "text_config": {"model_type": "gemma3_text", "eos_token_id": None, "dtype": "float32"}}
    )
    assert (found["eos_token_id"], found["tie_word_embeddings"], found["dtype"]) == ([1, 106], False, "float32")
    assert text_config(tree) == tree


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama4"}, r"model_type is 'llama4' \(Whole\), a family that is not known here"),
        ({"model_type": "qwen2_vl"}, r"model_type is 'qwen2_vl' \(Whole\), a family that is not known here"),
        (
            {"text_config": {**CONFIGS["llama"], "model_type": "gemma3n_text"}},
            r"model_type is 'gemma3n_text' \(Whole\), a family that is not known here",
        ),
        ({"text_config": 3}, r"model_type is 'gemma3' \(Whole\), a family"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not read"),
    ],
)
def test_other_wholes_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    there, _ = whole(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        load(there)


def test_a_whole_without_a_text_models_tensors_is_refused(tmp_path: Path) -> None:
    there, _ = whole(tmp_path)
    write(there, {"vision_tower.weight": torch.ones(3)})
    with pytest.raises(DataError, match=r"lacks .* tensors that a gemma3_text .*'model\.embed_tokens\.weight'"):
        load(there)


def test_a_whole_that_names_a_tensor_twice_is_refused(tmp_path: Path) -> None:
    there, _ = whole(tmp_path)
    tensors = load_file(there / "model.safetensors")
    write(there, {**tensors, "model.language_model.norm.weight": tensors["language_model.model.norm.weight"] + 1})
    with pytest.raises(
        DataError, match=r"holds 'language_model\.model\.norm\.weight' and 'model\.language_model\.norm"
    ):
        load(there)
