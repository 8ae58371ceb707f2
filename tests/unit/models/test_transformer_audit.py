"""The work by formula equals the executed operations to the integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from isoflop.ledger.audit import Audit
from isoflop.models.transformer import Transformer
from isoflop.objectives.linear_cross_entropy import linear_cross_entropy
from transformer_toys import VOCAB, part

SHAPES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "swiglu_untied": (2, 64, {}),
    "grouped_tied": (3, 37, {"mixer": {"heads": 4, "kv_heads": 2}, "tied": True}),
    "one_kv_head_qk_norm": (1, 129, {"mixer": {"heads": 4, "kv_heads": 1, "qk_norm": True}, "feed_forward": "gelu"}),
    "gelu_odd_width": (2, 65, {"d_model": 30, "mixer": {"heads": 3}, "feed_forward": "gelu"}),
    "squared_relu_blocks_of_128": (1, 301, {"feed_forward": {"name": "squared_relu", "hidden": 70}, "layers": 3}),
    "free_head_dim": (5, 1, {"mixer": {"heads": 2, "head_dim": 22}, "feed_forward": {"name": "swiglu", "hidden": 44}}),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_work_equals_the_audit(build: Callable[..., Transformer], shape: str, precision: str) -> None:
    batch, length, fields = SHAPES[shape]
    model = build(precision, **fields)
    work = part(**fields).work(batch, length, VOCAB)
    assert model.flops(batch, length) == work
    tokens = torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))
    with Audit() as forward, torch.no_grad():
        linear_cross_entropy(model.hidden(tokens), model.head, tokens)
    with Audit() as both:
        linear_cross_entropy(model.hidden(tokens), model.head, tokens).backward()  # type: ignore[no-untyped-call]
    assert forward.total() == work.forward.executed
    assert both.total() == work.total.executed
    assert work.backward.flops == 2 * work.forward.flops
    assert work.total.flops <= work.total.executed


def test_work_in_plain_numbers() -> None:
    """One layer written out by hand: 4 projections, SwiGLU, causal pairs, head."""
    work = part(layers=1, d_model=8, mixer={"heads": 2}, feed_forward={"name": "swiglu", "hidden": 16}).work(3, 5, 11)
    weights = 4 * 8 * 8 + 3 * 8 * 16 + 8 * 11
    pairs = 15  # 5 * 6 / 2
    assert work.forward.flops == 2 * 15 * weights + 3 * 2 * 2 * (2 * pairs * 4)
    assert work.forward.executed == 2 * 15 * weights + 3 * 2 * 2 * (2 * 25 * 4)
    assert work.recompute.flops == work.recompute.executed == 0
