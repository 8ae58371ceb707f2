"""Directories of tokenizers as published models have them, small and made here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers as hf

from isoflop.data.foreign import MARK

TEXTS = ("the cat sat on the mat", "a naïve café", "12 dogs, 3 logs\n\n", "Quick! über", "  two  blanks ")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GENERATION = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Templates: as many families have it, the same with answers marked, as Llama 2 and Mistral have it."""


def directory(folder: Path, tokenizer: hf.Tokenizer, **config: Any) -> Path:
    """Write a tokenizer and its configuration into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    return folder


def byte_pairs(texts: Iterable[str], ids: int, special: Sequence[str], splitter: Any = None) -> hf.Tokenizer:
    """Trained on texts, as GPT-2's; of every byte, and of at most ``ids`` ids, the special ones first."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = splitter or hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=ids,
        special_tokens=list(special),
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_level() -> hf.Tokenizer:
    """As GPT-2, Llama 3, Qwen, SmolLM."""
    tokenizer = byte_pairs(TEXTS * 20, 300, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([hf.AddedToken("<think>", normalized=False)])
    return tokenizer


def unigram() -> hf.Tokenizer:
    """As T5 and XLM-R, with byte fall-back as Gemma."""
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    pieces += [(piece, -float(3 + len(piece) % 3)) for piece in (MARK, *"abcdehmnostu", f"{MARK}the", "at", f"{MARK}c")]
    tokenizer = hf.Tokenizer(hf.models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = hf.normalizers.Replace(" ", MARK)
    tokenizer.decoder = hf.decoders.Sequence(
        [hf.decoders.Replace(MARK, " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = hf.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def llama() -> hf.Tokenizer:
    """As Llama 2: BPE behind word marks, one of them before every text, with byte fall-back."""
    marks = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    pieces = [*marks, MARK, *"abcdehmnost", "at", f"{MARK}t", "he", f"{MARK}the", f"{MARK}c", f"{MARK}cat"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{piece: 3 + i for i, piece in enumerate(pieces)}}
    merges = [("a", "t"), (MARK, "t"), ("h", "e"), (f"{MARK}t", "he"), (MARK, "c"), (f"{MARK}c", "at")]
    model = hf.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = hf.Tokenizer(model)
    tokenizer.normalizer = hf.normalizers.Sequence([hf.normalizers.Prepend(MARK), hf.normalizers.Replace(" ", MARK)])
    fused = [hf.decoders.Replace(MARK, " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    tokenizer.decoder = hf.decoders.Sequence([*fused, hf.decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = hf.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def word_piece() -> hf.Tokenizer:
    """As BERT, uncased."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz,!0123456789"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"] + ["the", "cat", "##at", "mat"]
    tokenizer = hf.Tokenizer(hf.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = hf.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = hf.decoders.WordPiece()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.post_processor = hf.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


KINDS: dict[str, tuple[Callable[[], hf.Tokenizer], dict[str, Any]]] = {
    "byte level": (byte_level, {"eos_token": "<|endoftext|>", "chat_template": CHATML}),
    "unigram": (unigram, {"bos_token": "<s>", "eos_token": "</s>"}),
    "word piece": (word_piece, {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}),
}
"""Name -> tokenizer and configuration."""


def kind(name: str, folder: Path, **config: Any) -> Path:
    """The directory of one of ``KINDS``."""
    make, own = KINDS[name]
    return directory(folder, make(), **{**own, **config})
