"""Small Transformers to test with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isoflop.core.context import Context
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.models.architectures.transformer import TransformerPart

VOCAB = 53


def context(**changes: Any) -> Context:
    tokenizer = get("tokenizer", "bytes")()
    base = Context(rng=Rng(0), cache=Path(), tokenizer=tokenizer, vocab_size=VOCAB, batch=2, length=16)  # type: ignore[arg-type]
    return base.having(**changes)


def part(**fields: Any) -> TransformerPart:
    mixer = {"name": "attention", **fields.pop("mixer", {"heads": 4})}
    return TransformerPart.model_validate({"d_model": 32, "layers": 2, "mixer": mixer, **fields})
