"""What single tokenizers do beyond the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import assume, given
from hypothesis import strategies as st

from isoflop.core.errors import DataError
from isoflop.data.tokenizers.bpe import BpePart, BytePairs
from isoflop.data.tokenizers.bytes import Bytes
from isoflop.data.tokenizers.file import FilePart, FileTokenizer
from isoflop.data.tokenizing import byte_alphabet, continuation

TEXTS = ["the cat sat on the mat, the dog sat on the log; " * 3] * 5


def bpe(texts: list[str] = TEXTS, **fields: Any) -> BytePairs:
    return BpePart(**fields).build(iter(texts))


def test_bytes_are_utf8() -> None:
    assert Bytes().encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert Bytes().eot == 256


def test_the_byte_alphabet_is_that_of_the_library() -> None:
    assert sorted(byte_alphabet()) == sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    for byte in range(256):
        ((piece, _),) = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
            bytes([byte]).decode("latin-1")
        )
        assert bytes(byte_alphabet()[c] for c in piece) == bytes([byte]).decode("latin-1").encode()


def test_the_most_frequent_pair_is_joined_first() -> None:
    tokenizer = bpe(["aab " * 100], vocab_size=258)
    assert [tokenizer.decode([i]) for i in range(257, 258)] in (["aa"], ["ab"], ["b "], [" a"])
    assert tokenizer.byte_lengths[257] == 2
    assert len(bpe(["abab" * 200], vocab_size=258).encode("abab")) == 2


def test_more_merges_give_shorter_texts() -> None:
    lengths = [len(bpe(vocab_size=size).encode(TEXTS[0])) for size in (257, 270, 300)]
    assert lengths[0] == len(TEXTS[0])
    assert lengths[0] > 1.2 * lengths[1] > 1.2 * lengths[2]


def test_little_text_leaves_ids_unused() -> None:
    tokenizer = bpe(["ab"], vocab_size=1000)
    assert tokenizer.vocab_size == 1000
    assert tokenizer.byte_lengths[900:].sum() == 0
    assert tokenizer.decode([999]) == ""


def test_training_reads_a_bounded_sample() -> None:
    read = []

    def texts() -> Any:
        for number in range(100):
            read.append(number)
            yield "word " * 20

    BpePart(vocab_size=260, sample_bytes=1000).build(texts())
    assert len(read) == 10


def test_no_piece_grows_with_the_text() -> None:
    tokenizer = bpe(["a" * 10_000], vocab_size=400)
    assert tokenizer.byte_lengths.max() <= 33
    ids = tokenizer.encode("a" * 1_000_001)
    assert tokenizer.decode(ids.tolist()) == "a" * 1_000_001
    assert len(tokenizer._known) == 2  # 32 letters, and the one that is left


def saved(tmp_path: Path, tokenizer: hf.Tokenizer) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    return path


def from_file(path: Path, **fields: Any) -> FileTokenizer:
    return FilePart(path=str(path), **fields).build(iter(()))


def with_marks(**normalizer: Any) -> hf.Tokenizer:
    """A BPE with word marks and byte fall-back, as Llama 2 and Gemma have one."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"\u2581": 256, "a": 257, "b": 258, "ab": 259}
    tokenizer = hf.Tokenizer(hf.models.BPE(vocab=vocabulary, merges=[("a", "b")], byte_fallback=True))
    tokenizer.normalizer = hf.normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = hf.decoders.Sequence(
        [hf.decoders.Replace("\u2581", " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def test_a_foreign_tokenizer_with_word_marks(tmp_path: Path) -> None:
    part = FilePart(path=str(saved(tmp_path, with_marks())), eot="</s>")
    tokenizer = part.build(iter(()))
    assert tokenizer.vocab_size == part.vocabulary == 261
    assert tokenizer.eot == 260
    text = "ab ba é</s>"
    ids = tokenizer.encode(text)
    assert tokenizer.eot not in ids
    assert tokenizer.decode(ids.tolist()) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
    assert tokenizer.remarks == []
    estimated = from_file(saved(tmp_path, llama_like()), eot="</s>")
    assert estimated.remarks == ["the text bytes of training are estimates: the tokenizer puts a blank before a text"]


def test_a_tokenizer_that_alters_text_is_refused(tmp_path: Path) -> None:
    bpe().save(tmp_path / "plain.json")
    description = json.loads((tmp_path / "plain.json").read_text())
    description["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "lower.json").write_text(json.dumps(description))
    tokenizer = from_file(tmp_path / "lower.json")
    assert tokenizer.decode(tokenizer.encode("lower case").tolist()) == "lower case"
    with pytest.raises(
        DataError, match="a text that begins 'Upper Case': at character 0 it makes 'upper case' of 'Upper Case'"
    ):
        tokenizer.encode("Upper Case")


def test_a_byte_level_file_without_its_decoder_is_not_taken_for_lossless(tmp_path: Path) -> None:
    description = json.loads(_json(bpe(), tmp_path))
    description["decoder"] = None
    (tmp_path / "undecoded.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="does not give back a text that begins 'two words'"):
        from_file(tmp_path / "undecoded.json").encode("two words")


ALTERATIONS: dict[str, tuple[Callable[[hf.Tokenizer], None], str]] = {
    "added token with rstrip": (lambda t: t.add_tokens([hf.AddedToken("[USER]", rstrip=True)]), "hi [USER]   there"),
    "added token with lstrip": (lambda t: t.add_tokens([hf.AddedToken("[USER]", lstrip=True)]), "hi   [USER] there"),
    "normaliser": (lambda t: setattr(t, "normalizer", hf.normalizers.NFKC()), "the \ufb01rst"),
    "strip": (lambda t: setattr(t, "normalizer", hf.normalizers.Strip()), " begins with a blank"),
    "prefix": (lambda t: setattr(t, "pre_tokenizer", hf.pre_tokenizers.ByteLevel(add_prefix_space=True)), "no blank"),
    "splitting": (
        lambda t: setattr(
            t,
            "pre_tokenizer",
            hf.pre_tokenizers.Sequence([hf.pre_tokenizers.WhitespaceSplit(), hf.pre_tokenizers.ByteLevel(False)]),
        ),
        "two  words",
    ),
    "decoder": (
        lambda t: setattr(t, "decoder", hf.decoders.Sequence([hf.decoders.ByteLevel(), hf.decoders.Strip(" ", 1, 0)])),
        " begins with a blank",
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_no_byte_level_file_that_alters_text_is_taken(tmp_path: Path, alteration: str) -> None:
    """Whatever part of the file does it: what a text comes back as decides, and other texts are taken."""
    change, text = ALTERATIONS[alteration]
    foreign = hf.Tokenizer.from_str(_json(bpe(vocab_size=300), tmp_path))
    assert np.array_equal(from_file(saved(tmp_path, foreign)).encode(text), bpe(vocab_size=300).encode(text))
    change(foreign)
    tokenizer = from_file(saved(tmp_path, foreign))
    with pytest.raises(DataError, match="does not give back") as caught:
        tokenizer.encode_many(["", text])
    assert caught.value.where == str(tmp_path / "tokenizer.json")
    plain = " ." if alteration == "prefix" else "."
    assert tokenizer.decode(tokenizer.encode(plain).tolist()) == plain


def test_a_file_that_drops_merges_at_random_is_refused(tmp_path: Path) -> None:
    description = json.loads(_json(bpe(), tmp_path))
    description["model"]["dropout"] = 0.5
    (tmp_path / "random.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="drops merges at random"):
        from_file(tmp_path / "random.json")


def test_a_unigram_file(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("\u2581", -2.0), ("a", -2.0), ("ab", -3.0), ("b", -2.5)]
    unigram = hf.Tokenizer(hf.models.Unigram(pieces, unk_id=0, byte_fallback=False))
    unigram.normalizer = hf.normalizers.Replace(" ", "\u2581")
    unigram.decoder = hf.decoders.Replace("\u2581", " ")
    unigram.add_special_tokens(["</s>"])
    tokenizer = from_file(saved(tmp_path, unigram), eot="</s>")
    ids = tokenizer.encode("ab a b")
    assert tokenizer.decode(ids.tolist()) == "ab a b"
    assert tokenizer.byte_lengths[ids].sum() == 6
    with pytest.raises(DataError, match="does not give back"):
        tokenizer.encode("xyz")


def test_truncation_and_templates_of_the_file_do_not_act(tmp_path: Path) -> None:
    foreign = hf.Tokenizer.from_str(_json(bpe(vocab_size=300), tmp_path))
    plain = foreign.encode(TEXTS[0]).ids
    foreign.enable_truncation(3)
    foreign.enable_padding(length=500)
    foreign.post_processor = hf.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert np.array_equal(from_file(saved(tmp_path, foreign)).encode(TEXTS[0]), plain)


def test_foreign_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, with_marks())
    with pytest.raises(DataError, match=r"has no special token '</e>'; set tokenizer.eot: did you mean </s>\?"):
        from_file(path, eot="</e>")
    added = with_marks()
    added.add_tokens(["<end>"])
    added.add_special_tokens(["<pad>"])
    for ordinary in ("ab", "<end>"):  # both occur in text
        with pytest.raises(DataError, match=r"has no special token '.*'; set tokenizer.eot: .*legal: </s>, <pad>"):
            from_file(saved(tmp_path, added), eot=ordinary)
    saved(tmp_path, with_marks())
    part = FilePart(path=str(tmp_path / "missing.json"))
    for use in (part.inputs, lambda: part.vocabulary, lambda: part.build(iter(()))):
        with pytest.raises(DataError, match=r"missing.json: cannot be read"):
            use()
    path.write_text("{}")
    with pytest.raises(DataError, match=r"is not a tokenizer.json"):
        from_file(path)


def test_a_changed_file_changes_inputs_and_vocabulary(tmp_path: Path) -> None:
    part = FilePart(path=str(saved(tmp_path, with_marks())), eot="</s>")
    before = part.inputs(), part.vocabulary
    larger = with_marks()
    larger.add_tokens(["more"])
    saved(tmp_path, larger)
    assert part.inputs() != before[0]
    assert part.vocabulary == before[1] + 1


def _json(tokenizer: BytePairs, folder: Path) -> str:
    tokenizer.save(folder / "bpe.json")
    return (folder / "bpe.json").read_text()


MARK = "\u2581"


def llama_like() -> hf.Tokenizer:
    """As Llama 2: a mark is put before the text, the decoder takes a blank off its beginning; bytes are a fall-back."""
    tokenizer = with_marks()
    tokenizer.normalizer = hf.normalizers.Sequence([hf.normalizers.Prepend(MARK), hf.normalizers.Replace(" ", MARK)])
    tokenizer.decoder = hf.decoders.Sequence(
        [hf.decoders.Replace(MARK, " "), hf.decoders.ByteFallback(), hf.decoders.Fuse(), hf.decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def metaspace(prepend: str = "always") -> hf.Tokenizer:
    """A Unigram model behind word marks, as T5 and XLM-R have one."""
    pieces = [("<unk>", 0.0), (MARK, -2.0), *((c, -3.0) for c in "abcé日"), (f"{MARK}a", -2.5), ("bc", -2.5)]
    tokenizer = hf.Tokenizer(hf.models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme=prepend, split=True)
    tokenizer.decoder = hf.decoders.Metaspace(prepend_scheme=prepend)
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


SPEAKERS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda folder: Bytes(),
    "bpe": lambda folder: bpe(["ab cé 日 abc " * 30], vocab_size=280),
    "marks": lambda folder: from_file(saved(folder, with_marks()), eot="</s>"),
    "llama": lambda folder: from_file(saved(folder, llama_like()), eot="</s>"),
    "metaspace": lambda folder: from_file(saved(folder, metaspace()), eot="</s>"),
    "metaspace, never": lambda folder: from_file(saved(folder, metaspace("never")), eot="</s>"),
}
"""Tokenizers whose tokens are not simply pieces of text."""


@pytest.fixture(scope="module", params=SPEAKERS)
def speaker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return SPEAKERS[request.param](tmp_path_factory.mktemp("speaker"))


@given(
    text=st.text("abc é日", min_size=1, max_size=30),
    cut=st.integers(0, 60),
    ends=st.lists(st.integers(0, 60), max_size=3),
)
def test_a_continuation_is_what_the_prompt_and_it_decode_to(speaker: Any, text: str, cut: int, ends: list[int]) -> None:
    """However the ids of a text are parted, and wherever ends of text lie among them."""
    assume(not text.startswith(" "))  # what some of these tokenizers lose, and refuse
    ids = speaker.encode(text).tolist()
    prompt, new = ids[:cut], ids[cut:]
    given_text = speaker.decode(prompt)
    assume(not given_text.endswith("\ufffd"))  # half a character is no prompt
    for place in sorted(ends, reverse=True):
        new.insert(place, speaker.eot)
    pieces = list(continuation(speaker, [speaker.eot, *prompt], new))
    assert given_text + "".join(pieces) == text
    assert all(pieces)
    assert not any("\ufffd" in piece for piece in pieces)


@given(prompt=st.text("abc é", max_size=9), new=st.lists(st.integers(0, 279), max_size=40))
def test_a_continuation_of_any_ids_is_told_alike(prompt: str, new: list[int]) -> None:
    """Bytes that are no character are shown as such, at once or in pieces."""
    for tokenizer in (Bytes(), bpe(["ab cé abc " * 30], vocab_size=280)):
        ids, more = tokenizer.encode(prompt).tolist(), [i % tokenizer.vocab_size for i in new]
        told = "".join(continuation(tokenizer, ids, more))
        assert prompt + told == tokenizer.decode([*ids, *(i for i in more if i != tokenizer.eot)])


def test_the_blank_after_the_prompt_is_kept(tmp_path: Path) -> None:
    for name in ("llama", "metaspace", "bpe"):
        tokenizer = SPEAKERS[name](tmp_path)
        new = tokenizer.encode("ab a b").tolist()[len(tokenizer.encode("ab")) :]
        assert next(continuation(tokenizer, tokenizer.encode("ab").tolist(), new)).startswith(" ")
        assert "".join(continuation(tokenizer, [tokenizer.eot, *tokenizer.encode("ab").tolist()], new)) == " a b"


def test_a_character_is_told_when_it_is_whole() -> None:
    assert list(continuation(Bytes(), [], [*"a日b".encode(), 256, 0xE6])) == ["a", "日", "b", "\ufffd"]


def test_a_long_continuation_is_decoded_piece_by_piece() -> None:
    decoded = []

    class Counting(Bytes):
        def decode(self, ids: Any) -> str:
            decoded.append(len(ids))
            return super().decode(ids)

    assert len("".join(continuation(Counting(), [97] * 5000, [98] * 5000))) == 5000
    assert sum(decoded) < 50_000
    decoded.clear()
    assert len("".join(continuation(Counting(), [], [0x80] * 5000))) == 5000  # never a character
    assert sum(decoded) < 5000 * 150
