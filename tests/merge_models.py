"""Tiny checkpoints for tests of merging: Llama-like names, any sharding, type, tying and vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WORDS = ("<s>", "a", "b", "c", "d", "e")


def tensors_of(seed: int, layers: int = 3, vocab: int = 6, width: int = 4, head: bool = True) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (vocab, width)}
    for layer in range(layers):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (width, width)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (2 * width, width)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if head:
        shapes["lm_head.weight"] = (vocab, width)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    words: Sequence[str] = (),
    **config: Any,
) -> Path:
    """Write a checkpoint; ``words`` are its tokenizer's tokens, none: it has no tokenizer."""
    path.mkdir(parents=True)
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if shards == 1:
        save_file(stored, path / "model.safetensors")
    else:
        placed = {
            name: f"model-{number % shards + 1:05}-of-{shards:05}.safetensors" for number, name in enumerate(stored)
        }
        for file in set(placed.values()):
            save_file({name: stored[name] for name in stored if placed[name] == file}, path / file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    layers = len({name.split(".")[2] for name in tensors if name.startswith("model.layers.")})
    tree = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "layer_types": [f"kind{layer}" for layer in range(layers)],
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0] if "model.embed_tokens.weight" in tensors else 0,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **config,
    }
    (path / "config.json").write_text(json.dumps(tree))
    if words:
        vocabulary = {word: number for number, word in enumerate(words)}
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": words[0]}
        (path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
        (path / "tokenizer_config.json").write_text("{}")
    return path
