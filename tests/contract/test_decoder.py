"""What every part of the slot decoder must do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from isoflop.core.contracts import Decoder, DecoderPart, Treatment
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.models.transformer import Transformer
from transformer_toys import VOCAB, context, part

FIELDS: dict[str, dict[str, Any]] = {}
"""Fields of parts that cannot be built by default."""
PARTS = names("decoder")
INSERTS: Any = get("objective", "flexmdm")(times=1)
"""What the one decoder that inserts tokens needs its model to be trained for."""
FILLING = INSERTS.filling(VOCAB)
PROMPTS = [[5, 7, 9, 11], [1], [3, 3, 8]]


def part_of(name: str) -> DecoderPart:
    return get("decoder", name)(**FIELDS.get(name, {}))  # type: ignore[return-value]


def built(chosen: DecoderPart) -> Decoder:
    return chosen.build(context(filling=FILLING if chosen.name == "insertion" else None))


@pytest.fixture(scope="module")
def model() -> Transformer:
    return part().treated(Treatment(owned=INSERTS.owned)).build(context())


@pytest.mark.parametrize("name", PARTS)
def test_samples_are_new_ids_within_the_budget(name: str, model: Transformer) -> None:
    chosen = part_of(name)
    assert chosen.card.summary
    decoder = built(chosen)
    assert isinstance(decoder, Decoder)
    out = decoder.generate(model, PROMPTS, 7, Rng(0))
    lengths = [len(tokens) for tokens in out]
    assert lengths == [7, 7, 7] or (name == "insertion" and max(lengths) <= 7)
    assert all(type(token) is int and 0 <= token < VOCAB for tokens in out for token in tokens)
    assert decoder.generate(model, [], 7, Rng(0)) == []
    assert decoder.generate(model, PROMPTS, 0, Rng(0)) == [[], [], []]


@pytest.mark.parametrize("name", PARTS)
def test_samples_depend_on_the_rng_alone(name: str, model: Transformer) -> None:
    decoder = built(part_of(name))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = decoder.generate(model, PROMPTS, 9, Rng(5))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    torch.manual_seed(1)
    assert decoder.generate(model, PROMPTS, 9, Rng(5)) == first


@pytest.mark.parametrize("name", PARTS)
def test_the_model_is_left_as_it_was(name: str, model: Transformer) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    built(part_of(name)).generate(model, PROMPTS, 3, Rng(0))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", PARTS)
def test_no_id_is_chosen_that_stands_for_no_text(name: str, model: Transformer) -> None:
    """An objective may add ids behind the text's, and a published model may have more rows than its tokenizer ids."""
    few = part_of(name).model_copy(update={"ids": 12})
    found = built(few).generate(model, PROMPTS, 40, Rng(0))
    assert all(0 <= token < 12 for tokens in found for token in tokens)
    every = built(few.model_copy(update={"ids": VOCAB}))
    assert every.generate(model, PROMPTS, 9, Rng(0)) == built(part_of(name)).generate(model, PROMPTS, 9, Rng(0))
