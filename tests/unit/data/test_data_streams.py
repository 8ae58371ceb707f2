"""Documents as tokens and back, whatever the tokenizer puts before them or does to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.cli.main import invoke
from isoflop.core.context import Context
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.core.slots import resolve
from isoflop.data.corpus import Corpus
from isoflop.data.loader import heldout_of
from isoflop.data.tokenizing import as_prompt, beginning
from tokenizer_toys import KINDS, directory, kind, llama

PLAIN = [
    f"the cat {number} sat on mat {number * 7}, the  dog {word}" for number in range(30) for word in ("ate", "sat")
]
WITH_PROMPTS = [(f"q{number}: the cat\n", f" {word} the mat") for number in range(40) for word in ("on", "Caf\u00e9")]
TOKENIZERS = ["bytes", *KINDS, "llama"]


def part_of(name: str, folder: Path) -> Any:
    if name == "bytes":
        return get("tokenizer", "bytes")()
    at = directory(folder / "tokenizer", llama(), bos_token="<s>", eos_token="</s>") if name == "llama" else None
    return get("tokenizer", "pretrained")(path=str(at or kind(name, folder / "tokenizer")))  # type: ignore[call-arg]


def corpus_of(name: str, prompts: bool, folder: Path, **fields: Any) -> tuple[Corpus, Context]:
    records = [{"prompt": p, "completion": c} for p, c in WITH_PROMPTS] if prompts else [{"text": t} for t in PLAIN]
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    own = {"prompt_key": "prompt"} if prompts else {}
    tree = {"paths": str(folder / "a.jsonl"), "deduplicate": "none", "heldout_share": 0.2, "heldout_bytes": 0}
    part = part_of(name, folder)
    ctx = Context(Rng(0), folder / "cache", part, part.vocabulary, batch=2, length=16)
    source: Any = resolve("source", {"name": "jsonl", **tree, **own, **fields})
    return source.build(ctx), ctx


@pytest.fixture(scope="module", params=[(name, prompts) for name in TOKENIZERS for prompts in (False, True)], ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bool, Corpus, Context]:
    name, prompts = request.param
    return name, prompts, *corpus_of(name, prompts, tmp_path_factory.mktemp("made"))


def known(prompts: bool) -> set[tuple[str, str]]:
    return set(WITH_PROMPTS) if prompts else {("", text) for text in PLAIN}


def test_the_texts_come_back_and_are_counted_in_their_own_bytes(made: Any, tmp_path: Path) -> None:
    _, prompts, corpus, _ = made
    train, held = list(corpus.stream("train").pairs()), list(corpus.stream("heldout", "text").pairs())
    assert sorted([*train, *held]) == sorted(known(prompts))
    plain, _ = corpus_of("bytes", prompts, tmp_path)
    assert corpus.heldout_digest() == plain.heldout_digest()
    assert list(corpus.heldout_text()) == list(plain.heldout_text())
    ours, theirs = corpus.describe(), plain.describe()
    for side in ("train", "heldout"):
        assert ours[side]["text"]["text_bytes"] == theirs[side]["text"]["text_bytes"]
    assert ours["evaluated"]["text"]["text_bytes"] == corpus.heldout()["text"].text_bytes
    assert corpus.heldout()["text"].text_bytes == plain.heldout()["text"].text_bytes


def test_each_document_is_its_beginning_its_prompt_its_text_and_its_end(made: Any) -> None:
    name, prompts, corpus, _ = made
    tokenizer, stream = corpus.tokenizer, corpus.stream("train")
    before = list(beginning(tokenizer))
    assert bool(before) == (stream.own_starts is not None) == (name not in ("bytes", "byte level"))
    for (prompt, text), start, stop in zip(stream.pairs(), stream.starts, stream.stops, strict=True):
        after = getattr(tokenizer, "encode_after", None) if prompt else None
        ids = after([text])[0] if after else tokenizer.encode(text)
        first = [] if before else [tokenizer.eot]
        if prompt:
            assert as_prompt(tokenizer, prompt) == [*first, *before, *tokenizer.encode(prompt)]
        expected = [*first, *before, *(tokenizer.encode(prompt) if prompt else ()), *ids, tokenizer.eot]
        assert stream.tokens[start : stop + 1].tolist() == expected
        if prompts:
            counts = stream.counts[start + 1 : stop + 1]
            assert counts.tolist() == [place >= len(expected) - len(ids) - 1 for place in range(1, len(expected))]
        else:
            assert stream.counts is None


def test_held_out_documents_do_not_predict_what_begins_the_next(made: Any) -> None:
    _, _, corpus, _ = made
    held, stream = corpus.heldout()["text"], corpus.stream("heldout", "text")
    amount = corpus.describe()["heldout"]["text"]
    assert held.predicted == amount["tokens"]
    assert held.predicted == sum(batch.units for batch in held.windows(16, 2))
    starts = set(beginning(corpus.tokenizer))
    for batch in held.windows(16, 2):
        counted = batch.targets if batch.mask is None else batch.targets[batch.mask]
        assert not starts & set(counted.flatten().tolist())
    assert held.documents == len(stream.starts)


def test_a_part_of_the_held_out_text_is_whole_documents(made: Any, tmp_path: Path) -> None:
    name, prompts, _, _ = made
    some, _ = corpus_of(name, prompts, tmp_path, heldout_bytes=100)
    texts = list(some.heldout_text())
    assert 0 < sum(len(text.encode()) for text in texts) == some.heldout()["text"].text_bytes <= 100
    ends = int((some.heldout()["text"].tokens == some.tokenizer.eot).sum())
    assert ends - (not beginning(some.tokenizer)) == len(texts) == some.heldout()["text"].documents


def test_windows_number_their_documents(made: Any) -> None:
    *_, corpus, ctx = made
    stream, apart = corpus.stream("train"), corpus.batches(ctx.having(isolate_documents=True))
    order = ctx.rng("data").at(0).permutation(apart.windows)
    for number in range(apart.windows // 2):
        batch = next(apart)
        for row, window in enumerate(order[2 * number : 2 * number + 2]):
            of = [int((stream.starts <= place).sum()) for place in range(window * 16, window * 16 + 16)]
            found = batch.columns["documents"][row].tolist()
            assert [a - found[0] for a in found] == [a - of[0] for a in of]


def test_a_text_that_does_not_come_back_is_said(made: Any) -> None:
    name, _, corpus, _ = made
    altered = sum(side["text"].get("altered", 0) for side in (corpus.describe()["train"], corpus.describe()["heldout"]))
    said = any("stand for another text than theirs" in remark for remark in corpus.remarks)
    assert bool(altered) == said == (name == "word piece")
    assert corpus.describe()["remarks"] == (corpus.remarks or None)


def test_a_completion_goes_on_where_its_prompt_ends(tmp_path: Path) -> None:
    """No blank is put between them, though one is put before every text."""
    corpus, _ = corpus_of("llama", True, tmp_path)
    stream, tokenizer = corpus.stream("train"), corpus.tokenizer
    for (prompt, text), start, stop in zip(stream.pairs(), stream.starts, stream.stops, strict=True):
        assert tokenizer.decode(stream.tokens[start : stop + 1].tolist()) == prompt + text
    assert not any("another text" in remark for remark in corpus.remarks)


def test_evaluation_and_training_say_what_is_estimated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus_of("word piece", False, tmp_path)
    recipe = tmp_path / "a.toml"
    recipe.write_text(
        f"""source = {{ name = "jsonl", paths = "{tmp_path / "a.jsonl"}", deduplicate = "none", heldout_share = 0.2 }}
tokenizer = {{ name = "pretrained", path = "{tmp_path / "tokenizer"}" }}
model = {{ name = "transformer", d_model = 8, layers = 1, mixer = {{ name = "attention", heads = 1 }} }}
train = {{ length = 8, batch = 2 }}
budget = {{ steps = 2 }}
"""
    )
    for verb in (["train", str(recipe), "--name", "a"], ["eval", "a"]):
        assert invoke([*verb, "--root", str(tmp_path / "runs")]) == 0
        said = capsys.readouterr().err
        assert "documents stand for another text than theirs" in said
        assert "the text bytes of training are estimates: the tokenizer may alter text (BertNormalizer)" in said
    (tmp_path / "a.txt").write_text("The Cat")
    assert invoke(["eval", "a", "--text", str(tmp_path / "a.txt"), "--root", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().err
    assert "a.txt: its tokens stand for another text" in said
    assert "the text bytes of training are estimates" in said


@pytest.mark.parametrize("name", ["byte level", "llama"])
def test_special_tokens_that_are_written_in_a_text_may_be_tokens(name: str, tmp_path: Path) -> None:
    """As in conversations that were rendered before: nothing is begun or ended twice."""
    start, end = ("<|im_start|>", "<|endoftext|>") if name == "byte level" else ("<s>", "</s>")
    texts = [f"{start}the {i} cat{end}\n{start}sat on {i * 7}{end if i % 2 else ''}" for i in range(40)]
    part = part_of(name, tmp_path).model_copy(update={"special_tokens": "tokens"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ctx = Context(Rng(0), tmp_path / "cache", part, part.vocabulary, batch=2, length=16)
    source = {"name": "jsonl", "paths": str(tmp_path / "a.jsonl"), "deduplicate": "none", "heldout_share": 0.2}
    corpus: Corpus = resolve("source", source).build(ctx)  # type: ignore[attr-defined]
    stream, tokenizer = corpus.stream("train"), corpus.tokenizer
    before = list(beginning(tokenizer))
    assert {text for _, text in stream.pairs()} <= set(texts)
    assert len(before) == 1
    for (_, text), first, last in zip(stream.pairs(), stream.starts, stream.stops, strict=True):
        ids = tokenizer.encode(text).tolist()
        assert tokenizer._tokenizer.token_to_id(end) in ids
        ids = ids if ids[0] == before[0] else [*before, *ids]
        assert stream.tokens[first : last + 1].tolist() == (ids if ids[-1] == tokenizer.eot else [*ids, tokenizer.eot])
        assert as_prompt(tokenizer, text) == ids
    assert sum(len(text.encode()) for text in corpus.heldout_text()) == corpus.heldout()["text"].text_bytes
    assert name == "llama" or not any("another text" in remark for remark in corpus.remarks)


def test_any_text_is_measured_as_the_corpus_would_be(made: Any) -> None:
    corpus = made[2]
    tokenizer, text = corpus.tokenizer, PLAIN[3]
    held = heldout_of(text, tokenizer)
    before = beginning(tokenizer) or (tokenizer.eot,)
    assert held.tokens.tolist() == [*before, *tokenizer.encode(text), tokenizer.eot]
    assert held.text_bytes == len(text.encode())
    assert held.predicted == len(held.tokens) - len(before)


def test_word_marks_are_exact_for_whole_documents(tmp_path: Path) -> None:
    corpus, _ = corpus_of("llama", False, tmp_path)
    held = corpus.heldout()["text"]
    estimate = int(corpus.tokenizer.byte_lengths[np.asarray(held.tokens)].sum())
    assert estimate == held.text_bytes + held.documents  # a blank before each, which is not of the text
