"""Fixtures of the models' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from isoflop.core.rng import Rng
from isoflop.models.transformer import Transformer
from transformer_toys import context, part


@pytest.fixture
def build() -> Callable[..., Transformer]:
    """``build(precision="bf16", d_model=..., mixer={...}, ...)``: a live model with 53 ids."""

    def make(precision: str = "fp32", seed: int = 0, **fields: Any) -> Transformer:
        return part(**fields).build(context(precision=precision, rng=Rng(seed)))

    return make
