"""What every part of the slot tokenizer must do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.context import Context
from isoflop.core.contracts import LoadsTokenizer, Storable, Tokenizer, TokenizerPart
from isoflop.core.errors import DataError
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.data.tokenizing import encode_many

TEXTS = ["The quick brown fox jumps over the lazy dog. ", "def f(x):\n    return x + 1\n", "naïve « 日本語 𝄞\t"] * 20


def trained(folder: Path) -> Path:
    """A tokenizer.json to read."""
    path = folder / "tokenizer.json"
    part = get("tokenizer", "bpe")(vocab_size=400)
    part.build(iter(TEXTS)).save(path)  # type: ignore[attr-defined]
    return path


# A new part: one row. Name -> the fields of an example, given a folder for its files.
EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "bytes": lambda folder: {},
    "bpe": lambda folder: {"vocab_size": 512},
    "pretrained": lambda folder: {"path": str(trained(folder).parent), "eot": "<|endoftext|>"},
    "file": lambda folder: {"path": str(trained(folder))},
}


PARTIAL = {"symbols"}
"""Those that encode texts over an alphabet of their own, and no others."""


@pytest.fixture(scope="module", params=[name for name in names("tokenizer") if name not in PARTIAL])
def part(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenizerPart:
    fields = EXAMPLES[request.param](tmp_path_factory.mktemp("tokenizer"))
    made = get("tokenizer", request.param).model_validate(fields)
    assert isinstance(made, TokenizerPart)
    return made


@pytest.fixture(scope="module")
def live(part: TokenizerPart) -> Tokenizer:
    return part.build(iter(TEXTS))


def context(part: TokenizerPart) -> Context:
    return Context(Rng(0), Path("unused"), part, part.vocabulary, batch=1, length=1)


def test_it_fulfils_its_contract(part: TokenizerPart, live: Tokenizer) -> None:
    assert part.card.summary
    assert isinstance(live, Tokenizer)
    assert live.vocab_size == part.vocabulary
    assert 0 <= live.eot < live.vocab_size
    assert live.byte_lengths.shape == (live.vocab_size,)
    assert live.byte_lengths.dtype == np.int64
    assert live.byte_lengths[live.eot] == 0
    ids = live.encode(TEXTS[0])
    assert ids.dtype == np.int64
    assert ids.ndim == 1


@given(text=st.text())
def test_any_text_comes_back_and_its_bytes_are_counted(live: Tokenizer, text: str) -> None:
    ids = live.encode(text)
    assert live.decode(ids.tolist()) == text
    assert live.byte_lengths[ids].sum() == len(text.encode())
    assert live.eot not in ids
    assert (ids < live.vocab_size).all()


@given(text=st.text("aé \n\t\r\x0b\x1c\x85\u2028<|>endoftx019_\0\x7f"))
def test_so_do_odd_blanks_and_what_looks_like_the_end_of_text(live: Tokenizer, text: str) -> None:
    assert live.decode(live.encode(text).tolist()) == text


def test_the_end_of_text_is_no_text(live: Tokenizer) -> None:
    ids = live.encode("before<|endoftext|>after")
    assert live.eot not in ids
    assert live.decode(ids.tolist()) == "before<|endoftext|>after"
    assert live.decode([live.eot]) == ""
    both = [*live.encode("a").tolist(), live.eot, *live.encode("b").tolist()]
    assert live.decode(both) == "ab"


def test_many_texts_are_encoded_like_one(live: Tokenizer) -> None:
    for text, ids in zip(TEXTS, encode_many(live, TEXTS), strict=True):
        assert np.array_equal(ids, live.encode(text))
    assert encode_many(live, []) == []
    assert len(live.encode("")) == 0


def test_lone_surrogates_are_refused(live: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"lone surrogate U\+DC80 at character 2"):
        live.encode("ab\udc80")


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_unknown_ids_are_refused(live: Tokenizer, wrong: int) -> None:
    with pytest.raises(DataError, match=f"id {wrong} is not in"):
        live.decode([0, wrong])


def test_a_character_cut_in_two_is_shown_as_such(live: Tokenizer) -> None:
    ids = live.encode("\U000e0001")  # four bytes that no merge joins
    assert len(ids) > 1
    assert "\ufffd" in live.decode(ids[:-1].tolist())


def test_training_is_deterministic_and_kept(part: TokenizerPart, live: Tokenizer, tmp_path: Path) -> None:
    again = part.build(iter(TEXTS))
    assert np.array_equal(again.byte_lengths, live.byte_lengths)
    assert isinstance(part, LoadsTokenizer) == isinstance(live, Storable)
    if isinstance(part, LoadsTokenizer):
        assert isinstance(live, Storable)
        assert isinstance(again, Storable)
        for tokenizer, name in ((live, "a"), (again, "b")):
            tokenizer.save(tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        again = part.load(tmp_path / "a")
    for text in TEXTS[:3]:
        assert np.array_equal(again.encode(text), live.encode(text))


def test_its_file_means_the_same_to_the_library(live: Tokenizer, tmp_path: Path) -> None:
    """What a corpus stores can be given to other programs: whole texts, split by the library's own engine."""
    if not isinstance(live, Storable):
        pytest.skip("nothing is stored")
    live.save(tmp_path / "t.json")
    foreign = hf.Tokenizer.from_file(str(tmp_path / "t.json"))
    generator = np.random.default_rng(0)
    characters = [*"aZé09 \n\t\r_.(-", "日", "\x1c", "\x85", "\u2028", "\0", "\x7f", "𝄞"]
    for _ in range(300):
        text = "".join(generator.choice(characters, 60)) + "a" * 70 + " " * 40
        assert foreign.encode(text).ids == live.encode(text).tolist()
    assert foreign.token_to_id("<|endoftext|>") == live.eot
