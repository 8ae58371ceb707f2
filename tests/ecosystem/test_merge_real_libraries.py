"""What we write loads in transformers and PEFT, without a warning, and computes what it should (extra `hf`)."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.core.toml import validated
from isoflop.merge.execute import merge
from isoflop.merge.lora import Adapter, Factor, cat_weights, concatenated
from isoflop.merge.lora_files import read_adapter, write_adapter
from isoflop.merge.lora_merge import extract, fold
from isoflop.merge.recipe import MergeRecipe, checked

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    peft = pytest.importorskip("peft", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # theirs, of each other
TOKENS = torch.tensor([[1, 5, 9, 2, 7, 3]])


def config_of(family: str, tied: bool) -> Any:
    if family == "gpt2":
        return transformers.GPT2Config(
            bos_token_id=0,
            eos_token_id=0,
            n_embd=16,
            n_layer=3,
            n_head=2,
            vocab_size=20,
            n_positions=16,
            tie_word_embeddings=tied,
        )
    return transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=20,
        tie_word_embeddings=tied,
    )


def make(path: Path, family: str, seed: int, tied: bool = False, **save: Any) -> Any:
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config_of(family, tied)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(path, **save)
    return model


def load(path: Path, caplog: pytest.LogCaptureFixture) -> Any:
    """The model, loaded with nothing missing, nothing unexpected, no warning in any form."""
    for name in ("transformers", "peft"):
        logging.getLogger(name).propagate = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert [str(w.message) for w in caught if issubclass(w.category, UserWarning)] == []
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    return model.eval()


def adapted(base: Any, path: Path) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(copy.deepcopy(base), path)
    assert [str(w.message) for w in caught if issubclass(w.category, UserWarning)] == []
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits  # type: ignore[no-any-return]


def recipe(**tree: Any) -> MergeRecipe:
    return checked(validated(MergeRecipe, tree, source="test"), "test")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_models_load_and_have_the_logits_of_merged_weights(
    tmp_path: Path, family: str, tied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    models = [make(tmp_path / name, family, seed, tied) for seed, name in enumerate(("a", "b"))]
    paths = [{"path": str(tmp_path / name), "parameters": {"weight": w}} for name, w in (("a", 0.7), ("b", 0.3))]
    merge(recipe(method="linear", models=paths, shard_bytes=10_000), tmp_path / "out")
    wanted = copy.deepcopy(models[0])
    with torch.no_grad():
        for mine, one, two in zip(*(m.parameters() for m in (wanted, *models)), strict=True):
            mine.copy_(0.7 * one + 0.3 * two)
    made = load(tmp_path / "out", caplog)
    assert made.config.tie_word_embeddings == tied
    torch.testing.assert_close(logits(made), logits(wanted), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_stacked_and_mixed_layouts_load(tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "tied", family, 0, True)
    make(tmp_path / "own", family, 1, False, max_shard_size="5KB")
    slices = [{"sources": [{"path": str(tmp_path / "own"), "layers": [0, 3]}]}] * 2
    merge(recipe(method="passthrough", slices=slices, dtype="bfloat16"), tmp_path / "stack")
    made = load(tmp_path / "stack", caplog)
    assert made.config.num_hidden_layers == 6
    assert made.dtype == torch.bfloat16
    both = [{"path": str(tmp_path / name)} for name in ("tied", "own")]
    merge(recipe(method="linear", models=both), tmp_path / "mixed")
    assert not load(tmp_path / "mixed", caplog).config.tie_word_embeddings


def trained(base: Any, path: Path, seed: int, **arguments: Any) -> None:
    """A PEFT adapter with random factors."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**arguments))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter).abs() + 0.1)
            elif parameter.requires_grad:
                parameter.add_(0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that embeddings are saved as well
        model.save_pretrained(path)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]}),
    "rslora": ("llama", {"r": 2, "lora_alpha": 4, "use_rslora": True, "target_modules": "all-linear"}),
    "patterns": (
        "llama",
        {
            "r": 2,
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 3},
            "alpha_pattern": {"v_proj": 5},
        },
    ),
    "dora": ("llama", {"r": 2, "use_dora": True, "target_modules": ["q_proj", "up_proj"]}),
    "embedding and head": ("llama", {"r": 2, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "modules to save": ("llama", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "conv1d": ("gpt2", {"r": 2, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "conv1d dora": ("gpt2", {"r": 2, "target_modules": ["c_fc"], "fan_in_fan_out": True, "use_dora": True}),
}


@pytest.mark.parametrize(("family", "arguments"), KINDS.values(), ids=KINDS)
def test_adapters_of_peft_fold_into_the_base_and_are_written_back(
    tmp_path: Path, family: str, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    base = make(tmp_path / "base", family, 0)
    trained(base, tmp_path / "lora", 1, **arguments)
    wanted = logits(adapted(base, tmp_path / "lora"))
    assert float((wanted - logits(base)).abs().max()) > 1e-2
    fold(tmp_path / "base", tmp_path / "lora", tmp_path / "folded")
    torch.testing.assert_close(logits(load(tmp_path / "folded", caplog)), wanted, atol=1e-5, rtol=1e-5)
    write_adapter(read_adapter(tmp_path / "lora"), tmp_path / "again")
    torch.testing.assert_close(logits(adapted(base, tmp_path / "again")), wanted, atol=1e-5, rtol=1e-5)


def test_a_cat_export_has_the_logits_of_training_time(tmp_path: Path) -> None:
    base = make(tmp_path / "base", "llama", 0)
    trained(base, tmp_path / "one", 1, r=2, lora_alpha=4, target_modules=["q_proj", "up_proj"])
    trained(base, tmp_path / "two", 2, r=3, lora_alpha=6, use_rslora=True, target_modules=["q_proj"])
    adapters = [read_adapter(tmp_path / name) for name in ("one", "two")]
    names = [name for adapter in adapters for name in adapter.modules]
    draw = torch.Generator().manual_seed(0)
    raw = {name: torch.randn(2, generator=draw).tolist() for name in dict.fromkeys(names)}
    write_adapter(concatenated(adapters, cat_weights(raw)), tmp_path / "cat")
    wanted = copy.deepcopy(base)
    with torch.no_grad():
        for name, values in raw.items():
            weights = torch.tensor(values).softmax(0)
            for weight, adapter in zip(weights, adapters, strict=True):
                if name in adapter.modules:
                    wanted.get_submodule(name).weight += weight * adapter.modules[name].update(torch.float32)
    torch.testing.assert_close(logits(adapted(base, tmp_path / "cat")), logits(wanted), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_extracted_adapter_loads_and_is_the_tuned_model(tmp_path: Path, family: str) -> None:
    base = make(tmp_path / "base", family, 0)
    tuned = copy.deepcopy(base)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if not name.endswith("bias"):
                parameter.add_(0.05 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "tuned")
    found = extract(tmp_path / "base", tmp_path / "tuned", 16, rest=True)
    assert found.left == []
    write_adapter(found.adapter, tmp_path / "lora")
    torch.testing.assert_close(logits(adapted(base, tmp_path / "lora")), logits(tuned), atol=1e-4, rtol=1e-4)


def test_adapters_of_one_module_alone_load(tmp_path: Path) -> None:
    base = make(tmp_path / "base", "llama", 0)
    name = "model.layers.1.self_attn.q_proj"
    write_adapter(Adapter({name: Factor(torch.randn(2, 16), torch.randn(16, 2))}), tmp_path / "lora")
    model = adapted(base, tmp_path / "lora")
    assert [n for n, _ in model.named_parameters() if "lora_A" in n] == [
        f"base_model.model.{name}.lora_A.default.weight"
    ]
