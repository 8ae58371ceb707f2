"""Activation checkpointing: what is kept for the backward pass, and who may not use it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isoflop.core.contracts import Treatment
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.train.run import train
from transformer_toys import VOCAB, context

TINY = {
    "source": {"name": "hmm", "text_bytes": 20_000, "heldout_bytes": 2000},
    "model": {"name": "transformer", "d_model": 16},
    "budget": {"steps": 4},
    "train": {"batch": 2, "length": 16, "evaluations": 1},
}


def kept(checkpointing: bool, precision: str) -> int:
    """Bytes that a forward pass keeps for the backward one, weights not counted."""
    treated = TransformerPart(d_model=32, layers=6).treated(Treatment(checkpointing=checkpointing))
    model = treated.build(context().having(precision=precision))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    stores: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            stores[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.hidden(torch.randint(VOCAB, (4, 64), generator=torch.Generator().manual_seed(0)))
    assert out.requires_grad  # the graph lives until here, so no address is used twice
    return sum(stores.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_block_keeps_its_input_alone(precision: str) -> None:
    inputs = 4 * 64 * 32 * 4
    assert kept(False, precision) > 6 * 5 * inputs
    assert kept(True, precision) <= 10 * inputs  # six blocks' inputs, and what the last norm keeps


def test_weights_are_the_same_to_the_bit_and_a_budget_in_flops_buys_as_many_steps(tmp_path: Path) -> None:
    plain = Recipe.from_json(TINY)
    again = Recipe.from_json({**TINY, "train": {**TINY["train"], "activation_checkpointing": True}})
    assert plain.hash != again.hash
    runs = [train(recipe, tmp_path, audit=True) for recipe in (plain, again)]
    assert runs[0].result["value"] == runs[1].result["value"]
    assert runs[0].ledger["train"] | {"seconds": 0} == runs[1].ledger["train"] | {"seconds": 0}
    assert runs[0].ledger["recompute"]["hardware_flops"] == 0 < runs[1].ledger["recompute"]["hardware_flops"]
    assert runs[1].ledger["recompute"]["flops"] == 0


def test_an_optimizer_that_differentiates_by_functions_is_refused() -> None:
    train_settings = {**TINY["train"], "activation_checkpointing": True}
    with pytest.raises(RecipeError, match="activation_checkpointing: gauss_newton differentiates"):
        Recipe.from_json({**TINY, "optimizer": "gauss_newton", "train": train_settings})
