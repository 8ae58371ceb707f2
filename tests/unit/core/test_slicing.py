"""Cutting models along their axes: against the plain reading of each axis, and what cannot be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress_toys import KINDS, logits, plain
from isoflop.core.contracts import LAYER, PlainModel
from isoflop.core.errors import UsageError
from isoflop.core.registry import get, names
from transformer_toys import VOCAB, context, part


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_do_nothing_can_go(kind: str) -> None:
    """Hidden units, heads and whole layers whose output is nothing: without them the logits are the same."""
    model = plain(kind)
    tensors = {name: tensor.clone() for name, tensor in model.tensors.items()}
    heads = model.units()["blocks.1.mixer.heads"]
    tensors["blocks.1.feed_forward.down.weight"][:, 5:9] = 0
    out = tensors["blocks.1.mixer.out.weight"].view(32, heads, -1)
    out[:, [1, 3]] = 0
    tensors["blocks.0.mixer.out.weight"].zero_()
    tensors["blocks.0.feed_forward.down.weight"].zero_()
    for bias in ("mixer.out", "feed_forward.down"):
        tensors.get(f"blocks.0.{bias}.bias", torch.ones(1)).zero_()
    made = PlainModel(model.part, VOCAB, tensors)
    hidden = model.units()["blocks.1.feed_forward.hidden"]
    kept: dict[str, Any] = {LAYER: range(1, model.units()[LAYER])}
    kept["blocks.1.feed_forward.hidden"] = [i for i in range(hidden) if not 5 <= i < 9]
    if kind != "whole":  # a norm of all heads together sees each of them
        kept["blocks.1.mixer.heads"] = [0, 2]
        if model.units()["blocks.1.mixer.kv_heads"] == heads:
            kept["blocks.1.mixer.kv_heads"] = [0, 2]
    cut = made.cut(kept)
    assert cut.units()["blocks.0.feed_forward.hidden"] == hidden - 4
    torch.testing.assert_close(logits(cut), logits(made), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_model_is_one_whose_other_channels_are_always_zero(kind: str) -> None:
    """Zero rows and columns everywhere: what is left differs by the norms' divisor alone, which gains make good."""
    model = plain(kind)
    tensors = {name: tensor.clone() for name, tensor in model.tensors.items()}
    for shape in model.shapes():
        for dim, axis in enumerate(shape.axes):
            if axis.name == "width":
                tensors[shape.name].index_fill_(dim, torch.arange(1, 32, 2), 0)
    wide, cut = PlainModel(model.part, VOCAB, tensors), model.cut({"width": range(0, 32, 2)})
    assert cut.units()["width"] == 16
    assert cut.part.d_model == 16  # type: ignore[attr-defined]
    assert cut.part.embedding_scale == (32**0.5 if kind == "tied" else None)  # type: ignore[attr-defined]
    if kind != "tied":  # LayerNorm's mean is another one
        gains = {name for name, tensor in cut.tensors.items() if name.endswith("norm.weight") and len(tensor) == 16}
        scaled = {name: tensor * 2**0.5 if name in gains else tensor for name, tensor in cut.tensors.items()}
        narrow = PlainModel(cut.part.model_copy(update={"norm_eps": 2e-5}), VOCAB, scaled)
        torch.testing.assert_close(logits(narrow), logits(wide), rtol=1e-4, atol=1e-4)


def test_what_repeats_still_repeats() -> None:
    cut = plain("several").cut({LAYER: [0, 1, 2]})
    assert len(cut.part.feed_forward) == 2  # type: ignore[attr-defined]
    assert plain("several").cut({LAYER: [1, 3]}).part.feed_forward.name == "gelu"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"blocks.0.mixer.head": [0]}, "blocks.0.mixer.heads"),
        ({"blocks.0.mixer.heads": []}, "nothing is left"),
        ({"blocks.0.feed_forward.hidden": [1, 0]}, "in order"),
        ({"blocks.0.feed_forward.hidden": [96]}, "0 to 95"),
        ({"blocks.0.mixer.heads": [0, 1, 2]}, "as many of each group"),
        ({"blocks.0.mixer.heads": [0, 1]}, "as many of each group"),
        ({"blocks.0.mixer.kv_heads": [0]}, "as many of each group"),
        ({"vocabulary": [0, 1]}, "would not fit"),
    ],
)
def test_what_cannot_be_cut_is_refused(kept: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plain("grouped").cut(kept)


@pytest.mark.parametrize(("slot", "name"), [(slot, name) for slot in ("mixer", "feed_forward") for name in names(slot)])
def test_every_layer_is_cut_to_a_model_that_computes_or_refuses(slot: str, name: str) -> None:
    """Along the width, and along each axis of its own: never a model whose weights do not fit."""
    sizes = {"heads": 4} if "heads" in get(slot, name).model_fields else {}
    made = part(**{"mixer": {"heads": 4}, slot: {"name": name, **sizes}})
    live = made.build(context())
    model = PlainModel(made, VOCAB, live.state_dict()).joined()
    own = [axis for axis in model.units() if axis.startswith(f"blocks.1.{slot}.") and not axis.endswith("kv_heads")]
    refusals = []
    for axis in ["width", LAYER, *own]:
        try:
            cut = model.cut({axis: range(model.units()[axis] // 2)})
        except UsageError as refused:
            refusals.append(str(refused))
            continue
        assert logits(cut).shape == (2, 12, VOCAB)
    assert all("be cut" in refusal or "as many of each group" in refusal for refusal in refusals)
