"""Models of sentencepiece (Kudo and Richardson 2018) as tokenizers of the tokenizers library.

Pieces, scores and normaliser are taken over as they are. In a BPE model, which has scores instead of merges, each way
to part a piece into two others is a merge of that piece's rank. A user-defined symbol parts a text, whose parts are
normalised each by itself: blanks beside such a symbol may fall differently from sentencepiece's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers as hf

from ..core.errors import DataError, UsageError
from ..core.reading import read_bytes
from .foreign import MARK

_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_NAMES = {"unk": "unk_token", "bos": "bos_token", "eos": "eos_token", "pad": "pad_token"}


def from_sentencepiece(path: Path, *, legacy: bool = False) -> tuple[hf.Tokenizer, dict[str, str]]:
    """The tokenizer of a ``tokenizer.model``, and its special tokens by transformers' keys ("bos_token").

    Args:
        path: the model's file.
        legacy: whether a blank is put before every piece between special tokens, not only before the first.

    Raises:
        UsageError: the package sentencepiece is missing.
        DataError: the file is no such model, or of a kind that has no counterpart (words, characters).
    """
    proto = _parsed(path)
    kind, fallback = proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback
    pieces = list(proto.pieces)
    model: Any
    if kind == _UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in pieces]
        model = hf.models.Unigram(scores, unk_id=_unknown(pieces), byte_fallback=fallback)
    elif kind == _BPE:
        vocabulary = {piece.piece: i for i, piece in enumerate(pieces)}
        unknown = pieces[_unknown(pieces)].piece
        merges = _merges(pieces)
        model = hf.models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    else:
        fix = "choose tokenizer bpe or bytes"
        raise DataError("is neither a unigram nor a BPE model", where=str(path), fix=fix)
    tokenizer = hf.Tokenizer(model)
    _set_steps(tokenizer, proto.normalizer_spec, legacy)
    for special in (True, False):
        wanted = [piece.piece for piece in pieces if piece.type in ((_CONTROL, _UNKNOWN) if special else (_USER,))]
        tokens = [hf.AddedToken(token, normalized=False, special=special) for token in wanted]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(tokens)
    spec = proto.trainer_spec
    ids = {key: getattr(spec, f"{name}_id") for name, key in _NAMES.items()}
    return tokenizer, {key: pieces[i].piece for key, i in ids.items() if 0 <= i < len(pieces)}


def _parsed(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2 as schema
    except ImportError as error:
        fix = "pip install 'isoflop[hf]', or give a tokenizer.json"
        raise UsageError("is read by the packages sentencepiece and protobuf", where=str(path), fix=fix) from error
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(read_bytes(path))
    except DecodeError as error:
        raise DataError(f"is no sentencepiece model ({error})", where=str(path)) from error
    if not proto.pieces or all(piece.type != _UNKNOWN for piece in proto.pieces):
        raise DataError("is no sentencepiece model (it has no unknown piece)", where=str(path))
    return proto


def _unknown(pieces: list[Any]) -> int:
    return next(i for i, piece in enumerate(pieces) if piece.type == _UNKNOWN)


def _merges(pieces: list[Any]) -> list[tuple[str, str]]:
    """Pairs of pieces that join to a third, the best first: by its score, then by where the pair lies."""
    usable = {piece.piece: i for i, piece in enumerate(pieces) if piece.type in (_NORMAL, _UNUSED)}
    found = []
    for text, i in usable.items():
        for border in range(1, len(text)):
            left, right = text[:border], text[border:]
            if left in usable and right in usable:
                found.append((-pieces[i].score, usable[left], usable[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _set_steps(tokenizer: hf.Tokenizer, spec: Any, legacy: bool) -> None:
    """Normaliser, pre-tokenizer and decoder."""
    normalizers: list[Any] = []
    if spec.precompiled_charsmap:
        normalizers.append(hf.normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        normalizers += [hf.normalizers.Strip(), hf.normalizers.Replace(hf.Regex(" {2,}"), " ")]
    whole = legacy or spec.remove_extra_whitespaces  # behind what was stripped, Metaspace sees no beginning
    if spec.add_dummy_prefix and whole:
        normalizers.append(hf.normalizers.Prepend(MARK))
    decoders: list[Any] = [hf.decoders.Replace(MARK, " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    prefix = "first" if spec.add_dummy_prefix and not whole else "never"
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Metaspace(MARK, prepend_scheme=prefix, split=False)
    if spec.add_dummy_prefix:
        decoders.append(hf.decoders.Strip(" ", 1, 0))
    if normalizers:
        tokenizer.normalizer = hf.normalizers.Sequence(normalizers)
    tokenizer.decoder = hf.decoders.Sequence(decoders)
