"""The Transformer nearest to a number of parameters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.core.errors import UsageError
from isoflop.core.roles import numel
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.sizing import sized


@settings(max_examples=25, deadline=None)
@given(size=st.floats(1e7, 3e10), vocab=st.sampled_from([257, 4096, 32768]), tied=st.booleans())
def test_counts_are_near_and_shapes_keep_the_rule(size: float, vocab: int, tied: bool) -> None:
    part = sized(TransformerPart(tied=tied), size, vocab)
    assert abs(numel(part.shapes(vocab)) / size - 1) < 0.06
    assert part.tied == tied
    assert part.layers <= 2 or 64 <= part.d_model / part.layers <= 128
    assert part.d_model % part.mixer.heads == 0  # type: ignore[union-attr]
    assert part.d_model // part.mixer.heads in (16, 64, 128)  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [2e6, 3e7, 1e9])
def test_no_other_depth_of_that_width_is_nearer(size: float) -> None:
    part = sized(TransformerPart(), size, 4096)
    off = abs(numel(part.shapes(4096)) - size)
    for layers in (part.layers - 1, part.layers + 1):
        if layers >= 1 and 64 <= part.d_model / layers <= 128:
            assert off <= abs(numel(part.model_copy(update={"layers": layers}).shapes(4096)) - size)


def test_lists_of_layers_and_switches_stay() -> None:
    part = TransformerPart(mixer=["attention", {"name": "attention", "qk_norm": True}], feed_forward="gelu", layers=2)
    made = sized(part, 5e7, 4096)
    assert [mixer.qk_norm for mixer in made.mixer] == [mixer.qk_norm for mixer in part.mixer]  # type: ignore[union-attr]
    assert made.feed_forward.name == "gelu"  # type: ignore[union-attr]
    assert abs(numel(made.shapes(4096)) / 5e7 - 1) < 0.06


def test_a_vocabulary_that_is_larger_than_the_model_is_refused() -> None:
    with pytest.raises(UsageError, match="smaller vocabulary"):
        sized(TransformerPart(), 1e5, 32768)
