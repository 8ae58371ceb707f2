"""GGUF files of models that transformers wrote, read by transformers: the same logits and the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.models.gguf import write_gguf
from tokenizer_toys import byte_pairs

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
pytest.importorskip("gguf", reason="needs the extra gguf")

END = "<|endoftext|>"
SHARED = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"attention_bias": True, "tie_word_embeddings": False}),
    "llama 3": ("LlamaConfig", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    "gemma2": ("Gemma2Config", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}),
    "gpt2": ("GPT2Config", {"vocab_size": 300, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128}),
}
"""The families whose GGUF files transformers reads."""


def tokenizer(directory: Path) -> Any:
    made = byte_pairs(["it's a test of many words and of other words"] * 9, 280, [END])
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=END)
    wrapped.save_pretrained(directory)
    return wrapped


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_the_same_model(name: str, tmp_path: Path) -> None:
    kind, fields = FAMILIES[name]
    config = getattr(transformers, kind)(**({} if kind == "GPT2Config" else SHARED) | fields)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    model.save_pretrained(tmp_path / "model")
    ours = tokenizer(tmp_path / "model")
    assert write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32") == []
    # What its own reader does not take from the keys, e.g. Gemma's factor of scores, comes from the configuration.
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", config=config, dtype=torch.float32
    ).eval()
    ids = torch.randint(300, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-5, rtol=0)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    text = "it's a tester, of  14 words\n\nand éù"
    assert theirs(text).input_ids == ours(text).input_ids
