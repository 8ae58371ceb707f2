"""GGUF files in llama.cpp itself: the same ids, the same logits, the same greedy text (package xllamacpp)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
from tokenizers import Regex, pre_tokenizers
from torch import Tensor

import tokenizer_toys
from isoflop.data.tokenizers.pretrained import PretrainedPart
from isoflop.models.gguf import write_gguf
from isoflop.models.gguf.vocabulary import RULES
from isoflop.models.hf.directory import load
from published_toys import CONFIGS, directory, weights, write
from tokenizer_toys import CHATML

xllamacpp: Any = pytest.importorskip("xllamacpp", reason="needs the package xllamacpp")
pytest.importorskip("gguf", reason="needs the extra gguf")

END, IDS = "<|endoftext|>", 300
PROMPT = [7, 290, 33, 33, 81, 5, 120, 64, 250, 1, 2, 99]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "head_dim": 16,
}
NEOX = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "rotary_pct": 0.5}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 8}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama 3": ("llama", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}}),
    "linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "yarn": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}),
    "mistral, heads of another size": ("mistral", {"head_dim": 24, "sliding_window": None}),
    "qwen2": ("qwen2", {"head_dim": None}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "olmo2": ("olmo2", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {**GEMMA, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "gemma3": ("gemma3_text", {**GEMMA, "layer_types": ["sliding_attention"] * 3}),
    "gpt2": ("gpt2", {"n_embd": 64, "n_head": 4, "n_positions": 64}),
    "neox": ("gpt_neox", {**NEOX, "use_parallel_residual": True}),
    "neox in sequence": ("gpt_neox", {**NEOX, "use_parallel_residual": False}),
}
UNTOLD = range(257)
"""Ids of single bytes, and the end: of those that are no character of their own, the server tells no probabilities."""
SAID = ["it's a test of many words and of other words, isn't it"] * 9
TEXTS = (
    "it's a test of 1234 words, isn't it?",
    "  leading,  double and trailing  ",
    "\n\n\tlines\r\n\r\n  of text \n",
    "naïve café 日本語 🙂 e\u0301 \u00a0\u200b",
    "<|endoftext|> is text here, and <|im_start|> too",
    "",
    "a" * 300,
    "UPPER lower's WE'LL ½ ²³ ١٢٣",
)


def regex(pattern: str) -> Any:
    """A splitter of a text as Llama 3's and Qwen's."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def digits() -> Any:
    """A splitter of a text as SmolLM's."""
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return pre_tokenizers.Sequence(parts)


NAMES = {name: pattern for pattern, name in RULES.items()}
SPLITTERS: dict[str, Any] = {
    "gpt-2": None,
    "llama-bpe": regex(NAMES["llama-bpe"]),
    "qwen2": regex(NAMES["qwen2"]),
    "smollm": digits(),
}
"""By llama.cpp's names."""


def model_of(path: Path, name: str, tokenizer: Any = None, **settings: Any) -> Path:
    """A random model of a family's own files, with a tokenizer."""
    family, changes = MODELS[name]
    sizes = SIZES if "hidden_size" in CONFIGS[family] and family != "gpt_neox" else {}
    directory(path, family, vocab_size=IDS, **{**sizes, **changes})
    config = json.loads((path / "config.json").read_text())
    shift = 0 if "gemma" in family else 1
    tensors = {at: x + shift if at.endswith("norm.weight") else x for at, x in weights(config, scale=0.15).items()}
    write(path, tensors)
    made = tokenizer or tokenizer_toys.byte_pairs(SAID, 280, [END])
    return tokenizer_toys.directory(path, made, **{"bos_token": END, "eos_token": END, **settings})


class LlamaCpp:
    """A file as llama.cpp's server has it, on one thread, with keys and values in fp32."""

    def __init__(self, path: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel, params.verbosity = str(path), 64, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup = False
        self.server = xllamacpp.Server(params)

    def ask(self, path: str, **body: Any) -> Any:
        """What the server answers."""
        head = {"Content-Type": "application/json"}
        asked = Request(f"{self.server.listening_address}{path}", json.dumps(body).encode(), head)
        with urlopen(asked, timeout=60) as answer:
            return json.load(answer)

    def ids(self, text: str, **options: bool) -> list[int]:
        """The tokens of a text."""
        asked = {"content": text, "add_special": False, "parse_special": False, **options}
        return list(self.ask("/tokenize", **asked)["tokens"])

    def greedy(self, ids: list[int], count: int) -> tuple[list[int], Tensor]:
        """The likeliest tokens after some, and the log-probabilities (count, ids) of each step."""
        asked = {"prompt": ids, "n_predict": count, "n_probs": IDS, "temperature": 0, "ignore_eos": True}
        asked["logit_bias"] = [[i, False] for i in UNTOLD]
        found = self.ask("/completion", **asked, return_tokens=True, cache_prompt=False)
        rows = torch.full((count, IDS), torch.nan)
        for row, step in zip(rows, found["completion_probabilities"], strict=True):
            for each in step["top_logprobs"]:
                row[each["id"]] = each["logprob"]
        return list(found["tokens"]), rows


@torch.no_grad()
def ours_of(source: Path, ids: list[int], count: int) -> tuple[list[int], Tensor]:
    """The same of ours."""
    model, said, rows = load(source)[0], list[int](), []
    for _ in range(count):
        logits = model(torch.tensor([[*ids, *said]]))[0, -1]
        rows.append(torch.log_softmax(logits, -1))
        said.append(int(logits[len(UNTOLD) :].argmax()) + len(UNTOLD))
    return said, torch.stack(rows)


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_the_same(name: str, tmp_path: Path) -> None:
    source = model_of(tmp_path / "model", name)
    write_gguf(source, tmp_path / "model.gguf", "f32")
    (said, found), (wanted, ours) = LlamaCpp(tmp_path / "model.gguf").greedy(PROMPT, 20), ours_of(source, PROMPT, 20)
    assert said == wanted
    assert float(ours.std()) > 0.1
    tables = name.startswith(("gemma", "gpt2", "neox"))  # its GELU is a table in fp16
    torch.testing.assert_close(found, ours, rtol=0, atol=5e-3 if tables else 1e-4)


@pytest.mark.parametrize(("kind", "error"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 1e-2), ("q4_0", 0.2)])
def test_each_type_of_file_is_read(kind: str, error: float, tmp_path: Path) -> None:
    source = model_of(tmp_path / "model", "llama")
    write_gguf(source, tmp_path / "model.gguf", kind)
    (_, found), (_, ours) = LlamaCpp(tmp_path / "model.gguf").greedy(PROMPT, 1), ours_of(source, PROMPT, 1)
    assert float((found - ours).norm() / ours.norm()) < error


@pytest.mark.parametrize("rule", SPLITTERS)
def test_llama_cpp_cuts_texts_alike(rule: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_toys.byte_pairs(SAID, 280, [END], SPLITTERS[rule])
    source = model_of(tmp_path / "model", "llama", tokenizer, chat_template=CHATML)
    assert write_gguf(source, tmp_path / "model.gguf", "f32") == []
    ours, theirs = PretrainedPart(path=str(source)).build(iter(())), LlamaCpp(tmp_path / "model.gguf")
    for text in TEXTS:
        assert theirs.ids(text) == ours.encode(text).tolist(), text
    assert theirs.ids(END, parse_special=True) == [ours.eot]
    chat = [{"role": "user", "content": "it's a test"}, {"role": "assistant", "content": "so?"}]
    said = theirs.ask("/apply-template", messages=[*chat, chat[0]])["prompt"]
    assert said == ours.chat_encoder().template.render([*chat, chat[0]], add_generation_prompt=True)


def test_llama_cpp_cuts_texts_into_the_same_pieces(tmp_path: Path) -> None:
    source = model_of(tmp_path / "model", "llama", tokenizer_toys.llama(), bos_token="<s>", eos_token="</s>")
    write_gguf(source, tmp_path / "model.gguf", "f32")
    ours, theirs = PretrainedPart(path=str(source)).build(iter(())), LlamaCpp(tmp_path / "model.gguf")
    for text in ("the cat", " the  cat sat", "caf\u00e9 \U0001f642\n", "at</s>hat", "<s>"):
        assert theirs.ids(text) == ours.encode(text).tolist(), text
        assert theirs.ids(text, add_special=True) == [*ours.starts, *ours.encode(text).tolist()]
