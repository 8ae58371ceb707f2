"""Sequences that come and go in one batch have the logits that each has alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import published_toys
from isoflop.core.errors import UsageError
from isoflop.core.registry import get
from isoflop.models.slots import Piece
from isoflop.train.restore import published
from transformer_toys import VOCAB, context, part

FAMILIES = sorted(published_toys.CONFIGS)


def toy(family: str, place: Path) -> Any:
    published_toys.directory(place / family, family, tokenizer=True)
    return published(place / family).model


def play(model: Any, vocab: int, seed: int, longest: int, weights: Any = None) -> None:
    """A random life of a batch: each sequence's logits at every place, held to one forward over it alone."""
    draw = np.random.default_rng(seed)
    slots = model.prepared(4, weights).make_slots()
    live: list[tuple[list[int], list[Tensor]]] = []
    ended: list[tuple[list[int], list[Tensor]]] = []
    texts = [draw.integers(vocab, size=draw.integers(2, longest)).tolist() for _ in range(9)]
    while texts or live:
        if texts and len(live) < 4 and draw.random() < 0.6:
            slots.reserve(4 if draw.random() < 0.5 else len(live) + 1, longest)
            assert slots.join() == len(live)
            live.append((texts.pop(), []))
        pieces = []
        for row in draw.permutation(len(live)).tolist():
            text, found = live[row]
            left = text[len(found) :]
            count = min(len(left), 1 if draw.random() < 0.6 else int(draw.integers(1, 7)))
            if draw.random() < 0.8:
                pieces.append(Piece(row, left[:count], count))
        if pieces:
            for piece, logits in zip(pieces, slots.step(pieces), strict=True):
                live[piece.row][1].extend(logits)
        for row in reversed(range(len(live))):
            if len(live[row][1]) == len(live[row][0]) or draw.random() < 0.02:
                ended.append(live[row])
                slots.leave(row)
                live[row] = live[-1]
                live.pop()
        assert slots.lengths == [len(found) for _, found in live]
    for text, found in ended:
        if found:
            whole = model(torch.tensor([text[: len(found)]]))[0]
            tolerance = 2e-5 * max(1.0, float(whole.abs().max()))
            torch.testing.assert_close(torch.stack(found), whole, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_family_continues_a_batch_as_it_continues_one_text(family: str, tmp_path: Path) -> None:
    """Windows, caps, shared heads, learned positions, norms of queries: whatever published models have."""
    play(toy(family, tmp_path), published_toys.VOCAB, seed=len(family), longest=30)


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_a_batch_lives_many_lives(seed: int) -> None:
    mixer = {"heads": 4, "kv_heads": 2, "pattern": {"name": "window", "size": 5}} if seed else {"heads": 4}
    play(part(mixer=mixer).build(context()), VOCAB, seed, longest=40)


MIXERS: dict[str, Any] = {
    "recurrent": "recurrent",
    "hstu": {"name": "hstu", "distances": 6},
    "gated_delta": "gated_delta",
    "all of them": ["gated_delta", "hstu", "recurrent", "attention"],
}


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_every_kind_of_memory_lives_the_same_life(mixer: str) -> None:
    layers = 4 if mixer == "all of them" else 2
    made: Any = get("model", "transformer")(d_model=16, layers=layers, mixer=MIXERS[mixer]).build(context())
    for block in made.blocks:
        if hasattr(block.mixer, "bias"):
            block.mixer.bias.normal_(generator=torch.Generator().manual_seed(0))
    play(made, VOCAB, seed=5, longest=30)


@pytest.mark.parametrize("mixer", ["recurrent", "hstu", "gated_delta"])
@torch.no_grad()
def test_rows_that_no_sequence_holds_are_zero(mixer: str) -> None:
    slots = get("model", "transformer")(d_model=16, mixer=mixer).build(context()).prepared(2).make_slots()
    slots.reserve(2, 8)
    slots.join(), slots.join()
    slots.step([Piece(0, [1, 2, 3, 4], 1), Piece(1, [5, 6], 1)])
    for left in (1, 0):
        slots.leave(0)
        for layer in slots.layers:
            for held in (each for each in vars(layer).values() if isinstance(each, torch.Tensor)):
                assert not held[left:].any()
                assert not left or held[:left].any()


@torch.no_grad()
def test_a_memory_without_a_way_back_says_so() -> None:
    slots = get("model", "transformer")(d_model=16, mixer="gated_delta").build(context()).prepared(2).make_slots()
    slots.reserve(1, 8)
    slots.join()
    slots.step([Piece(0, [1, 2, 3], 1)])
    slots.truncate(0, 3)
    with pytest.raises(UsageError, match=r"row 0 cannot go back to 2 of its 3 tokens.*leave and join again"):
        slots.truncate(0, 2)


@torch.no_grad()
def test_nothing_of_a_sequence_is_left_behind() -> None:
    """What it leaves would be undefined for those after it where it was not finite, and another's text in any case."""
    slots = part().build(context()).prepared(2).make_slots()
    slots.reserve(2, 16)
    slots.join(), slots.join()
    slots.step([Piece(0, [1, 2, 3, 4], 1), Piece(1, [5, 6], 1)])
    for layer in slots.layers:
        layer._held[0, :, 1] = torch.nan
    slots.leave(0)
    held = slots.layers[0]._held
    assert held[0, :, :2].abs().sum() > 0
    assert not held[0, :, 2:].any()
    assert not held[1].any()
    slots.leave(0)
    assert not held.any()


@torch.no_grad()
def test_learned_positions_end_somewhere() -> None:
    slots = part(positions=8).build(context()).prepared(1).make_slots()
    slots.reserve(1, 16)
    slots.join()
    slots.step([Piece(0, [1] * 8, 1)])
    with pytest.raises(UsageError, match="9 tokens are more than the 8 positions"):
        slots.step([Piece(0, [1], 1)])
