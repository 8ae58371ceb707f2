"""Objectives to test with, those included that say nothing by default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from isoflop.core.context import Context
from isoflop.core.contracts import ObjectivePart, SourcePart, TokenBatch
from isoflop.core.slots import resolve
from transformer_toys import VOCAB

FIELDS: dict[str, dict[str, Any]] = {
    "weighted": {"terms": [{"objective": "next_token"}, {"objective": "distill", "weight": 0.5}]},
    "flexmdm": {"times": 1},
    "ewc": {"source": {"name": "hmm", "text_bytes": 20000}, "windows": 3},
}
"""Fields of parts that cannot be built by default on a small model's ids."""
MODELS = ("teacher",)
"""Names under which parts may find other models in their context."""


class FewIds(SourcePart):
    """Windows of random ids of a small model's vocabulary, one document after another."""

    ids: int = VOCAB
    name = "few_ids"

    def build(self, ctx: Context) -> Any:
        return self

    def batches(self, ctx: Context) -> Iterator[TokenBatch]:
        draw = torch.Generator().manual_seed(2)
        while True:
            ids = torch.randint(0, self.ids, (ctx.batch, ctx.length + 1), generator=draw)
            yield TokenBatch(ids[:, :-1], ids[:, 1:], text_bytes=ctx.length)


def objective_of(name: str) -> ObjectivePart:
    """The part, on ids of a small model where it reads text of its own."""
    made: Any = resolve("objective", {"name": name, **FIELDS.get(name, {})})
    return made.model_copy(update={"source": FewIds()} if "source" in type(made).model_fields else {})  # type: ignore[no-any-return]
