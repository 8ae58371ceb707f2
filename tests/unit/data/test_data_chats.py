"""Conversations: how a template writes them, what of them is predicted, and what no template may do."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.cli.main import invoke
from isoflop.core.context import Context
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.core.slots import resolve
from isoflop.data import chat_template
from isoflop.data.chat_template import MARKS, ChatTemplate
from isoflop.data.corpus import Corpus
from isoflop.data.tokenizers.pretrained import PretrainedPart, PretrainedTokenizer
from tokenizer_toys import CHATML, GENERATION, INSTRUCT, KINDS, byte_level, directory, kind, llama

Chat = list[dict[str, Any]]


def chat_of(*contents: str) -> Chat:
    roles = ["user", "assistant"]
    return [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]


def tokenizer_of(folder: Path, template: str = CHATML, name: str = "byte level") -> PretrainedTokenizer:
    if name == "llama":
        at = directory(folder, llama(), bos_token="<s>", eos_token="</s>", chat_template=template)
    else:
        at = kind(name, folder, chat_template=template)
    return PretrainedPart(path=str(at)).build(iter(()))


def test_a_conversation_is_written_with_the_templates_own_special_tokens(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path / "a")
    found = tokenizer.chat_encoder().encode(chat_of("the cat", "sat", "the dog", "ate"))
    expected, answered = list[int](), list[bool]()
    for role, content in (("user", "the cat"), ("assistant", "sat"), ("user", "the dog"), ("assistant", "ate")):
        head, body = tokenizer.encode(f"{role}\n").tolist(), tokenizer.encode(content).tolist()
        tail = tokenizer.encode("\n").tolist()
        expected += [1, *head, *body, 2, *tail]
        answered += [False] * (1 + len(head)) + [role == "assistant"] * (len(body) + 1 + len(tail))
    assert found.ids.tolist() == expected
    assert found.answered.tolist() == answered
    assert found.answers == ("sat\n", "ate\n")
    prompt = tokenizer.chat_encoder().prompt(chat_of("the cat"))
    assert prompt == expected[: len(prompt)]
    assert not any(answered[: len(prompt)])
    assert answered[len(prompt)]


@pytest.mark.parametrize("template", [GENERATION, GENERATION.replace("m.content", "m.content | trim")])
def test_generation_blocks_say_what_is_the_assistants(template: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path / "a", template)
    found = tokenizer.chat_encoder().encode(chat_of("the cat", "sat", "the dog", "ate"))
    assert found.answers == ("sat", "ate")
    text = tokenizer._tokenizer.decode(found.ids[found.answered].tolist(), skip_special_tokens=False)
    assert text == "sat<|im_end|>ate<|im_end|>"


@pytest.mark.parametrize("name", ["byte level", "unigram", "llama"])
def test_special_tokens_that_somebody_writes_are_text(name: str, tmp_path: Path) -> None:
    end = {"byte level": "<|im_end|>", "unigram": "</s>", "llama": "</s>"}[name]
    template = CHATML.replace("<|im_end|>", end).replace("<|im_start|>", "")
    tokenizer = tokenizer_of(tmp_path / "a", template, name)
    encoder, special = tokenizer.chat_encoder(), tokenizer._tokenizer.token_to_id(end)
    plain = encoder.encode(chat_of("the cat", "sat"))
    assert (plain.ids == special).sum() == 2
    spoken = encoder.encode(chat_of(f"the{end}{end} cat", f"sat {end}"))
    assert (spoken.ids == special).sum() == 2
    assert spoken.answers == (f"sat {end}\n",)
    assert spoken.prompt == f"user\nthe{end}{end} cat{end}\nassistant\n"
    if name == "byte level":
        text = tokenizer._tokenizer.decode(spoken.ids.tolist(), skip_special_tokens=False)
        assert text == spoken.prompt + f"sat {end}{end}\n"
        assert tokenizer.decode(spoken.ids[spoken.answered].tolist()) == spoken.answers[0]


@pytest.mark.parametrize("name", [*KINDS, "llama"])
def test_a_conversation_in_parts_is_the_conversation_as_a_whole(name: str, tmp_path: Path) -> None:
    """What somebody's special tokens force upon the encoder changes nothing where there are none."""
    tokenizer = tokenizer_of(tmp_path / "a", CHATML, name)
    encoder = tokenizer.chat_encoder()
    for messages in (chat_of("the cat ", " sat"), chat_of("a\n", "b", " c", "caf\u00e9"), chat_of("", "x")):
        text = encoder.template.render(messages)
        whole, places = encoder._ids(text, frozenset())
        parts, others = encoder._ids(text, frozenset({10**6}))
        assert parts.tolist() == whole.tolist()
        assert others.tolist() == places.tolist()


def test_templates_see_what_transformers_gives_them() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ strftime_now('%Y') }}{% set ns = namespace(n=0) %}{% for m in messages %}{% if loop.first %}"
        "{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ tools | tojson }}"
        "{{ dict(a=1)['a'] }}{{ missing }}{% if tools is none %}none{% endif %}",
        {"bos_token": "<s>"},
        "file",
    )
    tools = [{"name": "<é>", "b": 1, "a": 2.5}]
    said = template.render(chat_of("a", "b"), tools, now=datetime(2001, 2, 3))
    assert said == '<s>20011[{"name": "<é>", "b": 1, "a": 2.5}]1'
    assert template.render(chat_of("a")).endswith("0null1none")


FORBIDDEN: dict[str, tuple[str, str]] = {
    "endless loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "turns of loops",
    ),
    "loops that call themselves": (
        "{% for i in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
        "turns of loops",
    ),
    "macros that call themselves twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "turns of loops",
    ),
    "endless depth": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"),
    "a product": ("{{ 'a' * 10**9 }}", "1,000,000,000, more than"),
    "a power": ("{{ 10 ** 1000000000 }}", "more than"),
    "doubling by a sum": (
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "builds",
    ),
    "doubling by a join": (
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "builds",
    ),
    "a wide filter": ("{{ 'a' | center(10000000000) }}", "builds an argument"),
    "a wide method": ("{{ 'a'.ljust(10000000000) }}", "builds an argument"),
    "a wide format": ("{{ '{:>9999999999}'.format('a') }}", "builds a width"),
    "a wide percentage": ("{{ '%9999999999s' % 'a' }}", "builds a width"),
    "replacing": ("{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}", "builds"),
    "much output": ("{% for i in range(90000) %}{{ 'a' * 9999 }}{% endfor %}", "builds"),
    "Python's own": ("{{ messages.__class__.__mro__ }}", "unsafe"),
    "changing": ("{{ messages.append(1) }}", "unsafe"),
    "other files": ("{% include '/etc/passwd' %}", "no loader"),
    "its own refusal": ("{{ raise_exception('no system role here') }}", "no system role here"),
    "a missing filter": ("{{ messages | shell }}", "No filter named"),
    "torn syntax": ("{% for", "line 1: cannot be used"),
}


@pytest.mark.parametrize("way", FORBIDDEN)
def test_what_a_template_may_not_do_is_one_error(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "STEPS", 3000)
    monkeypatch.setattr(chat_template, "CHARACTERS", 1 << 21)
    source, said = FORBIDDEN[way]
    with pytest.raises(DataError, match=said) as caught:
        ChatTemplate(source, {}, "DIR").render(chat_of("a"))
    assert str(caught.value).startswith("DIR")


def test_a_template_has_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 0.1)
    loop = "{% for i in range(99) %}{{ range(99999) | list | length }}{% endfor %}"
    with pytest.raises(DataError, match=r"runs for more than 0.1 seconds"):
        ChatTemplate(loop, {}, "DIR").render(chat_of("a"))


THOUGHTFUL = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% set said = m.content or '' %}{% if m.role == 'assistant' %}"
    "{% set parts = said.split('</think>') %}{{ '[assistant]' }}{% if loop.index0 > ns.last %}"
    "{{ '<think>' + (parts[0].split('<think>')[-1] if parts | length > 1 else '') + '</think>' }}{% endif %}"
    "{{ parts[-1] | trim }}{% for call in m.tool_calls or [] %}{{ '{' + call.name + '}' }}{% endfor %}{{ '[end]' }}"
    "{% else %}{{ '[' + m.role + ']' + said + '[end]' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% if opened %}{{ '<think>' }}{% endif %}{% endif %}"
)
"""As Qwen 3's: what was thought is written of what follows the last question alone; ``opened``: as DeepSeek's R1."""
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'user' %}[Q]{{ m.content }}[A]{% else %}"
    "{{ m.content.split('</think>')[-1] }}{% if loop.last %}[end]{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<think>{% endif %}"
)
"""What ends an answer is written of the last one alone, and its prompt begins what no answer holds."""
ENDED = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{{ '<|assistant|>\n' if add_generation_prompt else '<|eos|>' }}"
)
"""As Phi 3's: the text has an end beside that of its last message."""
TURNS = chat_of("one?", "<think>why</think> 1 ", "two?", "<think>how</think> 2 ", "three?", "3")


@pytest.mark.parametrize(
    ("template", "options", "answers"),
    [
        (THOUGHTFUL, {}, ["1[end]", "2[end]", "<think></think>3[end]"]),
        (THOUGHTFUL, {"opened": True}, ["1[end]", "2[end]", "</think>3[end]"]),
        (FORGETFUL, {}, [" 1 ", " 2 ", "3[end]"]),
        (ENDED, {}, ["<think>why</think> 1 <|end|>\n", "<think>how</think> 2 <|end|>\n", "3<|end|>\n<|eos|>"]),
        (CHATML, {}, ["<think>why</think> 1 <|im_end|>\n", "<think>how</think> 2 <|im_end|>\n", "3<|im_end|>\n"]),
    ],
)
def test_answers_lie_where_the_whole_conversation_writes_them(
    template: str, options: dict[str, Any], answers: list[str]
) -> None:
    """Also of a template that writes an earlier answer otherwise once more follows."""
    found = ChatTemplate(template, {}, "DIR")
    text, spans = found.answers(TURNS, options=options)
    assert text == found.render(TURNS, options=options)
    assert [text[start:stop] for start, stop in spans] == answers
    for number in (1, 3):
        said, spans = found.answers(TURNS[: number + 1], options=options)
        assert len(spans) == (number + 1) // 2
        assert said[slice(*spans[-1])].endswith(("[end]", "<|im_end|>\n", "<|eos|>"))


def test_answers_that_call_tools_lie_where_they_are_written() -> None:
    chat = [
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}, {"name": "g"}]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "<think>so</think>6"},
        {"role": "user", "content": [{"type": "text", "text": "two?"}]},
        {"role": "assistant", "content": "7"},
    ]
    template = THOUGHTFUL.replace(" + said + ", " + (said if said is string else said[0].text) + ")
    text, spans = ChatTemplate(template, {}, "DIR").answers(chat)
    assert [text[slice(*span)] for span in spans] == ["{f}{g}[end]", "6[end]", "<think></think>7[end]"]


def test_options_reach_the_template_and_no_name_of_its_own(tmp_path: Path) -> None:
    template = ChatTemplate("{{ enable_thinking }}{{ bos_token }}", {"bos_token": "<s>"}, "DIR")
    assert template.render(chat_of("a"), options={"enable_thinking": False}) == "False<s>"
    with pytest.raises(DataError, match="gives the template as an option what it has anyway; leave out messages"):
        template.render(chat_of("a"), options={"messages": []})
    shouting = CHATML.replace("message.content }}", "message.content | upper if loud else message.content }}")
    corpus, _ = corpus_of(tmp_path, [{**each, "chat_template_kwargs": {"loud": True}} for each in records(9)], shouting)
    assert all(text.startswith("SAT") for _, text in corpus.stream("train").pairs())


def test_an_option_may_have_any_name_and_no_endless_depth(tmp_path: Path) -> None:
    template = ChatTemplate("{{ self is defined }}{{ context }}", {}, "DIR")
    assert template.render(chat_of("a"), options={"self": 1, "context": 2, "no name": 3}).endswith("2")
    encoder, deep = tokenizer_of(tmp_path / "a").chat_encoder(), list[Any]()
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(DataError, match="is nested too deeply; flatten"):
        encoder.prompt(chat_of("a"), options={"deep": deep})
    with pytest.raises(DataError, match="is nested too deeply; flatten"):
        encoder.encode([*chat_of("a", "b"), {"role": "user", "content": "c", "more": deep}])


def test_a_template_that_writes_an_answer_nowhere_is_refused() -> None:
    last_only = "{% for m in messages %}{{ m.role }}: {% if loop.last %}{{ m.content }}{% endif %}\n{% endfor %}"
    template = ChatTemplate(last_only, {}, "DIR")
    with pytest.raises(DataError, match=r"message 2 of 4 so that nothing tells where.*generation"):
        template.answers(chat_of("a", "b", "c", "d"))


def write(path: Path, records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def records(count: int = 60) -> list[dict[str, Any]]:
    return [{"messages": chat_of(f"the {i} cat", f"sat {i} on", f"mat {i * 3}?", f"ate it {i}")} for i in range(count)]


def corpus_of(folder: Path, chats: Any = None, template: str = GENERATION, **fields: Any) -> tuple[Corpus, Context]:
    part = PretrainedPart(path=str(kind("byte level", folder / "t", chat_template=template)))
    path = write(folder / "a.jsonl", records() if chats is None else chats)
    tree = {"paths": str(path), "messages_key": "messages", "deduplicate": "none", "heldout_share": 0.2, **fields}
    ctx = Context(Rng(0), folder / "cache", part, part.vocabulary, batch=2, length=16)
    return resolve("source", {"name": "jsonl", **tree}).build(ctx), ctx  # type: ignore[attr-defined]


@pytest.mark.parametrize("template", [GENERATION, CHATML, INSTRUCT])
def test_a_corpus_of_conversations_predicts_answers_and_nothing_else(template: str, tmp_path: Path) -> None:
    corpus, ctx = corpus_of(tmp_path, template=template, heldout_bytes=0)
    stream, tokenizer = corpus.stream("train"), corpus.tokenizer
    encoder, seen = tokenizer.chat_encoder(), 0
    known = {encoder.encode(each["messages"]).prompt: each["messages"] for each in records()}
    for (prompt, text), start, stop in zip(stream.pairs(), stream.starts, stream.stops, strict=True):
        found = encoder.encode(known[prompt])
        ids = stream.tokens[start : stop + 1].tolist()
        ended = ids[: len(found.ids)] == found.ids.tolist() and len(ids) - len(found.ids) <= 1
        assert ended
        assert stream.counts[start : start + len(found.ids)].tolist() == found.answered.tolist()
        assert text == "".join(found.answers)
        assert tokenizer.eot in ids[-3:]
        assert stream.counts[start : stop + 1][ids.index(tokenizer.eot)]
        seen += 1
    amount = corpus.describe()["train"]["text"]
    assert amount["documents"] == seen
    assert amount["tokens"] == int(stream.counts.sum())
    assert amount["tokens"] + amount["prompt_tokens"] == len(stream.tokens)
    assert amount["text_bytes"] == sum(len(text.encode()) for _, text in stream.pairs())
    held = corpus.heldout()["text"]
    assert sum(batch.units for batch in held.windows(16, 2)) == held.predicted
    assert sum(batch.text_bytes for batch in held.windows(16, 2)) == held.text_bytes
    assert next(corpus.batches(ctx)).units < 32


def test_conversations_that_begin_alike_lie_on_one_side(tmp_path: Path) -> None:
    chats = [{"messages": chat_of(f"q {i % 9}", f"a {i}", "more", f"b {i}")} for i in range(90)]
    corpus, _ = corpus_of(tmp_path, chats, heldout_bytes=0)
    sides = [{prompt[:20] for prompt, _ in corpus.stream(*side).pairs()} for side in (("train",), ("heldout", "text"))]
    assert all(sides)
    assert not sides[0] & sides[1]


BAD: dict[str, tuple[Any, str]] = {
    "text": ({"text": "a"}, "has 'text', not 'messages'; drop 'text' from it, or read such records apart"),
    "both": ({"messages": chat_of("a", "b"), "text": "a"}, "has both 'messages' and 'text'"),
    "a pair": ({"prompt": "a", "completion": "b"}, "has 'completion', not 'messages'"),
    "nothing": ({}, "lacks the key 'messages'; set source.messages_key"),
    "no list": ({"messages": "a"}, "holds no list of messages"),
    "an empty list": ({"messages": []}, "holds no list of messages"),
    "no role": ({"messages": [{"content": "a"}]}, "message 1 of 'messages' has no role"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "message 1 of 'messages' has no content"),
    "no answer": ({"messages": chat_of("a")}, "no message of 'messages' has the role 'assistant'"),
    "no tools": ({"messages": chat_of("a", "b"), "tools": ["f"]}, "'tools' holds no list of objects"),
    "no options": ({"messages": chat_of("a", "b"), "chat_template_kwargs": "loud"}, "holds no object; give what"),
    "options that are a list": ({"messages": chat_of("a", "b"), "chat_template_kwargs": []}, "holds no object"),
    "a noncharacter": ({"messages": chat_of("a", f"b{MARKS[2]}")}, "noncharacters"),
}


@pytest.mark.parametrize("form", BAD)
def test_other_records_are_one_error_with_file_and_line(form: str, tmp_path: Path) -> None:
    record, said = BAD[form]
    with pytest.raises(DataError, match=said) as caught:
        corpus_of(tmp_path, [*records(30), record])
    assert str(caught.value).startswith(f"{tmp_path / 'a.jsonl'}:31: ")
    assert not list((tmp_path / "cache" / "corpora").glob("[!.]*")) if (tmp_path / "cache").exists() else True


def test_a_conversation_without_its_key_is_told_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", records(5))
    with pytest.raises(DataError, match=r"a.jsonl:1: lacks the key 'text'; set source.messages_key"):
        list(resolve("source", {"name": "jsonl", "paths": str(path)}).documents())  # type: ignore[attr-defined]


def test_a_recipe_with_conversations_needs_a_template(tmp_path: Path) -> None:
    rest = {"model": "transformer", "budget": {"steps": 1}}
    source = {"name": "jsonl", "paths": "a", "messages_key": "messages"}
    with pytest.raises(RecipeError, match=r"source.messages_key: tokenizer bytes has no chat template; use"):
        Recipe.from_json({"source": source, **rest})
    with pytest.raises(RecipeError, match=r"messages_key and prompt_key are both given"):
        Recipe.from_json({"source": {**source, "prompt_key": "p"}, **rest})
    part = PretrainedPart(path=str(directory(tmp_path / "t", byte_level(), eos_token="<|im_end|>")))
    ctx = Context(Rng(0), tmp_path / "cache", part, part.vocabulary, batch=2, length=16)
    made: Any = resolve("source", {**source, "paths": str(write(tmp_path / "a.jsonl", records(20)))})
    with pytest.raises(DataError, match=r"a.jsonl:\d+: cannot be written as a conversation: .*has no chat template"):
        made.build(ctx)


def test_a_template_that_writes_ids_beyond_the_models_is_refused(tmp_path: Path) -> None:
    part = PretrainedPart(path=str(kind("byte level", tmp_path / "t", chat_template="<think>" + CHATML)))
    small = part.model_copy(update={"vocab_size": part.vocabulary - 1})
    ctx = Context(Rng(0), tmp_path / "cache", small, small.vocabulary, batch=2, length=16)
    source: Any = {"name": "jsonl", "paths": str(write(tmp_path / "a.jsonl", records(20))), "messages_key": "messages"}
    with pytest.raises(DataError, match=r"a.jsonl:\d+: is written with id \d+, and the model knows \d+ ids"):
        resolve("source", source).build(ctx)  # type: ignore[attr-defined]


def test_tools_and_system_messages_reach_the_template(tmp_path: Path) -> None:
    template = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages | tojson }}" + GENERATION
    chats = [
        {
            "messages": [
                {"role": "system", "content": "be kind", "extra": 12345678901234567890},
                *chat_of(f"a {i}", "b"),
            ],
            "tools": [{"name": "f", "arguments": {"z": 1, "a": [1.5, None]}}],
        }
        for i in range(30)
    ]
    corpus, _ = corpus_of(tmp_path, chats, template)
    prompts = [prompt for prompt, _ in corpus.stream("train").pairs()]
    assert all('[{"name": "f", "arguments": {"z": 1, "a": [1.5, null]}}]' in prompt for prompt in prompts)
    assert all('"be kind", "extra": 12345678901234567890' in prompt for prompt in prompts)


def test_a_run_on_conversations_is_trained_evaluated_and_audited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.jsonl", records())
    folder = kind("byte level", tmp_path / "t", chat_template=CHATML)
    (tmp_path / "a.toml").write_text(
        f"""source = {{ name = "jsonl", paths = "{tmp_path / "a.jsonl"}", messages_key = "messages" }}
tokenizer = {{ name = "pretrained", path = "{folder}" }}
model = {{ name = "transformer", d_model = 8, layers = 1, mixer = {{ name = "attention", heads = 1 }} }}
train = {{ length = 16, batch = 4, isolate_documents = true }}
budget = {{ steps = 3 }}
"""
    )
    assert invoke(["train", str(tmp_path / "a.toml"), "--root", str(tmp_path / "runs"), "--name", "a", "--audit"]) == 0
    capsys.readouterr()
    assert invoke(["eval", "a", "--root", str(tmp_path / "runs"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["bits_per_byte"]
    assert np.isfinite(measured["value"])
