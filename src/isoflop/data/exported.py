"""Any tokenizer as the files that transformers reads: ``tokenizer.json`` and its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers as hf

from ..core.contracts import TOKENIZER, Storable, Tokenizer
from ..core.errors import UsageError
from ..core.files import write_atomic, write_json
from .tokenizer_directory import CONFIG
from .tokenizers.bytes import Bytes
from .tokenizing import byte_alphabet

END = "<|endoftext|>"
"""The end of a text where a tokenizer has no word for it."""


def write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write a tokenizer's files into a directory that exists.

    Models of ours have seen the end of a text before each text, so that is what texts begin with where the tokenizer
    itself says nothing else.

    Raises:
        UsageError: it has no such form.
    """
    path = directory / TOKENIZER
    if isinstance(tokenizer, Bytes):
        write_atomic(path, _bytes().to_str(pretty=False))
    elif isinstance(tokenizer, Storable):
        tokenizer.save(path)
    else:
        raise UsageError(f"a tokenizer of the kind {type(tokenizer).__name__} has no {TOKENIZER}")
    if (directory / CONFIG).exists():  # a published tokenizer brings its own
        return
    written = hf.Tokenizer.from_file(str(path))
    end = written.id_to_token(tokenizer.eot)
    if json.loads(written.to_str())["post_processor"] is None:
        template = hf.processors.TemplateProcessing(single=f"{end} $A", special_tokens=[(end, tokenizer.eot)])
        written.post_processor = template
        write_atomic(path, written.to_str(pretty=False))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end}
    write_json(directory / CONFIG, {**config, "clean_up_tokenization_spaces": False})


def _bytes() -> hf.Tokenizer:
    """Byte-level pairs without a single pair: id i is byte i, 256 ends a text."""
    made = hf.Tokenizer(hf.models.BPE(vocab=byte_alphabet(), merges=[]))
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = hf.decoders.ByteLevel()
    made.add_special_tokens([END])
    return made
