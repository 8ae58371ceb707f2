"""Directories that transformers wrote come in, ours go out to it: the same logits, the same tokens (extra `hf`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.core.recipe import Recipe
from isoflop.data.tokenizing import as_prompt
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.hf.directory import Published, load
from isoflop.models.hf.export import Ids, export
from isoflop.pipelines.publishing import publish_directory, publish_run
from isoflop.train.restore import trained
from isoflop.train.run import train
from transformer_toys import context

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # theirs, of each other
VOCAB = 97
BASE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": None,
}
UNGROUPED = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": VOCAB, "n_positions": 128, "bos_token_id": 1, "eos_token_id": None}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama with biases, tied, llama3": (
        "Llama",
        {
            "head_dim": 10,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_scaling": {"rope_type": "llama3", **LLAMA3},
        },
    ),
    "llama, linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 5e5}),
    "llama, yarn": ("Llama", {"rope_scaling": YARN}),
    "llama, yarn with mscale": (
        "Llama",
        {"rope_scaling": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": False}, "hidden_act": "gelu"},
    ),
    "mistral": ("Mistral", {"sliding_window": 7, "head_dim": 14, "hidden_size": 50}),
    "mistral without a window": ("Mistral", {"sliding_window": None, "num_key_value_heads": 4}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2 with windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 18, "attention_bias": True}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 5}),
    "olmo2": ("Olmo2", {}),
    "gemma": ("Gemma", {"num_key_value_heads": 1, "head_dim": 20}),
    "gemma2": ("Gemma2", {"head_dim": 14, "sliding_window": 6, "query_pre_attn_scalar": 20}),
    "gemma3": (
        "Gemma3Text",
        {
            "num_hidden_layers": 7,
            "head_dim": 14,
            "sliding_window": 6,
            "query_pre_attn_scalar": 20,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gpt2 with heads of 9": ("GPT2", {"n_embd": 45, "n_layer": 3, "n_head": 5}),
    "gpt2, scores by layer": (
        "GPT2",
        {
            "n_embd": 48,
            "n_layer": 3,
            "n_head": 4,
            "n_inner": 50,
            "scale_attn_by_inverse_layer_idx": True,
            "activation_function": "gelu",
            "tie_word_embeddings": False,
        },
    ),
    "pythia": ("GPTNeoX", {"rotary_pct": 0.5}),
    "neox in sequence": (
        "GPTNeoX",
        {"rotary_pct": 1.0, "use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_new"},
    ),
    "neox, linear": ("GPTNeoX", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}),
}
"""Class and what differs from ``BASE``."""


def theirs(name: str, path: Path, **save: Any) -> Any:
    """A random model of transformers, saved."""
    kind, changes = MODELS[name]
    base = {"GPT2": GPT2, "GPTNeoX": UNGROUPED}.get(kind, BASE)
    torch.manual_seed(len(name))
    config = getattr(transformers, f"{kind}Config")(**{**base, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = model.to(save.pop("dtype", torch.float32))
    model.save_pretrained(path, **save)
    return opened(path)


def opened(path: Path) -> Any:
    """A directory as transformers reads it, in fp32: nothing missing, nothing unexpected."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


def greedy(model: Any, x: Tensor, count: int) -> list[int]:
    """The likeliest tokens after a prompt, by our cached steps."""
    cache = model.make_cache(1, len(x[0]) + count)
    found = [int(model.step(x, cache)[0, -1].argmax())]
    while len(found) < count:
        found.append(int(model.step(torch.tensor([[found[-1]]]), cache)[0, -1].argmax()))
    return found


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_their_directories_come_in_and_go_out_again(name: str, tmp_path: Path) -> None:
    other, x = theirs(name, tmp_path / "in", max_shard_size="60KB"), tokens(2, 60)
    ours, chosen = load(tmp_path / "in")
    torch.testing.assert_close(ours(x), other(x).logits, rtol=0, atol=1e-4)
    prompt = x[:1, :9]
    said = other.generate(prompt, max_new_tokens=50, do_sample=False)[0, 9:].tolist()
    assert greedy(ours, prompt, 50) == said
    found = Published(tmp_path / "in")
    form = export(
        chosen,
        dict(ours.named_parameters()),
        tmp_path / "out",
        context=found.context,
        ids=Ids(1),
        identity=name,
        family=found.family.model_type,
    )
    assert form.family.model_type == found.family.model_type
    assert torch.equal(load(tmp_path / "out")[0](x), ours(x))
    torch.testing.assert_close(opened(tmp_path / "out")(x).logits, other(x).logits, rtol=0, atol=1e-4)


WHOLES: dict[str, tuple[str, dict[str, Any]]] = {
    "Gemma3": ("gemma3_text", {"head_dim": 14, "sliding_window": 6, "num_hidden_layers": 7}),
    "Mistral3": ("mistral", {"head_dim": 14, "sliding_window": None}),
    "Llava": ("llama", {"tie_word_embeddings": False}),
}
"""Models for images and text: the text model's type, and what differs from ``BASE``."""


@pytest.mark.parametrize("name", WHOLES)
@torch.no_grad()
def test_the_text_model_of_a_whole_comes_in(name: str, tmp_path: Path) -> None:
    kind, changes = WHOLES[name]
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 28, "patch_size": 14}
    vision_kind = {"Gemma3": "siglip_vision_model", "Mistral3": "pixtral", "Llava": "clip_vision_model"}[name]
    config = getattr(transformers, f"{name}Config")(
        text_config={**BASE, **changes, "model_type": kind},
        vision_config={**vision, "model_type": vision_kind},
        tie_word_embeddings=name == "Gemma3",
    )
    torch.manual_seed(0)
    other = getattr(transformers, f"{name}ForConditionalGeneration")._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in other.eval().parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    other.save_pretrained(tmp_path / "in", max_shard_size="60KB")
    x = tokens(2, 60)
    wanted, (ours, _) = other(input_ids=x).logits, load(tmp_path / "in")
    torch.testing.assert_close(ours(x), wanted, rtol=0, atol=1e-4)
    publish_directory(tmp_path / "in", tmp_path / "out")
    torch.testing.assert_close(opened(tmp_path / "out")(x).logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama with biases, tied, llama3", "gemma2", "gpt2 with heads of 9", "pythia"])
@torch.no_grad()
def test_bf16_directories_come_in_with_the_same_numbers(name: str, tmp_path: Path) -> None:
    other, x = theirs(name, tmp_path / "in", dtype=torch.bfloat16, max_shard_size="30KB"), tokens(2, 40)
    ours, chosen = load(tmp_path / "in")
    torch.testing.assert_close(ours(x), other(x).logits, rtol=0, atol=1e-4)
    export(
        chosen,
        dict(ours.named_parameters()),
        tmp_path / "out",
        context=128,
        ids=Ids(1),
        identity=name,
        dtype="bfloat16",
    )
    torch.testing.assert_close(opened(tmp_path / "out")(x).logits, other(x).logits, rtol=0, atol=1e-6)


OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "tied": {"tied": True},
    "tied as it is": {"tied": True, "embedding_scale": 1.0, "mixer": {"heads": 4, "kv_heads": 2}},
    "query-key norms": {"mixer": {"heads": 4, "kv_heads": 2, "qk_norm": True}},
    "windows in turn": {
        "layers": 3,
        "mixer": [
            {"name": "attention", "heads": 4, "qk_norm": True, "pattern": {"name": "window", "size": 6}},
            {"name": "attention", "heads": 4, "qk_norm": True},
        ],
    },
    "odd heads": {"d_model": 27, "mixer": {"heads": 3, "position": "none"}, "positions": 64, "norm": "layer"},
    "gpt2": {"mixer": {"heads": 4, "position": "none"}, "positions": 64, "norm": "layer", "feed_forward": "gelu"},
    "primer, parallel": {"feed_forward": "squared_relu", "norm": "layer", "arrangement": "parallel"},
    "olmo2": {"arrangement": "output_norm", "mixer": {"heads": 4, "qk_norm": True, "qk_norm_whole": True}},
    "gemma2": {
        "arrangement": "sandwich",
        "norm": "rms_offset",
        "tied": True,
        "cap": 9.0,
        "feed_forward": "geglu",
        "mixer": {"heads": 4, "cap": 5.0},
    },
    "heads that do not divide": {"d_model": 30, "mixer": {"heads": 4, "head_dim": 8}},
    "no positions in some layers": {
        "layers": 4,
        "mixer": [{"name": "attention"}, {"name": "attention", "position": "none"}],
    },
}
OURS["odd heads"]["feed_forward"] = "gelu"


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_our_models_go_out_with_the_same_logits(name: str, tmp_path: Path) -> None:
    fields = {"d_model": 32, "mixer": {"heads": 4}, **OURS[name]}
    if isinstance(fields["mixer"], dict):
        fields["mixer"] = {"name": "attention", **fields["mixer"]}
    chosen = TransformerPart.model_validate(fields)
    model = chosen.build(context(vocab_size=VOCAB))
    for p in model.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p))))
    export(chosen, model.state_dict(), tmp_path / "out", context=64, ids=Ids(1), identity=name, shard_bytes=30_000)
    torch.testing.assert_close(opened(tmp_path / "out")(tokens(2, 50)).logits, model(tokens(2, 50)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("tokenizer", ["bytes", '{name="bpe", vocab_size=300}'])
def test_a_run_goes_out_with_its_tokenizer(tokenizer: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    """A bare prompt means to transformers what it means here: the same ids, the same greedy text."""
    run = train(Recipe.load(tiny(f"tokenizer={tokenizer}", "budget.steps=30")), tmp_path / "runs")
    publish_run(run, tmp_path / "out", context=64)
    found, model = trained(run), opened(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert found.tokenizer is not None
    for text in ("The cat sat", "naïve 日本 🙂\n\n  two", "<|endoftext|> is text"):
        ids = as_prompt(found.tokenizer, text)
        theirs.split_special_tokens = theirs._tokenizer.encode_special_tokens = True  # in a user's text they are text
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids[1:], clean_up_tokenization_spaces=False) == text
    prompt = torch.tensor([as_prompt(found.tokenizer, "The ")])
    said = model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :].tolist()
    ours = greedy(found.model, prompt, len(said))
    assert ours == said
    assert model.generation_config.eos_token_id == found.tokenizer.eot
    assert theirs.eos_token_id == theirs.bos_token_id == found.tokenizer.eot
