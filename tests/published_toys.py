"""Tiny directories of published models, written by hand: names and shapes as the families' own files have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import tokenizer_toys

VOCAB, WIDTH, INNER, LAYERS, HEADS = 19, 12, 20, 2, 3
_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "model_type": "llama", "rope_theta": 500.0},
    "mistral": {**_LLAMA, "model_type": "mistral", "sliding_window": 5, "head_dim": 6},
    "qwen2": {**_LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**_LLAMA, "model_type": "qwen3", "head_dim": 6},
    "olmo2": {**_LLAMA, "model_type": "olmo2"},
    "smollm3": {**_LLAMA, "model_type": "smollm3", "tie_word_embeddings": True, "no_rope_layers": [1, 0]},
    "gemma": {**_LLAMA, "model_type": "gemma", "head_dim": 6, "tie_word_embeddings": True, "hidden_act": "gelu"},
    "gemma2": {
        **_LLAMA,
        "model_type": "gemma2",
        "head_dim": 6,
        "tie_word_embeddings": True,
        "sliding_window": 4,
        "query_pre_attn_scalar": 9,
    },
    "gemma3_text": {
        **_LLAMA,
        "model_type": "gemma3_text",
        "head_dim": 6,
        "tie_word_embeddings": True,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 4,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCAB,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_positions": 40,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "rotary_pct": 0.34,
        "tie_word_embeddings": False,
    },
}
"""A configuration of each family."""


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors that a directory of the configuration holds."""
    kind, vocab = config["model_type"], config["vocab_size"]
    if kind == "gpt2":
        return _gpt2(config["n_embd"], config["n_layer"], vocab, config["n_positions"])
    if kind == "gpt_neox":
        return _gpt_neox(config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"], vocab)
    width, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or width // config["num_attention_heads"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        found |= {
            f"{at}self_attn.q_proj.weight": (heads * head_dim, width),
            f"{at}self_attn.k_proj.weight": (kv_heads * head_dim, width),
            f"{at}self_attn.v_proj.weight": (kv_heads * head_dim, width),
            f"{at}self_attn.o_proj.weight": (width, heads * head_dim),
            f"{at}mlp.gate_proj.weight": (inner, width),
            f"{at}mlp.up_proj.weight": (inner, width),
            f"{at}mlp.down_proj.weight": (width, inner),
            f"{at}post_attention_layernorm.weight": (width,),
        }
        if kind != "olmo2":
            found[f"{at}input_layernorm.weight"] = (width,)
        if kind in ("olmo2", "gemma2", "gemma3_text"):
            found[f"{at}post_feedforward_layernorm.weight"] = (width,)
        if kind in ("gemma2", "gemma3_text"):
            found[f"{at}pre_feedforward_layernorm.weight"] = (width,)
        if kind in ("qwen3", "gemma3_text"):
            found |= {f"{at}self_attn.{name}_norm.weight": (head_dim,) for name in "qk"}
        if kind == "olmo2":
            found[f"{at}self_attn.q_norm.weight"] = (heads * head_dim,)
            found[f"{at}self_attn.k_norm.weight"] = (kv_heads * head_dim,)
        if config.get("mlp_bias"):
            found |= {f"{at}mlp.{name}_proj.bias": (inner,) for name in ("gate", "up")}
            found[f"{at}mlp.down_proj.bias"] = (width,)
        if config.get("attention_bias"):
            found[f"{at}self_attn.o_proj.bias"] = (width,)
        if kind == "qwen2" or config.get("attention_bias"):
            found[f"{at}self_attn.q_proj.bias"] = (heads * head_dim,)
            found |= {f"{at}self_attn.{name}_proj.bias": (kv_heads * head_dim,) for name in "kv"}
    return found if config["tie_word_embeddings"] else {**found, "lm_head.weight": (vocab, width)}


def _gpt2(width: int, layers: int, vocab: int, positions: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"wte.weight": (vocab, width), "wpe.weight": (positions, width)}
    for i in range(layers):
        found |= {
            f"h.{i}.attn.c_attn.weight": (width, 3 * width),
            f"h.{i}.attn.c_attn.bias": (3 * width,),
            f"h.{i}.attn.c_proj.weight": (width, width),
            f"h.{i}.attn.c_proj.bias": (width,),
            f"h.{i}.mlp.c_fc.weight": (width, 4 * width),
            f"h.{i}.mlp.c_fc.bias": (4 * width,),
            f"h.{i}.mlp.c_proj.weight": (4 * width, width),
            f"h.{i}.mlp.c_proj.bias": (width,),
        }
        found |= {f"h.{i}.ln_{j}.{kind}": (width,) for j in (1, 2) for kind in ("weight", "bias")}
    return {**found, "ln_f.weight": (width,), "ln_f.bias": (width,)}


def _gpt_neox(width: int, inner: int, layers: int, vocab: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (vocab, width), "embed_out.weight": (vocab, width)}
    for i in range(layers):
        at = f"gpt_neox.layers.{i}."
        found |= {
            f"{at}attention.query_key_value.weight": (3 * width, width),
            f"{at}attention.query_key_value.bias": (3 * width,),
            f"{at}attention.dense.weight": (width, width),
            f"{at}attention.dense.bias": (width,),
            f"{at}mlp.dense_h_to_4h.weight": (inner, width),
            f"{at}mlp.dense_h_to_4h.bias": (inner,),
            f"{at}mlp.dense_4h_to_h.weight": (width, inner),
            f"{at}mlp.dense_4h_to_h.bias": (width,),
        }
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found |= {f"{at}{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    return found | {f"gpt_neox.final_layer_norm.{kind}": (width,) for kind in ("weight", "bias")}


def weights(config: dict[str, Any], dtype: torch.dtype = torch.float32, scale: float = 0.3) -> dict[str, Tensor]:
    """Random ones."""
    draw = torch.Generator().manual_seed(7)
    return {name: (scale * torch.randn(shape, generator=draw)).to(dtype) for name, shape in shapes(config).items()}


def directory(
    path: Path,
    family: str,
    *,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    tokenizer: bool = False,
    **changes: Any,
) -> Path:
    """Write a directory of a family; ``changes`` are of its configuration."""
    config = {**CONFIGS[family], **changes}
    if tokenizer:
        tokenizer_toys.directory(path, tokenizer_toys.byte_level(), eos_token="<|endoftext|>")
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    write(path, weights(config, dtype), shards)
    return path


def write(path: Path, tensors: dict[str, Tensor], shards: int = 1) -> None:
    """Write tensors as the weights of a directory, in one file or several."""
    for old in path.glob("*.safetensors*"):
        old.unlink()
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
        return
    placed = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        own = dict(list(tensors.items())[number::shards])
        save_file(own, path / file)
        placed |= dict.fromkeys(own, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
