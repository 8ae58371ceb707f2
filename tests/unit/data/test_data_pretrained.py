"""A published model's tokenizer as its directory means it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf

from isoflop.core.errors import DataError, UsageError
from isoflop.data.tokenizers.pretrained import PretrainedPart, PretrainedTokenizer
from tokenizer_toys import CHATML, byte_level, directory, kind, unigram


def opened(path: Path, **fields: Any) -> PretrainedTokenizer:
    return PretrainedPart(path=str(path), **fields).build(iter(()))


def test_the_files_of_a_directory_say_what_ends_and_begins_a_text(tmp_path: Path) -> None:
    plain = opened(kind("byte level", tmp_path / "gpt"))
    assert (plain.eot, plain.starts, plain.chat_template) == (0, (), CHATML)
    marked = opened(kind("unigram", tmp_path / "llama"))
    assert marked.decode([marked.eot]) == ""
    assert marked.starts == (marked._tokenizer.token_to_id("<s>"),)
    assert marked.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


ENDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a table": ({"eos_token": {"content": "<|im_end|>", "lstrip": False}}, {}),
    "special_tokens_map.json": ({}, {"special_tokens_map.json": {"eos_token": "<|im_end|>"}}),
    "generation_config.json": ({}, {"generation_config.json": {"eos_token_id": [2, 0]}}),
    "the configuration before the others": (
        {"eos_token": "<|im_end|>"},
        {"generation_config.json": {"eos_token_id": 0}, "special_tokens_map.json": {"eos_token": "<|endoftext|>"}},
    ),
    "the separator of what has no end": ({"sep_token": "<|im_end|>"}, {}),
}


@pytest.mark.parametrize("way", ENDS)
def test_the_end_of_text_is_found_wherever_it_is_named(way: str, tmp_path: Path) -> None:
    config, files = ENDS[way]
    folder = directory(tmp_path / "a", byte_level(), **config)
    for name, tree in files.items():
        (folder / name).write_text(json.dumps(tree))
    assert opened(folder).eot == 2
    assert opened(folder / "tokenizer.json").eot == 2  # what lies beside a file is read with it
    assert opened(folder, eot="<|endoftext|>").eot == 0


def test_a_directory_that_names_no_end_of_text_asks_for_one(tmp_path: Path) -> None:
    folder = directory(tmp_path / "a", byte_level())
    with pytest.raises(DataError, match=r"names no token that ends a text; set tokenizer.eot: .*<\|im_end\|>"):
        opened(folder)
    with pytest.raises(DataError, match=r"no special token 'the'"):
        opened(folder, eot="the")


TEMPLATE = hf.processors.TemplateProcessing
ROBERTA = hf.processors.RobertaProcessing(("<|im_end|>", 2), ("<|im_start|>", 1))
RULES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "none": (None, ()),
    "byte level": (hf.processors.ByteLevel(), ()),
    "a template": (TEMPLATE(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]), (1,)),
    "one that ends, too": (TEMPLATE(single="$A <|im_start|>", special_tokens=[("<|im_start|>", 1)]), ()),
    "in a sequence": (hf.processors.Sequence([hf.processors.ByteLevel(), ROBERTA]), (1,)),
    "the end of a text": (TEMPLATE(single="<|im_end|> $A", special_tokens=[("<|im_end|>", 2)]), ()),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_file_says_what_begins_a_text(rule: str, tmp_path: Path) -> None:
    """A text that would begin with the end of another is as our own streams are: nothing is written twice."""
    tokenizer = byte_level()
    if (processor := RULES[rule][0]) is not None:
        tokenizer.post_processor = processor
    folder = directory(tmp_path / "a", tokenizer, eos_token="<|im_end|>", add_bos_token=True, bos_token="<think>")
    assert opened(folder).starts == RULES[rule][1]


def test_special_tokens_in_a_text_are_text_and_added_ones_are_tokens(tmp_path: Path) -> None:
    tokenizer = opened(kind("byte level", tmp_path / "a"))
    text = "<|im_start|>user <think> the<|endoftext|>"
    ids = tokenizer.encode(text)
    assert not {0, 1, 2} & set(ids.tolist())
    assert tokenizer._tokenizer.token_to_id("<think>") in ids
    assert tokenizer.decode(ids.tolist()) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
    assert tokenizer.remarks == []


def test_the_configuration_adds_tokens(tmp_path: Path) -> None:
    size = byte_level().get_vocab_size()
    added = {str(size): {"content": "<a>", "special": False}, str(size + 1): {"content": "<b>", "special": True}}
    named = {"eos_token": "<b>", "pad_token": "<pad>", "additional_special_tokens": ["<more>"]}
    tokenizer = opened(directory(tmp_path / "a", byte_level(), added_tokens_decoder=added, **named))
    assert tokenizer.eot == size + 1
    assert tokenizer.vocab_size == size + 4
    assert tokenizer.encode("<a>").tolist() == [size]
    assert len(tokenizer.encode("<more>")) > 1
    moved = {str(size + 7): {"content": "<a>"}}
    with pytest.raises(DataError, match=f"gives '<a>' the id {size + 7}, tokenizer.json gives it {size}"):
        opened(directory(tmp_path / "b", byte_level(), added_tokens_decoder=moved, **named))


TEMPLATES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "in the configuration": ({"chat_template": "T"}, {}),
    "one of several": (
        {"chat_template": [{"name": "tool_use", "template": "U"}, {"name": "default", "template": "T"}]},
        {},
    ),
    "a file": ({}, {"chat_template.jinja": "T"}),
    "a file before the configuration": ({"chat_template": "U"}, {"chat_template.jinja": "T"}),
    "a JSON file": ({}, {"chat_template.json": json.dumps({"chat_template": "T"})}),
}


@pytest.mark.parametrize("way", TEMPLATES)
def test_a_chat_template_is_found(way: str, tmp_path: Path) -> None:
    config, files = TEMPLATES[way]
    folder = directory(tmp_path / "a", byte_level(), eos_token="<|im_end|>", **config)
    for name, text in files.items():
        (folder / name).write_text(text)
    assert opened(folder).chat_template == "T"


def test_a_vocabulary_of_another_size_than_the_models_is_said(tmp_path: Path) -> None:
    folder = kind("byte level", tmp_path / "a")
    own = opened(folder)
    padded = opened(folder, vocab_size=own.vocab_size + 20)
    assert padded.vocab_size == own.vocab_size + 20 == len(padded.byte_lengths)
    assert padded.remarks == [f"the model knows {own.vocab_size + 20} ids, 20 more than the tokenizer"]
    assert padded.decode([own.vocab_size + 3]) == ""
    assert np.array_equal(padded.encode("the <think>"), own.encode("the <think>"))
    small = opened(folder, vocab_size=own.vocab_size - 1)  # without <think>
    assert small.remarks == [
        f"the tokenizer has {own.vocab_size} ids, 1 more than the model: text with one of those is refused"
    ]
    assert small.decode(small.encode("the").tolist()) == "the"
    with pytest.raises(DataError, match=r"'<think>' in a text that begins 'a <think>' is beyond them"):
        small.encode("a <think>")
    with pytest.raises(DataError, match="ends a text with id 274"):
        opened(directory(tmp_path / "b", hf.Tokenizer.from_str(unigram().to_str()), eos_token="</s>"), vocab_size=200)


def test_what_is_kept_of_it_needs_no_original(tmp_path: Path) -> None:
    folder = kind("unigram", tmp_path / "a", chat_template="T", auto_map={"AutoTokenizer": "code.Evil"})
    part = PretrainedPart(path=str(folder))
    before = part.build(iter(()))
    kept = tmp_path / "kept"
    kept.mkdir()
    before.save(kept / "tokenizer.json")
    folder.rename(tmp_path / "gone")
    after = part.load(kept / "tokenizer.json")
    assert (after.eot, after.starts, after.chat_template) == (before.eot, before.starts, "T")
    assert "auto_map" not in (kept / "tokenizer_config.json").read_text()
    assert np.array_equal(after.encode("the cat"), before.encode("the cat"))


def test_whatever_lies_beside_it_is_in_its_digest(tmp_path: Path) -> None:
    folder = kind("byte level", tmp_path / "a")
    part, seen = PretrainedPart(path=str(folder)), set()
    for name, text in {"": "", "chat_template.jinja": "T", "special_tokens_map.json": '{"bos_token": "<s>"}'}.items():
        if name:
            (folder / name).write_text(text)
        seen.add(part.inputs())
    assert len(seen) == 3


def test_what_is_no_tokenizer_is_said(tmp_path: Path) -> None:
    for use in (lambda part: part.inputs(), lambda part: part.vocabulary, lambda part: part.build(iter(()))):
        with pytest.raises(DataError, match=r"holds no tokenizer.json and no tokenizer.model; transformers writes one"):
            use(PretrainedPart(path=str(tmp_path)))
        with pytest.raises(DataError, match=r"missing.json: cannot be read"):
            use(PretrainedPart(path=str(tmp_path / "missing.json")))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        opened(tmp_path)
    kind("byte level", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(DataError, match=r"tokenizer_config.json: does not hold what it should"):
        opened(tmp_path)


def test_a_sentencepiece_model_says_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UsageError, match=r"packages sentencepiece and protobuf; pip install 'isoflop\[hf\]'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [("byte level", ""), ("unigram", ""), ("word piece", "may alter text (BertNormalizer); drops blanks (BertPre")],
)
def test_what_makes_byte_lengths_estimates_is_said(name: str, said: str, tmp_path: Path) -> None:
    tokenizer = opened(kind(name, tmp_path / "a"))
    assert said in tokenizer.inexact
    assert bool(said) == bool(tokenizer.inexact) == bool(tokenizer.remarks)
