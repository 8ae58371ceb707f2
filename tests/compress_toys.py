"""Small models with random weights, and random text to watch them on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isoflop.core.contracts import Pattern, PlainModel, TransformPart
from isoflop.core.cost import Cost
from isoflop.core.slots import resolve
from transformer_toys import VOCAB, context, part

IDS = torch.arange(24).view(2, 12) % VOCAB
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tied": True, "positions": 16, "norm": "layer"},
    "grouped": {"mixer": {"heads": 4, "kv_heads": 2, "qk_norm": True, "bias": True, "out_bias": True}},
    "whole": {"mixer": {"heads": 4, "qk_norm": True, "qk_norm_whole": True}, "arrangement": "sandwich"},
    "several": {"layers": 4, "feed_forward": ["swiglu", {"name": "gelu", "hidden": 24, "bias": True}]},
}


def plain(kind: str = "plain", **fields: Any) -> PlainModel:
    """A model of a kind, its gains and biases drawn as well."""
    made = part(**{**KINDS[kind], **fields})
    live = made.build(context())
    draw = torch.Generator().manual_seed(5)
    for parameter in live.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn(parameter.shape, generator=draw) / 4
    return PlainModel(made, VOCAB, live.state_dict())


def logits(model: PlainModel) -> Tensor:
    with torch.no_grad():
        return Text().live(model)(IDS)


class Text:
    """Random ids; some of them come more often than others."""

    pattern: Pattern | None = None

    def __init__(self) -> None:
        self.spent = Cost()

    def tokens(self, windows: int, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return (torch.rand(windows, 12, generator=draw) ** 2 * VOCAB).long()

    def live(self, model: PlainModel) -> torch.nn.Module:
        live = model.part.build(context())
        live.load_state_dict(dict(model.tensors))
        return live.eval()

    def charge(self, cost: Cost) -> None:
        self.spent += cost


def transform(name: str, **fields: Any) -> TransformPart:
    made = resolve("transform", {"name": name, **fields})
    assert isinstance(made, TransformPart)
    return made
