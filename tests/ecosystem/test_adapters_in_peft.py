"""Adapters that runs trained on models of transformers, loaded by PEFT: the logits of training time."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.data.exported import write_tokenizer
from isoflop.data.tokenizers.bytes import Bytes
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.restore import trained
from isoflop.train.run import train

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SHARED = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SHARED, "num_key_value_heads": 2}),
    "gpt2": ("GPT2Config", {"vocab_size": 257, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt_neox": ("GPTNeoXConfig", {**SHARED, "rotary_pct": 0.5}),
}


@pytest.mark.parametrize("targets", ['["*"]', '["*.mixer.q", "*.mixer.v", "*.down"]'])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", BASES)
def test_peft_gives_the_logits_of_training_time(name: str, kind: str, targets: str, tmp_path: Path) -> None:
    config = getattr(transformers, BASES[name][0])(**BASES[name][1])
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(config).eval()
    base.save_pretrained(tmp_path / "base")
    write_tokenizer(Bytes(), tmp_path / "base")
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"it's test {number} of many words\n" * 9)
    recipe = Recipe.from_toml(
        f"""
        start = "{tmp_path / "base"}"
        source = {{ name = "text", paths = ["{tmp_path / "texts"}/*.txt"] }}
        parametrization = {{ name = "{kind}", rank = 3, alpha = 6.0, targets = {targets} }}
        optimizer = {{ name = "adamw", lr = 0.02 }}
        budget = {{ steps = 8 }}
        train = {{ batch = 2, length = 32, evaluations = 1 }}
        """
    )
    run = train(recipe, tmp_path / "runs")
    assert invoke(["export", str(run.path), str(tmp_path / "adapter"), "--adapter"]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # keys that it misses, or does not expect
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.randint(257, (2, 24), generator=torch.Generator().manual_seed(1))
    model = trained(run, device="cpu").model
    with torch.no_grad():
        wanted, made = model(ids), theirs(ids).logits
        with theirs.disable_adapter():
            assert (made - theirs(ids).logits).abs().max() > 1e-3  # it learned something
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)
    joined = cat_of(recipe, tmp_path / "adapter", targets)
    if kind == "dora":
        with pytest.raises(RecipeError, match="holds more than plain updates of low rank"):
            Recipe.from_json(joined)
        return
    taken = assemble(Recipe.from_json(joined), Run.open(tmp_path / "runs", Recipe.from_json(joined))).parts.model
    with torch.no_grad():  # one adapter alone has all of the softmax
        torch.testing.assert_close(taken(ids), wanted, atol=1e-5, rtol=0)


def cat_of(recipe: Recipe, adapter: Path, targets: str) -> dict[str, Any]:
    """A recipe that takes up one adapter's directory on the recipe's start."""
    own = {"name": "cat", "adapters": ["one"], "targets": json.loads(targets)}
    return {**recipe.to_json(), "models": {"one": str(adapter)}, "parametrization": own}
