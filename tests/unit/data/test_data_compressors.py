"""xz beside the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.core.context import Context
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.data.compressors import compressed_bits_per_byte
from isoflop.data.corpus import Corpus
from isoflop.data.document import Document, group_of
from isoflop.data.making import prepare


def corpus(path: Path, count: int) -> Corpus:
    """Lines of 2 ** 20 equally likely texts: 20 bits in 100 bytes, the rest is the same everywhere."""
    part = get("tokenizer", "bytes")()
    draws = Rng(0)("x").at().integers(0, 2**20, count)
    documents = [Document(f"{n:06x}{n * 7919 % 2**20:06x}" * 8, "a", "", group_of(str(n))) for n in draws.tolist()]
    ctx = Context(Rng(0), path, part, 257, batch=1, length=8)  # type: ignore[arg-type]
    return prepare(documents, part, ctx, heldout_share=0.3)  # type: ignore[arg-type]


def test_text_alone_and_given_training_text(tmp_path: Path) -> None:
    found = compressed_bits_per_byte(corpus(tmp_path, 300))
    assert set(found) == {"xz", "xz given training text"}
    assert found["xz given training text"] < found["xz"]
    assert 0.3 < found["xz"] < 1.5  # at least 20 bits in 96 bytes; hexadecimal digits are worth 4 bits


def test_given_the_same_text_nothing_is_left_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = corpus(tmp_path, 300)
    monkeypatch.setattr(known, "train_text", known.heldout_text)
    given = compressed_bits_per_byte(known)
    name = next(key for key in given if key != "xz")
    assert given[name] < 0.1 * given["xz"]


def test_a_sample_of_the_training_text_is_called_one(tmp_path: Path) -> None:
    found = compressed_bits_per_byte(corpus(tmp_path, 300), training_bytes=5000)
    assert "xz given 0.0 MB of training text" in found
