"""Tokenizers beside those of others: the file of a run is one that they read, their directories mean the same to us."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core.contracts import TOKENIZER
from isoflop.core.recipe import Recipe
from isoflop.data.tokenizers.pretrained import PretrainedPart
from isoflop.train.restore import trained
from isoflop.train.run import train
from tokenizer_toys import CHATML, GENERATION, INSTRUCT, KINDS, kind

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # theirs, of each other
TEXTS = (
    "A plain sentence, with 12 numbers and two  spaces.",
    "Übergröße; naïve café\n\tindented\r\n",
    "日本語 mixed with English 🙂",
    " leading and trailing ",
)


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_reads_our_tokenizer_and_gives_the_same_ids(
    text: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    run = train(Recipe.load(tiny('tokenizer={name="bpe", vocab_size=300}', "budget.steps=1")), tmp_path)
    ours = trained(run).tokenizer
    assert ours is not None
    found = run.checkpoint()
    assert found is not None
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(found[1] / TOKENIZER))
    ids = ours.encode(text).tolist()
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text == ours.decode(ids)


SAID = (
    *TEXTS,
    "The CAT sat on the mat, the dogs did not!",
    "<think>added</think> tokens and <|im_start|>",
    "tab\tand\u00a0blank \ufb01 \U0001f642 e\u0301",
)


@pytest.mark.parametrize("name", KINDS)
def test_a_directory_means_to_us_what_it_means_to_transformers(name: str, tmp_path: Path) -> None:
    folder = kind(name, tmp_path / "a")
    ours = PretrainedPart(path=str(folder)).build(iter(()))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.special_tokens["eos_token" if name != "word piece" else "sep_token"] == theirs.decode([ours.eot])
    theirs.split_special_tokens = theirs._tokenizer.encode_special_tokens = True  # in a user's text they are text
    for text in SAID:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text).tolist() == ids, text
        whole = theirs(text)["input_ids"]
        assert whole[: len(ours.starts) + len(ids)] == [*ours.starts, *ids]


@pytest.mark.parametrize("rules", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}])
def test_what_we_keep_of_a_tokenizer_means_the_same_to_transformers(rules: dict[str, bool], tmp_path: Path) -> None:
    folder = kind("unigram", tmp_path / "a", **rules)
    ours = PretrainedPart(path=str(folder)).build(iter(()))
    kept = tmp_path / "kept"
    kept.mkdir()
    ours.save(kept / TOKENIZER)
    before, after = (transformers.AutoTokenizer.from_pretrained(at) for at in (folder, kept))
    for text in SAID:
        assert before(text)["input_ids"] == after(text)["input_ids"]
    assert (before.eos_token, before.bos_token) == (after.eos_token, after.bos_token)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("options", [{}, {"byte_fallback": True}, {"add_dummy_prefix": False}])
def test_a_sentencepiece_model_gives_the_ids_of_its_own_library(
    model_type: str, options: dict[str, bool], tmp_path: Path
) -> None:
    library = pytest.importorskip("sentencepiece", reason="needs the extra hf")
    (tmp_path / "text.txt").write_text("\n".join(f"{text} {i}" for i in range(60) for text in SAID[:6]))
    library.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=420,
        model_type=model_type,
        user_defined_symbols=["<extra>"],
        hard_vocab_limit=False,
        minloglevel=9,
        **options,
    )
    theirs = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = PretrainedPart(path=str(tmp_path)).build(iter(()))
    assert ours.vocab_size == theirs.vocab_size()
    assert ours.eot == theirs.eos_id()
    for text in (*SAID, "a<extra>", "unknown: \u4e2d\u6587\u5b57"):
        assert ours.encode(text).tolist() == theirs.encode(text), text


CALLS = [{"type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": ["é"]}}}]
CHATS: dict[str, list[dict[str, Any]]] = {
    "one turn": [{"role": "user", "content": "the cat "}, {"role": "assistant", "content": " sat\n"}],
    "thoughts and tools": [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nbecause"},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": "", "tool_calls": CALLS},
    ],
    "several turns": [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "because <think>it</think> is"},
        {"role": "user", "content": "café \U0001f642"},
        {"role": "assistant", "content": ""},
    ],
}
TEMPLATES = {
    "chatml": CHATML,
    "generation": GENERATION,
    "instruct": INSTRUCT,
    "headers": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|im_start|>' + m['role'] + '<|im_end|>\n\n' + m['content'] | trim }}"
        "<|endoftext|>{% endfor %}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant<|im_end|>\n\n' }}{%- endif -%}"
    ),
    "helpers": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{{ ns.n ~ ': ' }}{{ m | tojson(indent=2) }}{{ m.content.split('</think>')[-1] }}\n"
        "  {% endfor %}{{ tools | tojson if tools else 'no tools' }}{{ '%05d' % 7 }}{{ [1, 2] | join('-') }}"
        "{{ strftime_now('%Y') }}"
    ),
    "thoughts": (
        "{%- set ns = namespace(asked=true, last=messages|length - 1) %}{%- for m in messages[::-1] %}"
        "{%- set at = (messages|length - 1) - loop.index0 %}{%- if ns.asked and m.role == 'user' and "
        "m.content is string "
        "and not m.content.startswith('<got>') %}{%- set ns.asked = false %}{%- set ns.last = at %}{%- endif %}"
        "{%- endfor %}{%- for m in messages %}{%- set said = m.content if m.content is string else '' %}"
        "{{- '<|im_start|>' ~ m.role + '\n' }}{%- if m.role == 'assistant' and loop.index0 > ns.last %}"
        "{{- '<think>\n' + said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}{%- endif %}"
        "{%- for call in m.tool_calls or [] %}{%- set call = call.function if call.function is defined else call %}"
        "{{- call.name ~ ': ' ~ (call.arguments if call.arguments is string else call.arguments | tojson) }}"
        "{%- endfor %}{{- said.split('</think>')[-1] + '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}"
        "{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
    ),
    "parts": (
        "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
        "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
        "{%- for m in rest -%}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
        "{{ raise_exception('roles must alternate') }}{%- endif -%}"
        "{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
        "{{ '<|im_start|>' + role + '\n' + (first if loop.first else '') }}{%- if m['content'] is string -%}"
        "{{ m['content'] | trim }}{%- elif m['content'] is iterable -%}{%- for item in m['content'] -%}"
        "{%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}"
        "{{ '<|im_end|>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>model\n' }}{%- endif -%}"
    ),
    "dated": (
        "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
        "{%- endif %}{%- if not tools is defined %}{%- set tools = none %}{%- endif %}{{- date_string }}"
        "{%- if tools is not none and not tools_aside | default(false) %}{%- for t in tools %}{{- t | "
        "tojson(indent=4) }}"
        "{{- '\n\n' }}{%- for key, value in t.function.items() if value is mapping %}{{- key ~ value.keys() | list }}"
        "{%- endfor %}{%- endfor %}{%- endif %}{%- for m in messages %}{%- if not (m.role == 'ipython' or m.role == "
        "'tool' or 'tool_calls' in m) %}{{- '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}"
        "{%- elif m.tool_calls | length == 1 %}{{- m.tool_calls[0].function.arguments | tojson }}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{%- endif %}"
    ),
    "tools before the last": (
        "{%- set turns = messages | selectattr('role', 'equalto', 'user') | list %}{{- bos_token }}"
        "{%- macro named(m) -%}{{ m.role[:1] | upper }}{%- endmacro %}{%- for m in messages %}{%- if m.role "
        "== 'user' %}"
        "{%- if tools is not none and m == turns[-1] %}{{- '[TOOLS]' + tools | "
        "map(attribute='function.name') | join(',') "
        "}}{%- endif %}{{- '[INST]' ~ named(m) ~ m.content + '[/INST]' }}{%- else %}{{- ' ' + m.content | "
        "replace('\n', "
        "' ') + eos_token }}{%- if loop.previtem is defined and loop.previtem.role != 'user' %}{% break %}{%- endif %}"
        "{%- endif %}{%- endfor %}"
    ),
}
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": False, "tools_aside": True, "date_string": "today"})
"""What a caller gives templates by name."""


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_are_written_as_transformers_writes_them(template: str, chat: str, tmp_path: Path) -> None:
    folder = kind("byte level", tmp_path / "a", chat_template=TEMPLATES[template], bos_token="<|endoftext|>")
    ours = PretrainedPart(path=str(folder)).build(iter(())).chat_encoder()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    some = [{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": ["é<>"]}}}]
    for tools, prompt, options in itertools.product((None, some), (False, True), OPTIONS):
        said = ours.template.render(CHATS[chat], tools, add_generation_prompt=prompt, options=options)
        given = {"tools": tools, "add_generation_prompt": prompt, **options}
        assert said == theirs.apply_chat_template(CHATS[chat], tokenize=False, **given)
        if prompt:
            ids = theirs.apply_chat_template(CHATS[chat], **given)["input_ids"]
            assert ours.prompt(CHATS[chat], tools, options=options) == ids


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", KINDS)
def test_answers_are_masked_as_transformers_masks_them(name: str, chat: str, tmp_path: Path) -> None:
    folder = kind(name, tmp_path / "a", chat_template=GENERATION)
    ours = PretrainedPart(path=str(folder)).build(iter(())).chat_encoder().encode(CHATS[chat])
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        CHATS[chat], return_dict=True, return_assistant_tokens_mask=True
    )
    assert ours.ids.tolist() == theirs["input_ids"]
    masks = np.array(theirs["assistant_masks"], bool)
    if name == "byte level":
        assert ours.answered.tolist() == masks.tolist()
    assert not (masks & ~ours.answered).any()  # theirs lacks the later bytes of a character, and what follows a blank
