"""Tokenizers of the tokenizers library, whoever made them: what they share, whatever file they came from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as hf

from ..core.errors import DataError
from ..core.files import write_atomic
from .document import utf8
from .tokenizing import Ids, byte_alphabet, shared_start, unknown_id

MARK = "\u2581"
"""What stands for a blank in the tokens of sentencepiece and its kin."""
ESTIMATES = "the text bytes of training are estimates: the tokenizer {}"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_KEPT = {"ByteLevel", "Metaspace", "Split", "Digits", "Punctuation", "UnicodeScripts", "CharDelimiterSplit"}


class ForeignTokenizer:
    """A tokenizer of the tokenizers library. Special tokens are neither added nor recognised in text.

    ``byte_lengths`` are exact for byte-level tokenizers; for those with word-boundary marks and byte fall-back the mark
    counts as one blank. ``inexact`` says why they are not exact.

    Args:
        tokenizer: the library's object; becomes this one's own.
        eot: the id that ends a text, a special token's.
        path: where it came from, for messages.

    Raises:
        DataError: it drops merges at random.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<|endoftext|>": 2}, "a"))
        >>> tokenizer = ForeignTokenizer(words, eot=2, path=Path("tokenizer.json"))
        >>> tokenizer.encode("b").tolist(), tokenizer.eot
        ([1], 2)
    """

    def __init__(self, tokenizer: hf.Tokenizer, eot: int, path: Path) -> None:
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._path, self.eot = tokenizer, path, eot
        self.vocab_size = size_of(tokenizer)
        description = description_of(tokenizer)
        if description["model"].get("dropout"):
            raise DataError("drops merges at random", where=str(path), fix="set its model.dropout to null")
        self.inexact, self.prefix = inexactness(description), puts_blank(description)
        self.byte_lengths = byte_lengths(tokenizer, description)
        self._byte_level = is_byte_level(description)

    def encode(self, text: str) -> Ids:
        """Ids (tokens,); a lone surrogate is a DataError."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """``encode`` of each text."""
        return ids_of(self._tokenizer, texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without special tokens."""
        if any(not 0 <= i < self.vocab_size for i in ids):
            raise unknown_id(ids, self.vocab_size)
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def bytes_of(self, i: int) -> bytes:
        """See ``tokenizing.HasBytes``; of tokens with marks of blanks as nearly as ``byte_lengths``."""
        token = self._tokenizer.id_to_token(i)
        if token is None or not self.byte_lengths[i]:
            return b""
        if i in self._tokenizer.get_added_tokens_decoder():
            return token.encode()
        if self._byte_level:
            return bytes(byte_alphabet()[character] for character in token)
        if found := _BYTE.fullmatch(token):
            return bytes([int(found[1], 16)])
        return token.replace(MARK, " ").encode()

    def refuse_altered(self, texts: Sequence[str], found: Sequence[Ids]) -> None:
        """DataError if the ids of a text do not give it back."""
        back = self._tokenizer.decode_batch([ids.tolist() for ids in found], skip_special_tokens=True)
        for text, again in zip(texts, back, strict=True):  # the parts of a file do not tell what it does as a whole
            if again != text:
                place = shared_start(text, again)
                raise DataError(
                    f"does not give back a text that begins {text[:40]!r}: at character {place} it makes "
                    f"{again[place : place + 20]!r} of {text[place : place + 20]!r} (a normaliser, an added token, "
                    "unknown characters)",
                    where=str(self._path),
                    fix="choose tokenizer bpe or bytes, or change the text beforehand",
                )

    def save(self, path: Path) -> None:
        """Write it as a ``tokenizer.json``."""
        write_atomic(path, self._tokenizer.to_str(pretty=False))


def ids_of(tokenizer: hf.Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """Ids (tokens,) of each text, nothing added; a lone surrogate is a DataError."""
    for text in texts:
        utf8(text)
    return [np.array(each.ids, np.int64) for each in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def size_of(tokenizer: hf.Tokenizer) -> int:
    """The number of ids a model must know: one more than the largest."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def description_of(tokenizer: hf.Tokenizer) -> dict[str, Any]:
    """What its ``tokenizer.json`` says of it, but for the vocabulary, which takes seconds to write and read."""

    def said(component: Any) -> Any:
        return None if component is None else json.loads(component.__getstate__())

    model, names = tokenizer.model, ("dropout", "byte_fallback", "continuing_subword_prefix")
    settings = {name: getattr(model, name, None) for name in names}
    if isinstance(model, hf.models.Unigram):  # which does not say it
        settings["byte_fallback"] = all(tokenizer.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256))
    return {
        "model": settings,
        "normalizer": said(tokenizer.normalizer),
        "pre_tokenizer": said(tokenizer.pre_tokenizer),
        "post_processor": said(tokenizer.post_processor),
        "added": list(tokenizer.get_added_tokens_decoder().values()),
    }


def special_ids(tokenizer: hf.Tokenizer) -> dict[str, int]:
    """The special tokens, which no text holds, and their ids."""
    return {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def byte_lengths(tokenizer: hf.Tokenizer, description: dict[str, Any]) -> Ids:
    """UTF-8 bytes of the text that each id stands for (vocab_size,); see ``ForeignTokenizer``."""
    added = tokenizer.get_added_tokens_decoder()
    byte_level = is_byte_level(description)
    continuing = description["model"].get("continuing_subword_prefix") or ""
    lengths: Ids = np.zeros(size_of(tokenizer), np.int64)
    for token, i in tokenizer.get_vocab(with_added_tokens=True).items():
        if i in added:
            lengths[i] = 0 if added[i].special else len(token.encode())
        elif byte_level:
            lengths[i] = len(token)
        elif _BYTE.fullmatch(token):
            lengths[i] = 1
        else:
            lengths[i] = len(token.removeprefix(continuing).replace(MARK, " ").encode())
    return lengths


def is_byte_level(description: dict[str, Any]) -> bool:
    """Whether a token's characters stand for bytes, in GPT-2's alphabet."""
    return any(step["type"] == "ByteLevel" for step in steps(description["pre_tokenizer"]))


def puts_blank(description: dict[str, Any]) -> str:
    """That a blank is put before a text, in words; "" if none is."""
    found = [*steps(description["normalizer"]), *steps(description["pre_tokenizer"])]
    puts = any(
        step["type"] == "Prepend"
        or step.get("prepend_scheme", "never") != "never"
        or (step["type"] == "ByteLevel" and step.get("add_prefix_space"))
        for step in found
    )
    return "puts a blank before a text" if puts else ""


def inexactness(description: dict[str, Any]) -> str:
    """Why the bytes of some text are not the sum of its tokens' ``byte_lengths``, in words; "" if they always are."""
    model, kinds = description["model"], [step["type"] for step in steps(description["pre_tokenizer"])]
    reasons = [puts_blank(description)] if puts_blank(description) else []
    for step in steps(description["normalizer"]):
        if step["type"] != "Prepend" and not _marks_blanks(step):
            reasons.append(f"may alter text ({step['type']})")
    if dropped := sorted(set(kinds) - _KEPT):
        reasons.append(f"drops blanks ({', '.join(dropped)})")
    if "ByteLevel" not in kinds and not model.get("byte_fallback"):
        reasons.append("has one token for all characters that it does not know")
    if any(token.lstrip or token.rstrip for token in description["added"] if not token.special):
        reasons.append("has tokens that take the blanks beside them")
    return "; ".join(dict.fromkeys(reasons))


def steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The single steps of a normaliser, pre-tokenizer or decoder as ``tokenizer.json`` describes it."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        inner = next(step[key] for key in ("normalizers", "pretokenizers", "decoders", "processors") if key in step)
        return [each for one in inner for each in steps(one)]
    return [step]


def following(tokenizer: hf.Tokenizer) -> hf.Tokenizer:
    """The same tokenizer for text that follows another: it puts no blank before it, and strips none off its front.

    It is the tokenizer itself, if that does so for no text.
    """
    known = description_of(tokenizer)
    changes = {key: _following(known[key]) for key in ("normalizer", "pre_tokenizer")}
    if all(known[key] == value for key, value in changes.items()):
        return tokenizer
    description = {**json.loads(tokenizer.to_str()), **changes}
    other = hf.Tokenizer.from_str(json.dumps(description))
    other.encode_special_tokens = tokenizer.encode_special_tokens
    return other


def _following(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None or step["type"] == "Prepend":
        return None
    changes: dict[str, dict[str, Any]] = {
        "Metaspace": {"prepend_scheme": "never"},
        "ByteLevel": {"add_prefix_space": False},
    }
    changes["Strip"] = {"strip_left": False}
    step = {**step, **changes.get(step["type"], {})}
    for key in ("normalizers", "pretokenizers"):
        if step["type"] == "Sequence" and key in step:
            step[key] = [kept for inner in step[key] if (kept := _following(inner)) is not None]
    return step


def _marks_blanks(step: dict[str, Any]) -> bool:
    return bool(step["type"] == "Replace") and bool(step["pattern"] == {"String": " "} and step["content"] == MARK)
