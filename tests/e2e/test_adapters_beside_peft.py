"""LoRA, rsLoRA and DoRA as we train them, beside PEFT's layers on the same tensors (extra `hf`)."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from isoflop.core.registry import get
from isoflop.core.rng import Rng

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
