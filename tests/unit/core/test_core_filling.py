"""The conventions of models that fill in what is hidden."""

from __future__ import annotations

from typing import Any

import torch

from isoflop.core.contracts import Documents, Filling
from isoflop.core.registry import get
from isoflop.models.patterns.full import FullPattern


def telling(tokens: torch.Tensor, seen: Any) -> torch.Tensor:
    """Logits (batch, length, 6) that say where they stand."""
    return torch.arange(tokens.shape[1]).float()[None, :, None].expand(len(tokens), -1, 6)


def test_the_mask_is_never_predicted_and_neither_is_what_lies_behind_the_text() -> None:
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    logits = Filling(mask=2, ids=5, pattern=FullPattern()).logits(telling, tokens)
    assert logits.shape == (1, 4, 5)
    assert logits[0, :, 2].tolist() == [-torch.inf] * 4
    assert Filling(mask=5, ids=5, pattern=FullPattern()).logits(telling, tokens).isfinite().all()


def test_a_shifted_model_is_read_one_position_before() -> None:
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    logits = Filling(mask=5, ids=5, pattern=FullPattern(), shifted=True).logits(telling, tokens)
    assert logits[0, 1:, 0].tolist() == [0, 1, 2]


def test_padding_is_a_document_by_itself() -> None:
    seen = Filling(mask=5, ids=5, pattern=FullPattern()).seen(torch.tensor([[0, 0, 1]]))
    assert isinstance(seen, Documents)
    assert isinstance(seen.pattern, FullPattern)


def test_an_objective_says_what_its_models_obey() -> None:
    masked: Any = get("objective", "masked")()
    assert masked.filling(258) == Filling(mask=257, ids=257, pattern=FullPattern())
    assert get("objective", "next_token")().filling(258) is None  # type: ignore[attr-defined]
