"""LoRA, rsLoRA and DoRA as we train them, beside PEFT's layers on the same tensors (extra `hf`)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.core.contracts import Treatment, added
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.merge.lora_files import write_adapter
from isoflop.merge.lora_trained import adapter_of
from isoflop.models.layers import Matrix
from transformer_toys import VOCAB, context

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("name", ["lora", "dora"])
def test_outputs_gradients_and_merged_weights_are_those_of_peft(name: str, stabilized: bool) -> None:
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(5, 7, bias=False))
    weight = inner[0].weight.detach().clone()
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], use_dora=name == "dora", use_rslora=stabilized)
    theirs = peft.get_peft_model(inner, config)
    ours: Any = get("parametrization", name)(rank=4, alpha=6.0, rank_stabilized=stabilized).build(7, 5, Rng(0))
    if name == "dora":
        ours.begin_from(weight)
    keys = {"A": "lora_A", "B": "lora_B", "magnitude.weight": "magnitude"}
    pairs = {
        mine: next(p for n, p in theirs.named_parameters() if keys[mine] in n) for mine, _ in ours.named_parameters()
    }
    with torch.no_grad():
        if name == "dora":
            torch.testing.assert_close(ours.magnitude.weight, pairs["magnitude.weight"], atol=1e-6, rtol=0)
        for mine, p in pairs.items():
            p.add_(0.3 * torch.randn_like(p))
            ours.get_parameter(mine).copy_(p)
    x, g = torch.randn(3, 5), torch.randn(3, 7)
    made, wanted = ours.product(weight, torch.float32)(x), theirs(x)
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)
    (made * g).sum().backward()
    (wanted * g).sum().backward()
    for mine, p in pairs.items():
        torch.testing.assert_close(ours.get_parameter(mine).grad, p.grad, atol=1e-5, rtol=0)
    folded = theirs.merge_and_unload()[0].weight
    torch.testing.assert_close(ours.finalize(weight), folded, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["lora", "dora", "cat"])
def test_an_exported_adapter_gives_the_logits_of_training_time_in_peft(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT's layers take the places of our matrices in our own model: every product of the forward is PEFT's."""
    loras = {key: get("parametrization", "lora")(rank=rank) for key, rank in (("a", 2), ("b", 3))}  # type: ignore[call-arg]
    fields: dict[str, Any] = {"adapters": ("a", "b")} if name == "cat" else {"rank": 3, "rank_stabilized": True}
    part: Any = get("parametrization", name)(**fields)
    architecture: Any = get("model", "transformer")(d_model=16, layers=2)  # type: ignore[call-arg]
    model = architecture.treated(Treatment(part.given(loras))).build(context())
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if added(key):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=draw))
    write_adapter(adapter_of(model), tmp_path / "lora")
    plain = architecture.build(context())
    plain.load_state_dict({key: tensor for key, tensor in model.state_dict().items() if not added(key)})
    for path, module in list(plain.named_modules()):
        if getattr(module, "role", "") == "hidden" and isinstance(module, Matrix):
            linear = torch.nn.Linear(*reversed(module.weight.shape), bias=False)
            linear.weight = module.weight
            plain.set_submodule(path, linear)
    plain.prepare_inputs_for_generation = None  # what PEFT looks for in a language model
    layer = peft.tuners.lora.Linear
    monkeypatch.setattr(layer, "product", lambda self, dtype: self.forward, raising=False)
    monkeypatch.setattr(layer, "reads", False, raising=False)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "lora").eval()
    ids = torch.randint(0, VOCAB, (2, 11), generator=draw)
    with torch.no_grad():
        wanted, made = model(ids), theirs.base_model.model(ids)
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)
